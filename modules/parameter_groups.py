"""Who trains at what rate, and with or without weight decay."""

from __future__ import annotations

from collections.abc import Collection, Iterable
from typing import Any

from torch import nn

from modules.config import TrainingConfig

GATES = ("prefix_gate", ".processor.gate")  # Through which codes enter pretrained parts; they start at zero.


def parameter_groups(
    named_parameters: Iterable[tuple[str, nn.Parameter]], pretrained: Collection[str], training: TrainingConfig
) -> list[dict[str, Any]]:
    """The optimizer's groups of the parameters that train: each with its `weight_decay` (of matrices that are no gates) and its `share`
    of the learning rate, which is that of pretrained weights, of gates, or 1.
    """
    groups: dict[tuple[float, bool], list[nn.Parameter]] = {}
    for name, parameter in named_parameters:
        if parameter.requires_grad:
            is_gate = name.endswith(GATES)
            share = training.gate_rate if is_gate else training.pretrained_rate if name in pretrained else 1.0
            groups.setdefault((share, parameter.ndim >= 2 and not is_gate), []).append(parameter)
    ordered = sorted(groups.items(), key=lambda item: (item[0][0] != 1.0, item[0][0], not item[0][1]))
    return [
        {"params": members, "weight_decay": training.weight_decay * decays, "share": share} for (share, decays), members in ordered
    ]  # fmt: skip
