"""What the tests of the factors share."""

from __future__ import annotations

import torch
from torch import Tensor

from modules.batch import StepInputs

CLOSE = {"atol": 1e-5, "rtol": 1e-5}


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def differ(first: Tensor, second: Tensor) -> bool:
    """Whether two tensors differ by far more than rounding."""
    return (first - second).abs().max().item() > 1e-2


def select_steps(steps: StepInputs, rows: slice) -> StepInputs:
    """Return some of N steps."""
    return StepInputs(**{name: value[rows] for name, value in steps.tensors().items()})
