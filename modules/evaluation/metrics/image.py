"""Fréchet distance (FD, FID) and kernel distance (KID) between two sets of pictures, in an extractor's features."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol, TypeVar, cast

import numpy as np
from numpy.typing import ArrayLike, NDArray
from PIL import Image
from scipy.linalg import svdvals
from torch import Tensor

from modules.common.errors import UserError
from modules.evaluation.metrics.statistics import Estimate, jackknife, mean_over_rows, story_of_rows

NUM_SUBSETS, SUBSET_SIZE = 100, 1000  # Of the kernel distance, as in the paper's code.
MAX_GROUPS = 20  # Each costs one Fréchet distance: 3 s for 1,000 pictures of 2,048 features on one core.
NUM_SPLITS = 5
SMALLEST_ERROR = 1e-10  # Of the PSNR, which is infinite without an error.
FID_EXTRACTOR = "Inception"  # Only with Inception's features is the Fréchet distance called FID.
Features = NDArray[np.float64]
Groups = NDArray[np.int64]
Numbers = TypeVar("Numbers", np.float64, Features)


class Extractor(Protocol):
    """Maps pictures to feature vectors; its name becomes part of the metrics' names."""

    name: str

    def features(self, images: Sequence[Image.Image]) -> Tensor:
        """Return features (N,F) of N pictures of any size."""


def frechet_distance(a: ArrayLike, b: ArrayLike) -> float:
    """Return the Fréchet distance of the Gaussians fitted to features a (N,F) and b (M,F) (arXiv 1706.08500).

    In float64, without a matrix square root: tr((Sa Sb)^1/2) is the sum of the singular values of Ra Rb^T, where
    S = R^T R, which is exact also for N <= F, when S is singular. The estimate is biased upwards by about 1/N (arXiv
    1911.07023), and for N <= F it is mostly bias: compare only at equal N and M, and trust the kernel distance more.
    """
    x, y = _checked(a, b)
    difference, root_x, root_y = x.mean(0) - y.mean(0), _covariance_root(x), _covariance_root(y)
    covariance_term = np.square(root_x).sum() + np.square(root_y).sum() - 2 * svdvals(root_x @ root_y.T).sum()
    return float(difference @ difference + max(0.0, covariance_term))


def _covariance_root(features: Features) -> Features:
    """Return R (min(N,F),F) with R^T R = the covariance of features (N,F)."""
    centered = (features - features.mean(0)) / np.sqrt(len(features) - 1)
    return centered if len(centered) <= centered.shape[1] else cast(Features, np.linalg.qr(centered, mode="r"))


def kernel_distance(
    a: ArrayLike, b: ArrayLike, num_subsets: int = NUM_SUBSETS, subset_size: int = SUBSET_SIZE, seed: int = 0
) -> tuple[float, float]:
    """Return KID of features a (N,F) and b (M,F), its mean and standard deviation over subsets (arXiv 1801.01401).

    KID is the unbiased squared MMD under a cubic kernel; it may be below 0. Each subset is `subset_size` rows of both
    sets, or as many as both have. The standard deviation is 0 if one subset contains all rows.
    """
    x, y = _checked(a, b)
    size, rng = min(subset_size, len(x), len(y)), np.random.default_rng(seed)
    if size == len(x) == len(y):
        num_subsets = 1
    values = []
    for _ in range(num_subsets):
        part_x, part_y = (rows[rng.choice(len(rows), size, replace=False)] for rows in (x, y))
        sum_xx, sum_yy = (
            kernel.sum() - kernel.trace() for kernel in (_kernel(part_x, part_x), _kernel(part_y, part_y))
        )
        number = np.float64(size)
        values.append(_squared_mmd(sum_xx, sum_yy, _kernel(part_x, part_y).sum(), number, number))
    return float(np.mean(values)), float(np.std(values))


def _kernel(x: Features, y: Features) -> Features:
    return (x @ y.T / x.shape[1] + 1) ** 3


def _squared_mmd(sum_aa: Numbers, sum_bb: Numbers, sum_ab: Numbers, num_a: Numbers, num_b: Numbers) -> Numbers:
    """Return the squared MMD from the kernel's sums over pairs of different rows of a, of b, and of a row of each."""
    return sum_aa / (num_a * (num_a - 1)) + sum_bb / (num_b * (num_b - 1)) - 2 * sum_ab / (num_a * num_b)


def _checked(a: ArrayLike, b: ArrayLike) -> tuple[Features, Features]:
    x, y = np.asarray(a, dtype=np.float64), np.asarray(b, dtype=np.float64)
    if x.ndim != 2 or x.shape[1:] != y.shape[1:]:
        raise ValueError(f"features must be (N,F) and (M,F), got {x.shape} and {y.shape}")
    if min(len(x), len(y)) < 2:
        raise UserError(
            f"a distance between sets of pictures needs 2 in each, got {len(x)} and {len(y)}: give more stories"
        )
    return x, y


def distances(
    generated: ArrayLike,
    reference: ArrayLike,
    extractor_name: str,
    lengths: Sequence[int],
    reference_lengths: Sequence[int] | None = None,
    seed: int = 0,
) -> dict[str, Estimate]:
    """Return distances of features (N,F) from (M,F): `FD-<extractor>`, or `FID` with Inception, and `KID-<extractor>`.

    `lengths` are the generated stories' numbers of pictures, `reference_lengths` those of the true stories (default:
    the same). The interval is the jackknife's over up to 20 groups of stories, each left out on both sides at once: a
    bootstrap would duplicate pictures, which raises both distances. The floor is the mean distance between random
    halves of the true stories: half as many pictures, hence about twice the bias of the Fréchet distance.
    """
    a, b = _checked(generated, reference)
    reference_lengths = lengths if reference_lengths is None else reference_lengths
    groups_a, groups_b = _deal(lengths, reference_lengths, seed)
    if (len(groups_a), len(groups_b)) != (len(a), len(b)):
        raise ValueError(
            f"lengths add up to {len(groups_a)} and {len(groups_b)} pictures, but there are features of {len(a)} and "
            f"{len(b)}"
        )
    halves = _halves(b, reference_lengths, seed)
    frechet_floor = _mean([frechet_distance(x, y) for x, y in halves])
    kernel_floor = _mean([kernel_distance(x, y, seed=seed)[0] for x, y in halves])
    frechet, kernel = frechet_distance(a, b), kernel_distance(a, b, seed=seed)[0]
    frechet_name = "FID" if extractor_name == FID_EXTRACTOR else f"FD-{extractor_name}"
    frechet_parts, kernel_parts = (
        left_out(a, b, groups_a, groups_b) for left_out in (_frechet_left_out, _kernel_left_out)
    )
    return {
        frechet_name: jackknife(frechet, frechet_parts, floor=frechet_floor, bounds=(0, np.inf)),
        f"KID-{extractor_name}": jackknife(kernel, kernel_parts, floor=kernel_floor),
    }


def peak_signal_to_noise(errors: ArrayLike, lengths: Sequence[int], seed: int = 0) -> Estimate:
    """Return the PSNR in decibels of N pictures with the mean squared `errors` (N,), for pixels in [0,1].

    It is that of the mean error over all pictures, which are of stories of `lengths` pictures; the interval is over
    stories.
    """
    mean = mean_over_rows(errors, story_of_rows(lengths), seed)
    # The larger the error, the lower the PSNR: the ends of the interval change places.
    value, low, high = (-10 * np.log10(max(error, SMALLEST_ERROR)) for error in (mean.value, mean.high, mean.low))
    return Estimate(float(value), float(low), float(high))


def _mean(values: Sequence[float]) -> float | None:
    return float(np.mean(values)) if values else None


def _deal(lengths: Sequence[int], reference_lengths: Sequence[int], seed: int) -> tuple[Groups, Groups]:
    """Deal stories to groups at random -> the group of each row of both sides; the same story gets the same group."""
    num_groups = min(MAX_GROUPS, len(lengths), len(reference_lengths))

    def deal(side: Sequence[int]) -> Groups:
        return np.repeat(np.random.default_rng(seed).permutation(len(side)) % num_groups, side)

    return deal(lengths), deal(reference_lengths)


def _frechet_left_out(a: Features, b: Features, groups_a: Groups, groups_b: Groups) -> Features:
    """Return the Fréchet distance without each group (G,)."""
    kept = [(a[groups_a != group], b[groups_b != group]) for group in np.union1d(groups_a, groups_b)]
    return np.array([frechet_distance(x, y) for x, y in kept if min(len(x), len(y)) > 1])


def _kernel_left_out(a: Features, b: Features, groups_a: Groups, groups_b: Groups) -> Features:
    """Return the squared MMD of all pictures without each group (G,), from the kernel's sums over pairs of groups."""
    groups = np.union1d(groups_a, groups_b)
    member_a, member_b = groups_a[:, None] == groups, groups_b[:, None] == groups
    kept = 1.0 - np.eye(len(groups))

    def total(x: Features, member_x: NDArray[np.bool_], y: Features, member_y: NDArray[np.bool_]) -> Features:
        return np.einsum("gi,ij,gj->g", kept, _group_sums(x, member_x, y, member_y), kept)

    sum_aa, sum_bb, sum_ab = (
        total(a, member_a, a, member_a),
        total(b, member_b, b, member_b),
        total(a, member_a, b, member_b),
    )
    with np.errstate(divide="ignore", invalid="ignore"):  # One group may contain all rows.
        return _squared_mmd(sum_aa, sum_bb, sum_ab, kept @ member_a.sum(0), kept @ member_b.sum(0))


def _group_sums(x: Features, member_x: NDArray[np.bool_], y: Features, member_y: NDArray[np.bool_]) -> Features:
    """Return the kernel's sums (G,G) over pairs of rows by group; over pairs of different rows if x and y are one."""
    # One group's rows at a time: the whole kernel may not fit into memory.
    sums = [_kernel(x[members], y).sum(0) @ member_y for members in member_x.T]
    own = ((np.square(x).sum(1) / x.shape[1] + 1) ** 3) @ member_x if x is y else np.zeros(len(sums))
    return np.array(sums) - np.diag(own)


def _halves(features: Features, lengths: Sequence[int], seed: int) -> list[tuple[Features, Features]]:
    """Return random splits of the stories into halves; none if a half would contain fewer than 2 pictures."""
    stories, rng = story_of_rows(lengths), np.random.default_rng(seed)
    numbers = np.unique(stories)
    firsts = [np.isin(stories, rng.permutation(numbers)[: len(numbers) // 2]) for _ in range(NUM_SPLITS)]
    return [(features[first], features[~first]) for first in firsts if min(first.sum(), (~first).sum()) > 1]
