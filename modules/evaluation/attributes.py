"""What the codes hold, read from the texts that are decoded from them (story world only)."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from modules.evaluation.statistics import Figure, bootstrap_mean
from modules.storyworld import mentioned

GROUPS = {"characters": "character", "colors": "colour", "places": "place", "objects": "object", "weathers": "weather", "actions": "action"}


def score_texts(true_texts: Sequence[str], decoded_texts: Sequence[str], lengths: Sequence[int], seed: int = 0) -> dict[str, Figure]:
    """How often a decoded text names exactly what the true text names, over the steps whose true text names any.

    `lengths` are the stories' numbers of steps. The floor is the same score for another step's true text in place of the
    decoded one (a random permutation), the ceiling that of the true text itself: 1.
    """
    true, decoded = [mentioned(text) for text in true_texts], [mentioned(text) for text in decoded_texts]
    others = [true[index] for index in np.random.default_rng(seed).permutation(len(true))]
    starts = np.cumsum([0, *lengths])[:-1]
    figures = {}
    for group, name in GROUPS.items():
        named = np.array([bool(labels[group]) for labels in true], dtype=float)
        right = named * [a[group] == b[group] for a, b in zip(true, decoded, strict=True)]
        by_chance = named * [a[group] == b[group] for a, b in zip(true, others, strict=True)]
        per_story = [np.add.reduceat(values, starts) for values in (right, named)]
        figures[name] = bootstrap_mean(*per_story, seed=seed, floor=float(by_chance.sum() / max(1, named.sum())), ceiling=1.0)
    return figures
