"""Does the plan know how stories go on? The true next step among others, and the true order among shuffled ones, by
code likelihood.
"""

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
from modules.pipeline import StoryPipeline

CHOICES = 4
RECALL_AT = (1, 5, 10)
TIE = 1e-4  # Nats: equal codes in two rows of a batch differ by rounding alone.


@torch.no_grad()
def rank_next_steps(
    pipeline: StoryPipeline,
    stories: EncodedStories,
    codes: Tensor,
    seed: int = 0,
    num_candidates: int = 100,
    contexts_per_story: int = 1,
    num_shuffles: int = 10,
) -> dict[str, dict[str, Any]]:
    """Rank by log p(z_{t+1} | z_<=t, c), given the true codes (N,S) of all steps; each a `Figure` as a dict, ceiling 1,
    floor: chance.

    At `contexts_per_story` random points of every story the true next step stands among `num_candidates` - 1 steps of
    other
    stories: `mrr` and `recall_at_k`; `choice_of_4` is among the first three of those, `choice_of_4_same_story` among
    three other steps of the same story, told already or still to come. A prior that repeats itself passes the first and
    fails the second. `order_auc` is how often a whole story is likelier than its own steps in another order
    (`num_shuffles` different ones), the mean over stories. Ties are broken at random, in expectation. Every candidate
    is scored with the story's true length, so none is likelier for being taken as nearer to the end.

    Needs codes and prompts only. Where the other stories have too few steps, fewer candidates are taken and
    `num_candidates` says how many; what cannot be asked at all is None. Raises UserError on fewer than 4 candidates, no
    context or no shuffle.
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
        told = _next_steps(pipeline, stories, codes, index, num_candidates, contexts_per_story, rng)
        for scores in (*told, _order(pipeline, stories, codes, index, num_shuffles, rng)):
            for name, value in scores.items():
                answers[name][index].append(value)
    return {name: _figure(answers[name], seed, count, chance) for name, (count, chance) in questions.items()}


def possible_ranks(scores: Tensor) -> np.ndarray:
    """The ranks, from 1, that the first of `scores` (R,) may take, each as likely: several where others tie with it."""
    lead = scores[1:] - scores[0]
    ahead, level = int((lead > TIE).sum()), int((lead.abs() <= TIE).sum())
    return np.arange(ahead + 1, ahead + level + 2)


def _questions(num_candidates: int) -> dict[str, tuple[int, float]]:
    """Every figure's number of candidates and what guessing scores: of 1 / rank, the harmonic number of n over n."""
    mrr = sum(1 / rank for rank in range(1, num_candidates + 1)) / num_candidates
    recall = {f"recall_at_{k}": (num_candidates, min(1.0, k / num_candidates)) for k in RECALL_AT}
    choice = (CHOICES, 1 / CHOICES)
    return {
        "choice_of_4": choice,
        "choice_of_4_same_story": choice,
        "mrr": (num_candidates, mrr),
        **recall,
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
    """The scores of each of `num_contexts` next steps of one story, or of as many as it has."""
    own = np.array(stories.rows(index))
    others = np.setdiff1d(np.arange(len(codes)), own)
    for step in 1 + rng.permutation(len(own) - 1)[:num_contexts]:
        strangers = rng.choice(others, num_candidates - 1, replace=False)
        siblings = rng.permutation(np.delete(own, step))[: CHOICES - 1]
        candidates = codes[np.concatenate([own[[step]], strangers, siblings])]
        history = codes[own[:step]].expand(len(candidates), -1, -1)
        plans = torch.cat([history, candidates[:, None]], dim=1)
        log_probs = -plan_nats(pipeline, stories, index, plans)[:, -1]
        yield _grade(log_probs[:num_candidates], torch.cat([log_probs[:1], log_probs[num_candidates:]]))


def _grade(among_strangers: Tensor, among_siblings: Tensor) -> dict[str, float]:
    """Scores of log-probabilities, those of the true step first; a question with too few candidates is not asked."""
    scores = {}
    if len(among_strangers) > 1:
        ranks = possible_ranks(among_strangers)
        scores["mrr"] = (1 / ranks).mean()
        scores |= {f"recall_at_{k}": (ranks <= k).mean() for k in RECALL_AT}
    for name, log_probs in (("choice_of_4", among_strangers), ("choice_of_4_same_story", among_siblings)):
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
    """The share of other orders, each drawn once, that the true one of a story beats; a tie counts half."""
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


def _figure(answers: list[list[float]], seed: int, num_candidates: int, chance: float) -> dict[str, Any]:
    """The mean over all stories' answers, and how many there are."""
    counts = [len(values) for values in answers]
    figure = bootstrap_mean([sum(values) for values in answers], counts, seed, floor=chance, ceiling=1.0)
    return {**figure.to_dict(), "num_questions": sum(counts), "num_candidates": num_candidates}
