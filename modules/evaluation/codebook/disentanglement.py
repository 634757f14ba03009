"""Do slots specialise? Disentanglement, completeness and the mutual information gap, beside what mixed slots would
give.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from modules.evaluation.codebook.information import SHUFFLES_A_GROUP, SlotInformation, entropy, slot_information
from modules.evaluation.metrics.statistics import Figure, jackknife

NUM_MIXES = 10


def disentanglement(importance: np.ndarray) -> float:
    """DCI disentanglement (Eastwood and Williams, ICLR 2018) of an importance matrix (S,A) >= 0: 1 where every slot
    tells of one attribute only, 0 where each tells the same of all. Slots count by how much they tell; NaN where
    nothing is told.
    """
    if importance.shape[1] < 2 or importance.sum() <= 0:
        return float("nan")
    weights = importance.sum(1) / importance.sum()
    return float((weights * (1 - entropy(importance, axis=1) / np.log2(importance.shape[1]))).sum())


def completeness(importance: np.ndarray) -> float:
    """DCI completeness: 1 where every attribute is told by one slot only, 0 where all slots tell of it alike.

    (S,A) as above.
    """
    return disentanglement(importance.T)


def information_gap(information: SlotInformation) -> float:
    """MIG (arXiv 1802.04942): how much more of an attribute the best slot tells than the second best, as a share of its
    entropy, mean over attributes; bits beyond chance in place of bits, as both are biased.
    """
    told = information.entropy > 0
    if len(information.bits) < 2 or not told.any():
        return float("nan")
    best = np.sort(np.maximum(information.excess, 0), axis=0)
    return float(((best[-1] - best[-2])[told] / information.entropy[told]).mean())


def measure(information: SlotInformation) -> np.ndarray:
    """The three figures of one matrix: disentanglement, completeness, gap.

    Importance is the share of an attribute that a slot tells.
    """
    importance = np.maximum(information.share, 0)
    return np.array([disentanglement(importance), completeness(importance), information_gap(information)])


def disentanglement_figures(
    codes: np.ndarray,
    labels: np.ndarray,
    lengths: Sequence[int],
    whole: SlotInformation,
    parts: Sequence[SlotInformation],
    seed: int = 0,
) -> dict[str, Figure]:
    """The three figures for codes (N,S) and labels (N,A), from their information and that without each group of
    stories.

    The floor is the mean when every step's codes are dealt to the slots at random: they hold as much, and no slot is
    its own.
    """
    rng = np.random.default_rng(seed)
    mixed = [
        measure(slot_information(rng.permuted(codes, axis=1), labels, lengths, SHUFFLES_A_GROUP, seed + mix))
        for mix in range(NUM_MIXES)
    ]
    floors = np.mean(mixed, axis=0)
    without = np.array([measure(part) for part in parts]).reshape(len(parts), 3)
    return {
        name: jackknife(value, without[:, index], floor=float(floors[index]), ceiling=1.0)
        for index, (name, value) in enumerate(
            zip(("disentanglement", "completeness", "gap"), measure(whole), strict=True)
        )
    }
