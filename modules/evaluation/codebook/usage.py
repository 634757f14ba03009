"""Code usage: frequencies and perplexity by slot, and how much training, held-out stories and the prior differ."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from modules.evaluation.codebook.information import groups_left_out, jensen_shannon, perplexity
from modules.evaluation.metrics.statistics import (
    Estimate,
    first_rows,
    jackknife,
    mean_over_steps,
    story_of_rows,
    to_dicts,
)

NUM_SPLITS = 50
PAIRS = (("train", "held_out"), ("held_out", "prior"))


def story_counts(codes: np.ndarray, lengths: Sequence[int], codebook_size: int) -> np.ndarray:
    """Return how often each of B stories uses each code in each slot: codes (N,S) -> (B,S,K)."""
    num_slots = codes.shape[1]
    story = story_of_rows(lengths)[:, None]
    flat = (story * num_slots + np.arange(num_slots)) * codebook_size + codes
    counts = np.bincount(flat.ravel(), minlength=len(lengths) * num_slots * codebook_size)
    return counts.astype(np.int32).reshape(len(lengths), num_slots, codebook_size)


def usage_report(
    sets: Mapping[str, tuple[np.ndarray, Sequence[int]]], codebook_size: int, seed: int = 0
) -> dict[str, Any]:
    """Report the usage of codes (N,S), with their stories' lengths, in the sets "train", "held_out" and "prior".

    The prior's set is plans sampled from it. A dead code is used by neither training nor held-out stories.
    """
    counts = {name: story_counts(codes, lengths, codebook_size) for name, (codes, lengths) in sets.items()}
    totals = {name: value.sum((0, 1)) for name, value in counts.items()}
    overall = {
        pair: split_divergence(counts[pair[0]].sum(1), counts[pair[1]].sum(1), counts["train"].sum(1), seed)
        for pair in PAIRS
    }
    codes, lengths = sets["held_out"]
    slots = []
    for slot in range(codes.shape[1]):
        by_story = {name: value[:, slot] for name, value in counts.items()}
        divergence = {
            pair: split_divergence(by_story[pair[0]], by_story[pair[1]], by_story["train"], seed) for pair in PAIRS
        }
        slots.append(
            {
                "used": int((by_story["held_out"].sum(0) > 0).sum()),
                "perplexity": _perplexity(by_story["held_out"], codebook_size, seed).to_dict(),
                "persistence": persistence(codes[:, slot], lengths, seed).to_dict(),
                "divergence": _named(divergence),
            }
        )
    return {
        "counts": {name: total.tolist() for name, total in totals.items()},
        "used": {name: float((total > 0).mean()) for name, total in totals.items()},
        "dead": np.flatnonzero(totals["train"] + totals["held_out"] == 0).tolist(),
        "perplexity": {
            name: _perplexity(value.sum(1), codebook_size, seed).to_dict() for name, value in counts.items()
        },
        "divergence": _named(overall),
        "slots": slots,
    }


def _named(divergence: Mapping[tuple[str, str], Estimate]) -> dict[str, dict[str, float | None]]:
    return to_dicts({"_".join(pair): estimate for pair, estimate in divergence.items()})


def _perplexity(counts: np.ndarray, codebook_size: int, seed: int) -> Estimate:
    """Return the perplexity of counts (B,K) by story, with a jackknife interval over stories."""
    without = [float(perplexity(counts[kept].sum(0))) for kept in groups_left_out(counts[:, 0], seed)]
    return jackknife(float(perplexity(counts.sum(0))), without, floor=1.0, ceiling=float(codebook_size))


def persistence(codes: np.ndarray, lengths: Sequence[int], seed: int = 0) -> Estimate:
    """Return how often a slot's code (N,) equals that of the previous step; the floor is that of two random steps."""
    same = np.concatenate([[False], codes[1:] == codes[:-1]])
    has_previous = np.ones(len(codes))
    same[first_rows(lengths)] = has_previous[first_rows(lengths)] = 0
    shares = np.bincount(codes) / len(codes)
    return mean_over_steps(same, has_previous, lengths, seed, floor=float(np.square(shares).sum()), ceiling=1.0)


def split_divergence(first: np.ndarray, second: np.ndarray, reference: np.ndarray, seed: int = 0) -> Estimate:
    """Return the Jensen-Shannon divergence in bits of the codes of two sets of stories, from counts (B,K) by story.

    The mean over random halves; the interval is the middle 95 % over them, and the floor is the divergence between two
    halves of `reference`. All samples have the same number of stories, because the divergence between two samples of
    one distribution grows as they get smaller.
    """
    rng = np.random.default_rng(seed)
    size = min(len(first), len(second), len(reference)) // 2
    if size == 0:
        return Estimate(float(jensen_shannon(first.sum(0), second.sum(0))), float("nan"), float("nan"))
    apart, within = [], []
    for _ in range(NUM_SPLITS):
        halves = [counts[rng.permutation(len(counts))[:size]].sum(0) for counts in (first, second)]
        apart.append(float(jensen_shannon(*halves)))
        order = rng.permutation(len(reference))
        within.append(float(jensen_shannon(reference[order[:size]].sum(0), reference[order[size : 2 * size]].sum(0))))
    low, high = np.percentile(apart, [2.5, 97.5])
    return Estimate(float(np.mean(apart)), float(low), float(high), floor=float(np.mean(within)))
