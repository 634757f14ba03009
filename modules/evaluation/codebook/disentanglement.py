"""Specialisation of slots: disentanglement, completeness and mutual information gap, beside those of mixed slots."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from modules.evaluation.codebook.information import SHUFFLES_A_GROUP, SlotInformation, entropy, slot_information
from modules.evaluation.metrics.statistics import Estimate, jackknife

NUM_MIXES = 10


def disentanglement(importance: np.ndarray) -> float:
    """Return DCI disentanglement (Eastwood and Williams, ICLR 2018) of an importance matrix (S,A) >= 0.

    1 if every slot encodes one attribute only, 0 if every slot encodes all attributes equally. Slots are weighted by
    their total importance; NaN if that is 0.
    """
    if importance.shape[1] < 2 or importance.sum() <= 0:
        return float("nan")
    weights = importance.sum(1) / importance.sum()
    return float((weights * (1 - entropy(importance, axis=1) / np.log2(importance.shape[1]))).sum())


def completeness(importance: np.ndarray) -> float:
    """Return DCI completeness of an importance matrix (S,A) >= 0.

    1 if every attribute is encoded by one slot only, 0 if it is encoded by all slots equally.
    """
    return disentanglement(importance.T)


def information_gap(information: SlotInformation) -> float:
    """Return the mutual information gap (MIG, arXiv 1802.04942).

    It is the mean over attributes of the difference between the best and the second-best slot's information, as a share
    of the attribute's entropy. Bits above the null value replace bits, because the plug-in estimate is biased.
    """
    varies = information.entropy > 0
    if len(information.bits) < 2 or not varies.any():
        return float("nan")
    best = np.sort(np.maximum(information.excess, 0), axis=0)
    return float(((best[-1] - best[-2])[varies] / information.entropy[varies]).mean())


def measure(information: SlotInformation) -> np.ndarray:
    """Return disentanglement, completeness and gap (3,); importance is the share of an attribute a slot explains."""
    importance = np.maximum(information.share, 0)
    return np.array([disentanglement(importance), completeness(importance), information_gap(information)])


def disentanglement_metrics(
    codes: np.ndarray,
    labels: np.ndarray,
    lengths: Sequence[int],
    whole: SlotInformation,
    parts: Sequence[SlotInformation],
    seed: int = 0,
) -> dict[str, Estimate]:
    """Return the three metrics of codes (N,S) and labels (N,A), given their information, and that without each group.

    The floor is the mean after every step's codes are permuted over the slots at random: the same information, without
    any specialisation.
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
