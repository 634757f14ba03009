"""Intervals for every figure: bootstrap over stories, because the steps of one story are not independent."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass

import numpy as np

NUM_RESAMPLES = 2000


@dataclass(frozen=True)
class Figure:
    """A mean with its 95 % interval, and the floor and ceiling that it stands between, where they are known."""

    value: float
    low: float
    high: float
    floor: float | None = None
    ceiling: float | None = None

    def to_dict(self) -> dict[str, float | None]:
        """The numbers by name; what could not be measured is None, as JSON knows no NaN."""
        return {name: None if value is None or math.isnan(value) else value for name, value in asdict(self).items()}


def bootstrap_mean(
    sums: Sequence[float], counts: Sequence[float], seed: int = 0, floor: float | None = None, ceiling: float | None = None
) -> Figure:
    """Mean sum(sums) / sum(counts), and its 95 % percentile interval when whole stories are drawn again with replacement.

    `sums[i]` and `counts[i]` are story i's total and the number of things it totals.
    """
    sums, counts = np.asarray(sums, dtype=np.float64), np.asarray(counts, dtype=np.float64)
    if counts.sum() == 0:
        return Figure(float("nan"), float("nan"), float("nan"), floor, ceiling)
    rng = np.random.default_rng(seed)
    draws = rng.integers(0, len(sums), size=(NUM_RESAMPLES, len(sums)))
    drawn_counts = counts[draws].sum(1)
    means = sums[draws].sum(1)[drawn_counts > 0] / drawn_counts[drawn_counts > 0]
    low, high = np.percentile(means, [2.5, 97.5])
    return Figure(float(sums.sum() / counts.sum()), float(low), float(high), floor, ceiling)
