"""Estimates with 95 % intervals. Whole stories are resampled, because the steps of one story are not independent."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.special import stdtrit

NUM_RESAMPLES = 2000


@dataclass(frozen=True)
class Estimate:
    """A value with its 95 % interval, its floor (chance, or pages of other stories) and its ceiling (real pages).

    Floor and ceiling are None where they are unknown.
    """

    value: float
    low: float
    high: float
    floor: float | None = None
    ceiling: float | None = None

    def to_dict(self) -> dict[str, float | None]:
        """Return the numbers by name; NaN becomes None, because JSON has no NaN."""
        return {name: None if value is None or math.isnan(value) else value for name, value in asdict(self).items()}


def to_dicts(estimates: Mapping[str, Estimate]) -> dict[str, dict[str, float | None]]:
    """Return every estimate as a dict, ready for JSON."""
    return {name: estimate.to_dict() for name, estimate in estimates.items()}


def bootstrap_mean(
    sums: ArrayLike,
    counts: ArrayLike,
    seed: int = 0,
    floor: float | None = None,
    ceiling: float | None = None,
    is_share: bool = False,
) -> Estimate:
    """Return sum(sums) / sum(counts) with its 95 % percentile interval over stories resampled with replacement.

    `sums` (B,) and `counts` (B,) are each story's total and the number of items in it. With items of one story alone
    the interval is NaN: nothing is known about others. With `is_share`, where all items or none succeeded, resampling
    shows no spread: the interval is the exact one of as many trials as there are stories (Clopper and Pearson, "The use
    of confidence or fiducial limits illustrated in the case of the binomial", 1934).
    """
    totals, numbers = np.asarray(sums, dtype=np.float64), np.asarray(counts, dtype=np.float64)
    if numbers.sum() == 0:
        return Estimate(math.nan, math.nan, math.nan, floor, ceiling)
    if np.count_nonzero(numbers) == 1:
        return Estimate(float(totals.sum() / numbers.sum()), math.nan, math.nan, floor, ceiling)
    draws = np.random.default_rng(seed).integers(0, len(totals), size=(NUM_RESAMPLES, len(totals)))
    drawn = numbers[draws].sum(1)
    means = totals[draws].sum(1)[drawn > 0] / drawn[drawn > 0]
    low, high = np.percentile(means, [2.5, 97.5])
    if is_share and low == high and low in (0, 1):
        surprise = 1 - 0.025 ** (1 / np.count_nonzero(numbers))
        low, high = (1 - surprise, 1.0) if low else (0.0, surprise)
    return Estimate(float(totals.sum() / numbers.sum()), float(low), float(high), floor, ceiling)


def mean_over_steps(
    sums: ArrayLike,
    counts: ArrayLike,
    lengths: Sequence[int],
    seed: int = 0,
    floor: float | None = None,
    ceiling: float | None = None,
    is_share: bool = False,
) -> Estimate:
    """Return `bootstrap_mean` of sums (N,) and counts (N,) by step, for the steps of B stories of `lengths` steps."""
    starts = first_rows(lengths)
    by_story = [np.add.reduceat(np.asarray(values, dtype=np.float64), starts) for values in (sums, counts)]
    return bootstrap_mean(by_story[0], by_story[1], seed, floor, ceiling, is_share)


def mean_over_rows(
    values: ArrayLike,
    stories: ArrayLike,
    seed: int = 0,
    floor: float | None = None,
    ceiling: float | None = None,
    is_share: bool = False,
) -> Estimate:
    """Return the mean of rows (N,), without those that are NaN; `stories` (N,) are the numbers of the rows' stories."""
    rows, owners = np.asarray(values, dtype=np.float64), np.asarray(stories, dtype=np.int64)
    present = np.isfinite(rows)
    sums = np.bincount(owners, weights=np.where(present, rows, 0.0))
    return bootstrap_mean(sums, np.bincount(owners, weights=present), seed, floor, ceiling, is_share)


def first_rows(lengths: Sequence[int]) -> NDArray[np.int64]:
    """Return the row number (B,) of each story's first step, for stories of `lengths` steps."""
    return np.cumsum([0, *lengths])[:-1]


def story_of_rows(lengths: Sequence[int]) -> NDArray[np.int64]:
    """Return the number of the story (N,) that each step belongs to, for stories of `lengths` steps."""
    return np.repeat(np.arange(len(lengths)), lengths)


def rows_of_other_stories(stories: ArrayLike, seed: int) -> NDArray[np.int64] | None:
    """Return, for each of N rows, a random row of another story; None if there is only one story.

    `stories` (N,) are the numbers of the rows' stories, in order.
    """
    _, first, own, counts = np.unique(stories, return_index=True, return_inverse=True, return_counts=True)
    if len(counts) < 2:
        return None
    # Counting on from the first row after the row's own story, and round the end, its own story comes last.
    after = (first + counts)[own]
    return (after + np.random.default_rng(seed).integers(0, len(own) - counts[own])) % len(own)


def jackknife(
    value: float,
    left_out: ArrayLike,
    floor: float | None = None,
    ceiling: float | None = None,
    bounds: tuple[float, float] = (-np.inf, np.inf),
) -> Estimate:
    """Return the 95 % interval of a statistic that duplicated stories would distort: distinct n-grams, set distances.

    `left_out` (B,) is the statistic without each story, or without each group of stories. The interval is symmetric:
    Student's quantile times the jackknife's standard error, which is conservative (Efron and Stein, "The jackknife
    estimate of variance", 1981). With one story the variance is unknown and the interval is NaN.
    """
    finite = np.asarray(left_out, dtype=np.float64)
    finite = finite[np.isfinite(finite)]
    freedom = len(finite) - 1
    half = float(stdtrit(freedom, 0.975) * np.sqrt(freedom * finite.var())) if freedom > 0 else np.nan
    low, high = np.clip([value - half, value + half], *bounds)
    return Estimate(value, float(low), float(high), floor, ceiling)
