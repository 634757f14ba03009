"""What the slots tell: information, probes and disentanglement of held-out steps, each with its interval and its floor."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from modules.common.progress import track
from modules.evaluation.codebook.coded_stories import CodedStories
from modules.evaluation.codebook.disentanglement import disentanglement_figures
from modules.evaluation.codebook.information import SHUFFLES_A_GROUP, SlotInformation, groups_left_out, slot_information
from modules.evaluation.codebook.probes import probe_accuracies
from modules.evaluation.metrics.statistics import jackknife

WORLD_FACTORS = (
    "hero",
    "colour",
    "place",
    "object",
    "weather",
    "action",
)  # Characters are left out: the hero is one of them.
OTHER_FACTORS = ("position", "text length")


def slot_report(
    coded: CodedStories,
    labels: Mapping[str, np.ndarray],
    learnt: CodedStories,
    learnt_labels: Mapping[str, np.ndarray],
    seed: int = 0,
) -> dict[str, Any]:
    """What the slots of held-out steps tell of their labels, by name (N,); probes are fitted on other stories,
    `learnt`.
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
    figures = disentanglement_figures(
        coded.codes, table[:, chosen], coded.lengths, whole.of(chosen), [part.of(chosen) for part in parts], seed
    )
    return {
        "information": _information_report(whole, parts, list(labels)),
        "probes": {name: _probe_report(coded, learnt, numbers[name]) for name in track("probes", list(labels))},
        "disentanglement": {"factors": factors, **{name: figure.to_dict() for name, figure in figures.items()}},
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
        bits = whole.entropy[index]
        slots = [
            {
                "bits": whole.bits[slot, index],
                "null_bits": whole.null[slot, index],
                "excess_bits": whole.excess[slot, index],
                "of_entropy": whole.excess[slot, index] / bits if bits > 0 else 0.0,
                "p_value": whole.p_values[slot, index],
                "share": jackknife(
                    whole.share[slot, index], [share[slot, index] for share in shares], 0.0, 1.0
                ).to_dict(),
            }
            for slot in range(len(whole.bits))
        ]
        report[name] = {"entropy_bits": bits, "slots": slots}
    return report


def _probe_report(coded: CodedStories, learnt: CodedStories, numbers: np.ndarray) -> dict[str, Any]:
    """Accuracies for one attribute, as `numbers` of the held-out steps and then the others, from each slot and from
    all.
    """
    count, num_slots = coded.codes.shape
    groups = [*([slot] for slot in range(num_slots)), list(range(num_slots))]
    figures = probe_accuracies(learnt.codes, numbers[count:], coded.codes, numbers[:count], coded.lengths, groups)
    return {"slots": [figure.to_dict() for figure in figures[:-1]], "all": figures[-1].to_dict()}
