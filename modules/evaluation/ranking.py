"""Ranking by code likelihood: the true next step among candidates, and the true order of steps among shuffled ones."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
from torch import Tensor

from modules.common.errors import UserError
from modules.common.progress import track
from modules.encoded.stories import EncodedStories
from modules.evaluation.bound import plan_nats
from modules.evaluation.metrics.statistics import bootstrap_mean
from modules.generation.pipeline import StoryPipeline

CHOICES, NUM_CANDIDATES, NUM_SHUFFLES = 4, 100, 10
RECALL_AT = (1, 5, 10)
TIE = 1e-4  # Nats: equal codes in two rows of a batch differ by rounding alone.


@torch.no_grad()
def rank_next_steps(
    pipeline: StoryPipeline,
    stories: EncodedStories,
    codes: Tensor,
    seed: int = 0,
    num_candidates: int = NUM_CANDIDATES,
    contexts_per_story: int = 1,
    num_shuffles: int = NUM_SHUFFLES,
) -> dict[str, dict[str, Any]]:
    """Rank by log p(z_{t+1} | z_<=t, c), given the true codes (N,S) of all steps; each an `Estimate` as a dict.

    The ceiling is 1, the floor is chance. At `contexts_per_story` random points of every story the true next step is
    ranked among `num_candidates` - 1 steps of other stories: `mrr` (mean reciprocal rank) and `recall_at_k`.
    `choice_of_4` is the accuracy among the first three of those, `choice_of_4_same_story` among three other steps of
    the same story, past or future: a prior that repeats itself passes the first and fails the second. `order_auc` is
    how often a story is likelier than its own steps in another order (`num_shuffles` distinct ones), averaged over
    stories. Ties are broken at random, in expectation. All candidates are scored with the story's true length, so none
    is likelier because it looks like the end of a shorter story.

    Needs codes and prompts only. If the other stories have too few steps, there are fewer candidates, and
    `num_candidates` is their number; metrics without any question are None.

    Raises UserError on fewer than 4 candidates, or fewer than 1 context or shuffle.
    """
    for name, value, least in (
        ("num_candidates", num_candidates, CHOICES),
        ("contexts_per_story", contexts_per_story, 1),
        ("num_shuffles", num_shuffles, 1),
    ):
        if value < least:
            raise UserError(f"{name} must be {least} or more, got {value}")
    num_candidates = min(num_candidates, 1 + len(codes) - max(stories.lengths))
    questions = _questions(num_candidates)
    answers: dict[str, list[list[float]]] = {name: [[] for _ in range(len(stories))] for name in questions}
    for index in track("next steps and orders", range(len(stories))):
        rng = np.random.default_rng([seed, index])
        answered = [*_next_steps(pipeline, stories, codes, index, num_candidates, contexts_per_story, rng)]
        for scores in (*answered, _order(pipeline, stories, codes, index, num_shuffles, rng)):
            for name, score in scores.items():
                answers[name][index].append(score)
    return {name: _estimate(answers[name], seed, count, chance) for name, (count, chance) in questions.items()}


def possible_ranks(scores: Tensor) -> np.ndarray:
    """Return the equally likely ranks, from 1, of the first of `scores` (R,): several if others tie with it."""
    lead = scores[1:] - scores[0]
    ahead, level = int((lead > TIE).sum()), int((lead.abs() <= TIE).sum())
    return np.arange(ahead + 1, ahead + level + 2)


def _questions(num_candidates: int) -> dict[str, tuple[int, float]]:
    """Return every metric's number of candidates and its chance level."""
    chance_of_mrr = sum(1 / rank for rank in range(1, num_candidates + 1)) / num_candidates
    return {
        "choice_of_4": (CHOICES, 1 / CHOICES),
        "choice_of_4_same_story": (CHOICES, 1 / CHOICES),
        "mrr": (num_candidates, chance_of_mrr),
        **{f"recall_at_{k}": (num_candidates, min(1.0, k / num_candidates)) for k in RECALL_AT},
        "order_auc": (2, 0.5),
    }


def _next_steps(
    pipeline: StoryPipeline,
    stories: EncodedStories,
    codes: Tensor,
    index: int,
    num_candidates: int,
    num_contexts: int,
    rng: np.random.Generator,
) -> Iterator[dict[str, float]]:
    """Yield the scores of `num_contexts` next steps of one story, or of all if it has fewer."""
    own = np.array(stories.rows(index))
    others = np.setdiff1d(np.arange(len(codes)), own)
    for step in 1 + rng.permutation(len(own) - 1)[:num_contexts]:
        foreign = rng.choice(others, num_candidates - 1, replace=False)
        same_story = rng.permutation(np.delete(own, step))[: CHOICES - 1]
        candidates = codes[np.concatenate([own[[step]], foreign, same_story])]
        history = codes[own[:step]].expand(len(candidates), -1, -1)
        plans = torch.cat([history, candidates[:, None]], dim=1)
        log_probs = -plan_nats(pipeline, stories, index, plans)[:, -1]
        yield _rank(log_probs[:num_candidates], torch.cat([log_probs[:1], log_probs[num_candidates:]]))


def _rank(among_other_stories: Tensor, among_same_story: Tensor) -> dict[str, float]:
    """Return the scores of log-probabilities, the true step's first; with too few candidates a metric is left out."""
    scores: dict[str, float] = {}
    if len(among_other_stories) > 1:
        ranks = possible_ranks(among_other_stories)
        scores["mrr"] = (1 / ranks).mean()
        scores |= {f"recall_at_{k}": (ranks <= k).mean() for k in RECALL_AT}
    for name, log_probs in (("choice_of_4", among_other_stories), ("choice_of_4_same_story", among_same_story)):
        if len(log_probs) >= CHOICES:
            scores[name] = (possible_ranks(log_probs[:CHOICES]) == 1).mean()
    return scores


def _order(
    pipeline: StoryPipeline,
    stories: EncodedStories,
    codes: Tensor,
    index: int,
    num_shuffles: int,
    rng: np.random.Generator,
) -> dict[str, float]:
    """Return the share of distinct other orders of a story that the true order beats; a tie counts half."""
    length = stories.lengths[index]
    if length < 2:
        return {}
    orders = {tuple(range(length)): None}
    while len(orders) < min(1 + num_shuffles, math.factorial(length)):
        orders[tuple(rng.permutation(length).tolist())] = None
    plans = codes[list(stories.rows(index))][torch.tensor(list(orders))]
    log_probs = -plan_nats(pipeline, stories, index, plans).sum(1)
    lead = log_probs[0] - log_probs[1:]
    return {"order_auc": ((lead > TIE).double() + 0.5 * (lead.abs() <= TIE)).mean().item()}


def _estimate(answers: list[list[float]], seed: int, num_candidates: int, chance: float) -> dict[str, Any]:
    """Return the mean over all answers (a list for each story), and their number."""
    counts = [len(values) for values in answers]
    estimate = bootstrap_mean(
        [sum(values) for values in answers], counts, seed, floor=chance, ceiling=1.0, is_share=chance < 1
    )
    return {**estimate.to_dict(), "num_questions": sum(counts), "num_candidates": num_candidates}
