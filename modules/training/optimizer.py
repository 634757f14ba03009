"""Optimizer parameter groups, averages of weights, and schedules."""

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
    """Return the optimizer's groups: learning-rate scale (`share`) and weight decay of all trained parameters.

    `share` is `gate_rate` for the names in `gates`, `pretrained_rate` for those in `pretrained`, else 1. Only
    matrices other than gates decay.
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


class WeightAverage:
    """Exponential moving averages of `parameters`.

    The decay starts lower and grows to `decay`, so that a phase's first weights are soon forgotten.
    """

    def __init__(self, parameters: Sequence[nn.Parameter], decay: float) -> None:
        self.parameters, self.decay = list(parameters), decay
        self.values = [parameter.detach().clone() for parameter in self.parameters]

    @torch.no_grad()
    def update(self, step: int) -> None:
        """Move the averages towards the weights after update `step`."""
        decay = min(self.decay, (1 + step) / (10 + step))
        torch._foreach_lerp_(self.values, [parameter.detach() for parameter in self.parameters], 1 - decay)

    @contextmanager
    def applied(self) -> Iterator[None]:
        """Set the parameters to their averages inside the context."""
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
        """Return the averages by the parameter's index."""
        return {str(index): value for index, value in enumerate(self.values)}

    @torch.no_grad()
    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        for index, value in enumerate(self.values):
            value.copy_(state[str(index)])

    @torch.no_grad()
    def _assign(self, values: Sequence[Tensor]) -> None:
        for parameter, value in zip(self.parameters, values, strict=True):
            parameter.copy_(value)


def learning_rate_at(step: int, num_steps: int, peak: float, training: TrainingConfig) -> float:
    """Return the learning rate of update `step` of a phase."""
    warmup = max(1, round(training.warmup_ratio * num_steps))
    return peak * cosine_with_warmup(step, num_steps, warmup, training.learning_rate_floor)


def cosine_with_warmup(step: int, num_steps: int, warmup_steps: int, floor: float) -> float:
    """Return a learning-rate factor: linear over the warm-up, then a cosine from 1 to `floor`, at `num_steps`."""
    if step < warmup_steps:
        return (step + 1) / warmup_steps
    progress = min(1.0, (step - warmup_steps) / max(1, num_steps - warmup_steps))
    return floor + (1 - floor) * 0.5 * (1 + math.cos(math.pi * progress))


def linear_ramp(step: int, num_steps: int) -> float:
    """Return a value that rises from 0 at the first of `num_steps` updates to 1 at the last, in equal steps."""
    return min(1.0, step / max(1, num_steps - 1))
