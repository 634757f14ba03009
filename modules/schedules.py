"""Pure functions of the step."""

from __future__ import annotations

import math


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
    """From 0 at the first update to 1 at the last, slow at both ends: inverse sigmoid decay (arXiv 1506.03099), turned over.

    `sharpness` > 1 is that paper's k: the larger, the more of the way lies in the middle of the run.
    """
    rest = 1 / (1 + sharpness)  # What a logistic curve from -log k to log k leaves out at either end; the ramp is stretched over it.
    share = 1 / (1 + sharpness ** (1 - 2 * linear_ramp(step, num_steps)))
    return min(1.0, max(0.0, (share - rest) / (1 - 2 * rest)))
