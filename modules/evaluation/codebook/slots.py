"""Report on the content of the slots, on held-out steps: information, probes, disentanglement, with intervals."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from modules.common.progress import track
from modules.evaluation.codebook.coded_stories import CodedStories
from modules.evaluation.codebook.disentanglement import disentanglement_metrics
from modules.evaluation.codebook.information import SHUFFLES_A_GROUP, SlotInformation, groups_left_out, slot_information
from modules.evaluation.codebook.probes import probe_accuracies
from modules.evaluation.metrics.statistics import jackknife, to_dicts

WORLD_FACTORS = ("hero", "colour", "place", "object", "weather", "action")  # Characters include the hero.
OTHER_FACTORS = ("position", "text length")


def slot_report(
    coded: CodedStories,
    labels: Mapping[str, np.ndarray],
    learnt: CodedStories,
    learnt_labels: Mapping[str, np.ndarray],
    seed: int = 0,
) -> dict[str, Any]:
    """Report what the slots of held-out steps encode of their labels (N,) by name.

    Probes are fitted on the training stories `learnt` and their labels.
    """
    numbers = {
        name: np.unique(np.concatenate([column, learnt_labels[name]]), return_inverse=True)[1]
        for name, column in labels.items()
    }
    count = len(coded.codes)
    table = np.stack([number[:count] for number in numbers.values()], axis=1)
    whole = slot_information(coded.codes, table, coded.lengths, seed=seed)
    parts = [
        _information_without(coded, table, kept, seed)
        for kept in track("intervals", groups_left_out(coded.lengths, seed))
    ]
    factors = [name for name in (WORLD_FACTORS if "hero" in labels else OTHER_FACTORS) if name in labels]
    chosen = [list(labels).index(name) for name in factors]
    metrics = disentanglement_metrics(
        coded.codes, table[:, chosen], coded.lengths, whole.of(chosen), [part.of(chosen) for part in parts], seed
    )
    return {
        "information": _information_report(whole, parts, list(labels)),
        "probes": {name: _probe_report(coded, learnt, numbers[name]) for name in track("probes", list(labels))},
        "disentanglement": {"factors": factors, **to_dicts(metrics)},
    }


def _information_without(coded: CodedStories, table: np.ndarray, kept: np.ndarray, seed: int) -> SlotInformation:
    rows = kept[coded.story]
    return slot_information(coded.codes[rows], table[rows], np.array(coded.lengths)[kept], SHUFFLES_A_GROUP, seed)


def _information_report(
    whole: SlotInformation, parts: Sequence[SlotInformation], names: Sequence[str]
) -> dict[str, Any]:
    shares = [part.share for part in parts]
    report = {}
    for index, name in enumerate(names):
        slots = [
            _slot_information(whole, slot, index, [share[slot, index] for share in shares])
            for slot in range(len(whole.bits))
        ]
        report[name] = {"entropy_bits": whole.entropy[index], "slots": slots}
    return report


def _slot_information(whole: SlotInformation, slot: int, index: int, shares: Sequence[float]) -> dict[str, Any]:
    """Report one slot's information about one attribute; `shares` are those without each group of stories."""
    bits, excess = whole.entropy[index], whole.excess[slot, index]
    return {
        "bits": whole.bits[slot, index],
        "null_bits": whole.null[slot, index],
        "excess_bits": excess,
        "of_entropy": excess / bits if bits > 0 else 0.0,
        "p_value": whole.p_values[slot, index],
        "share": jackknife(whole.share[slot, index], shares, 0.0, 1.0).to_dict(),
    }


def _probe_report(coded: CodedStories, learnt: CodedStories, numbers: np.ndarray) -> dict[str, Any]:
    """Report the accuracies for one attribute, from each slot and from all of them together.

    `numbers` are the attribute's values for the held-out steps, then for the training steps.
    """
    count, num_slots = coded.codes.shape
    groups = [*([slot] for slot in range(num_slots)), list(range(num_slots))]
    *slots, everything = probe_accuracies(
        learnt.codes, numbers[count:], coded.codes, numbers[:count], coded.lengths, groups
    )
    return {"slots": [accuracy.to_dict() for accuracy in slots], "all": everything.to_dict()}
