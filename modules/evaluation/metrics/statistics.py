"""Intervals for every figure: bootstrap over stories, because the steps of one story are not independent."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.special import stdtrit

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
    sums: Sequence[float],
    counts: Sequence[float],
    seed: int = 0,
    floor: float | None = None,
    ceiling: float | None = None,
) -> Figure:
    """Mean sum(sums) / sum(counts), and its 95 % percentile interval when whole stories are drawn again with
    replacement.

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


def rows_of_other_stories(stories: ArrayLike, seed: int) -> NDArray[np.int64] | None:
    """For each of N rows a random row of another story; `stories` (N,) are the rows' stories in order.

    None: there is but one.
    """
    _, first, own, counts = np.unique(stories, return_index=True, return_inverse=True, return_counts=True)
    if len(counts) < 2:
        return None
    after = (first + counts)[
        own
    ]  # The first row past the row's own story: counting on from there, round the end, meets it last.
    return (after + np.random.default_rng(seed).integers(0, len(own) - counts[own])) % len(own)


def jackknife(
    value: float,
    left_out: ArrayLike,
    floor: float | None = None,
    ceiling: float | None = None,
    bounds: tuple[float, float] = (-np.inf, np.inf),
) -> Figure:
    """95 % interval of a statistic which rises or falls when a story is drawn twice: distinct n-grams, distances
    between sets.

    `left_out` (B,) is the statistic without each story, or each group of stories. The interval is symmetric, with
    Student's quantile and the jackknife's standard error, which errs on the wide side (Efron and Stein, "The jackknife
    estimate of variance", 1981). With one story nothing is known of how stories differ: the interval is not a number.
    """
    left_out = np.asarray(left_out, dtype=np.float64)
    left_out = left_out[np.isfinite(left_out)]
    freedom = len(left_out) - 1
    half = float(stdtrit(freedom, 0.975) * np.sqrt(freedom * left_out.var())) if freedom > 0 else np.nan
    low, high = np.clip([value - half, value + half], *bounds)
    return Figure(value, float(low), float(high), floor, ceiling)
