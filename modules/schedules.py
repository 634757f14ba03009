"""Pure functions of the step."""

from __future__ import annotations

import math


def cosine_with_warmup(step: int, num_steps: int, warmup_steps: int, floor: float) -> float:
    """Learning-rate factor: linear from 0 over the warm-up, then a cosine from 1 to `floor` at the last step."""
    if step < warmup_steps:
        return (step + 1) / warmup_steps
    progress = min(1.0, (step - warmup_steps) / max(1, num_steps - warmup_steps))
    return floor + (1 - floor) * 0.5 * (1 + math.cos(math.pi * progress))
