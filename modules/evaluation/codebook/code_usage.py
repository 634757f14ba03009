"""How often each code is used, in which slot, and whether training, held-out stories and the prior use them alike."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from modules.evaluation.codebook.information import groups_left_out, jensen_shannon, perplexity
from modules.evaluation.metrics.statistics import Figure, bootstrap_mean, jackknife

NUM_SPLITS = 50
PAIRS = (("train", "held_out"), ("held_out", "prior"))


def story_counts(codes: np.ndarray, lengths: Sequence[int], codebook_size: int) -> np.ndarray:
    """Codes (N,S) of B stories -> how often each story uses each code in each slot, (B,S,K)."""
    num_slots = codes.shape[1]
    story = np.repeat(np.arange(len(lengths)), lengths)[:, None]
    flat = (story * num_slots + np.arange(num_slots)) * codebook_size + codes
    counts = np.bincount(flat.ravel(), minlength=len(lengths) * num_slots * codebook_size)
    return counts.astype(np.int32).reshape(len(lengths), num_slots, codebook_size)


def usage_report(
    sets: Mapping[str, tuple[np.ndarray, Sequence[int]]], codebook_size: int, seed: int = 0
) -> dict[str, Any]:
    """Usage of codes (N,S) with the stories' lengths, for the sets "train", "held_out" and "prior" (plans drawn from
    the prior).

    A dead code is used by neither training nor held-out stories.
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
                "perplexity": _perplexity(by_story["held_out"], codebook_size, seed),
                "persistence": persistence(codes[:, slot], lengths, seed),
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
        "slots": [
            {key: value.to_dict() if isinstance(value, Figure) else value for key, value in slot.items()}
            for slot in slots
        ],
    }


def _named(divergence: Mapping[tuple[str, str], Figure]) -> dict[str, dict[str, float | None]]:
    return {f"{first}_{second}": figure.to_dict() for (first, second), figure in divergence.items()}


def _perplexity(counts: np.ndarray, codebook_size: int, seed: int) -> Figure:
    """Of counts (B,K) by story, with a jackknife interval over stories."""
    without = [float(perplexity(counts[kept].sum(0))) for kept in groups_left_out(counts[:, 0], seed)]
    return jackknife(float(perplexity(counts.sum(0))), without, floor=1.0, ceiling=float(codebook_size))


def persistence(codes: np.ndarray, lengths: Sequence[int], seed: int = 0) -> Figure:
    """How often one slot's code (N,) is that of the step before; the floor is how often two steps drawn at random share
    it.
    """
    same = np.concatenate([[False], codes[1:] == codes[:-1]])
    starts = np.cumsum([0, *lengths[:-1]])
    same[starts] = False
    shares = np.bincount(codes) / len(codes)
    return bootstrap_mean(
        np.add.reduceat(same.astype(float), starts),
        np.array(lengths) - 1,
        seed,
        floor=float(np.square(shares).sum()),
        ceiling=1.0,
    )


def split_divergence(first: np.ndarray, second: np.ndarray, reference: np.ndarray, seed: int = 0) -> Figure:
    """Jensen-Shannon divergence in bits of the codes of two sets of stories, from counts (B,K) by story.

    Mean over random halves; the floor is that between two halves of `reference`. All are of the same number of stories:
    the smaller the samples, the more two of one distribution differ. The interval is the middle 95 % over the halves.
    """
    rng = np.random.default_rng(seed)
    size = min(len(first), len(second), len(reference)) // 2
    if size == 0:
        return Figure(float(jensen_shannon(first.sum(0), second.sum(0))), float("nan"), float("nan"))
    apart, within = [], []
    for _ in range(NUM_SPLITS):
        halves = [counts[rng.permutation(len(counts))[:size]].sum(0) for counts in (first, second)]
        apart.append(float(jensen_shannon(*halves)))
        order = rng.permutation(len(reference))
        within.append(float(jensen_shannon(reference[order[:size]].sum(0), reference[order[size : 2 * size]].sum(0))))
    low, high = np.percentile(apart, [2.5, 97.5])
    return Figure(float(np.mean(apart)), float(low), float(high), floor=float(np.mean(within)))
