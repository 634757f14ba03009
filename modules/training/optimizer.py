"""Who trains at what rate, and with or without weight decay."""

from __future__ import annotations

import math
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from modules.config import TrainingConfig


def parameter_groups(
    named_parameters: Iterable[tuple[str, nn.Parameter]],
    pretrained: Collection[str],
    gates: Collection[str],
    training: TrainingConfig,
) -> list[dict[str, Any]]:
    """The optimizer's groups of the parameters that train: each with its `weight_decay` (of matrices that are no gates)
    and its `share` of the learning rate, which is that of pretrained weights, of gates, or 1.
    """
    groups: dict[tuple[float, bool], list[nn.Parameter]] = {}
    for name, parameter in named_parameters:
        if parameter.requires_grad:
            is_gate = name in gates
            share = training.gate_rate if is_gate else training.pretrained_rate if name in pretrained else 1.0
            groups.setdefault((share, parameter.ndim >= 2 and not is_gate), []).append(parameter)
    ordered = sorted(groups.items(), key=lambda item: (item[0][0] != 1.0, item[0][0], not item[0][1]))
    return [
        {"params": members, "weight_decay": training.weight_decay * decays, "share": share}
        for (share, decays), members in ordered
    ]


def cosine_with_warmup(step: int, num_steps: int, warmup_steps: int, floor: float) -> float:
    """Learning-rate factor: linear from 0 over the warm-up, then a cosine from 1 to `floor` at the last step."""
    if step < warmup_steps:
        return (step + 1) / warmup_steps
    progress = min(1.0, (step - warmup_steps) / max(1, num_steps - warmup_steps))
    return floor + (1 - floor) * 0.5 * (1 + math.cos(math.pi * progress))


def linear_ramp(step: int, num_steps: int) -> float:
    """From 0 at the first of `num_steps` updates to 1 at the last, in equal steps."""
    return min(1.0, step / max(1, num_steps - 1))


def inverse_sigmoid_ramp(step: int, num_steps: int, sharpness: float = 20.0) -> float:
    """From 0 at the first update to 1 at the last, slow at both ends: inverse sigmoid decay (arXiv 1506.03099), turned
    over.

    `sharpness` > 1 is that paper's k: the larger, the more of the way lies in the middle of the run.
    """
    rest = 1 / (
        1 + sharpness
    )  # What a logistic curve from -log k to log k leaves out at either end; the ramp is stretched over it.
    share = 1 / (1 + sharpness ** (1 - 2 * linear_ramp(step, num_steps)))
    return min(1.0, max(0.0, (share - rest) / (1 - 2 * rest)))


class WeightAverage:
    """The averages of `parameters`; `decay` is shorter at the start, so that a phase's first weights are soon
    forgotten.
    """

    def __init__(self, parameters: Sequence[nn.Parameter], decay: float) -> None:
        self.parameters, self.decay = list(parameters), decay
        self.values = [parameter.detach().clone() for parameter in self.parameters]

    @torch.no_grad()
    def update(self, step: int) -> None:
        """Take in the weights after update `step`."""
        decay = min(self.decay, (1 + step) / (10 + step))
        torch._foreach_lerp_(self.values, [parameter.detach() for parameter in self.parameters], 1 - decay)

    @contextmanager
    def applied(self) -> Iterator[None]:
        """Inside, the parameters hold their averages."""
        live = [parameter.detach().clone() for parameter in self.parameters]
        self.copy_to_parameters()
        try:
            yield
        finally:
            self._assign(live)

    def copy_to_parameters(self) -> None:
        """Set the parameters to their averages for good."""
        self._assign(self.values)

    def state_dict(self) -> dict[str, Tensor]:
        return {str(index): value for index, value in enumerate(self.values)}

    @torch.no_grad()
    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        for index, value in enumerate(self.values):
            value.copy_(state[str(index)])

    @torch.no_grad()
    def _assign(self, values: Sequence[Tensor]) -> None:
        for parameter, value in zip(self.parameters, values, strict=True):
            parameter.copy_(value)
