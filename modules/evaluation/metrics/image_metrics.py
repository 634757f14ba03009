"""How far a set of generated pictures is from a set of true ones, by the features that an extractor gives them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path
from typing import ClassVar

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from PIL import Image
from scipy.linalg import svdvals
from torch import Tensor

from modules.common.errors import UserError
from modules.data.images import to_rgb
from modules.evaluation.metrics.statistics import Figure, jackknife

NUM_SUBSETS, SUBSET_SIZE = 100, 1000  # Of the kernel distance, as its paper's code has them.
MAX_GROUPS = 20  # Each costs a Fréchet distance: 3 s for 1,000 pictures of 2,048 features on one core.
NUM_SPLITS = 5
INCEPTION_WIDTH = 2048
BATCH = 32
Features = NDArray[np.float64]
Groups = NDArray[np.int64]


def frechet_distance(a: ArrayLike, b: ArrayLike) -> float:
    """Fréchet distance of the Gaussians fitted to features a (N,F) and b (M,F), in float64 (arXiv 1706.08500).

    The covariances' term tr((Sa Sb)^1/2) is the sum of the singular values of Ra Rb^T, where S = R^T R: no square root
    of a matrix is taken, so that it is as exact where N <= F, and S singular, as elsewhere. The estimate is biased
    upwards at any N, by about 1/N (arXiv 1911.07023), and where N <= F mostly bias: compare only at equal N and M, and
    trust the kernel distance more.
    """
    a, b = _checked(a, b)
    difference, (root_a, root_b) = a.mean(0) - b.mean(0), (_covariance_root(a), _covariance_root(b))
    covariance_term = np.square(root_a).sum() + np.square(root_b).sum() - 2 * svdvals(root_a @ root_b.T).sum()
    return float(difference @ difference + max(0.0, covariance_term))


def _covariance_root(features: Features) -> Features:
    """R (min(N,F), F) with R^T R = the covariance of features (N,F)."""
    centered = (features - features.mean(0)) / np.sqrt(len(features) - 1)
    return centered if len(centered) <= centered.shape[1] else np.linalg.qr(centered, mode="r")


def kernel_distance(
    a: ArrayLike, b: ArrayLike, num_subsets: int = NUM_SUBSETS, subset_size: int = SUBSET_SIZE, seed: int = 0
) -> tuple[float, float]:
    """KID of features a (N,F) and b (M,F): the unbiased squared MMD under a cubic kernel (arXiv 1801.01401); mean and
    sd over subsets.

    Each subset holds `subset_size` rows of either, or as many as both have. The estimate may be below 0. The standard
    deviation is that of one subset, 0 where one holds all.
    """
    a, b = _checked(a, b)
    size, rng = min(subset_size, len(a), len(b)), np.random.default_rng(seed)
    if size == len(a) == len(b):
        num_subsets = 1
    values = []
    for _ in range(num_subsets):
        x, y = (rows[rng.choice(len(rows), size, replace=False)] for rows in (a, b))
        own = [kernel.sum() - kernel.trace() for kernel in (_kernel(x, x), _kernel(y, y))]
        values.append(_squared_mmd(*own, _kernel(x, y).sum(), size, size))
    return float(np.mean(values)), float(np.std(values))


def _kernel(x: Features, y: Features) -> Features:
    return (x @ y.T / x.shape[1] + 1) ** 3


def _squared_mmd(
    sum_aa: ArrayLike, sum_bb: ArrayLike, sum_ab: ArrayLike, num_a: ArrayLike, num_b: ArrayLike
) -> ArrayLike:
    """From the kernel's sums over pairs of different rows of a, of b, and over pairs of one of a and one of b."""
    return sum_aa / (num_a * (num_a - 1)) + sum_bb / (num_b * (num_b - 1)) - 2 * sum_ab / (num_a * num_b)


def _checked(a: ArrayLike, b: ArrayLike) -> tuple[Features, Features]:
    a, b = np.asarray(a, dtype=np.float64), np.asarray(b, dtype=np.float64)
    if a.ndim != 2 or a.shape[1:] != b.shape[1:]:
        raise ValueError(f"features must be (N,F) and (M,F), got {a.shape} and {b.shape}")
    if min(len(a), len(b)) < 2:
        raise UserError(
            f"a distance between sets of pictures needs 2 in each, got {len(a)} and {len(b)}: give more stories"
        )
    return a, b


def score_pictures(
    generated: ArrayLike,
    reference: ArrayLike,
    extractor_name: str,
    lengths: Sequence[int],
    reference_lengths: Sequence[int] | None = None,
    seed: int = 0,
) -> dict[str, Figure]:
    """Distances of features (N,F) from (M,F): `FD-<extractor>`, which is `FID` with Inception, and `KID-<extractor>`.

    `lengths` are the generated stories' numbers of pictures, `reference_lengths` those of the true stories (default:
    the same). The 95 % interval is `jackknife`'s over up to 20 groups of stories, of which both sides' pictures are
    left out
    together: a story that a bootstrap draws twice is a pair of equal pictures, which raises both distances. The floor
    is the distance between random halves of the reference's stories: what noise alone gives to half as many pictures,
    with about twice the bias of the Fréchet distance.
    """
    a, b = _checked(generated, reference)
    reference_lengths = lengths if reference_lengths is None else reference_lengths
    groups_a, groups_b = _deal(lengths, reference_lengths, seed)
    if (len(groups_a), len(groups_b)) != (len(a), len(b)):
        raise ValueError(
            f"lengths add up to {len(groups_a)} and {len(groups_b)} pictures, there are features of {len(a)} and {len(b)}"
        )
    halves = _halves(b, reference_lengths, seed)
    floors = [
        float(np.mean([distance(*half) for half in halves])) if halves else None
        for distance in (frechet_distance, lambda *half: kernel_distance(*half, seed=seed)[0])
    ]
    frechet, kernel = frechet_distance(a, b), kernel_distance(a, b, seed=seed)[0]
    return {
        "FID" if extractor_name == Inception.name else f"FD-{extractor_name}": jackknife(
            frechet, _frechet_left_out(a, b, groups_a, groups_b), floor=floors[0], bounds=(0, np.inf)
        ),
        f"KID-{extractor_name}": jackknife(kernel, _kernel_left_out(a, b, groups_a, groups_b), floor=floors[1]),
    }


def _deal(lengths: Sequence[int], reference_lengths: Sequence[int], seed: int) -> tuple[Groups, Groups]:
    """The group of stories that each row of either side belongs to: the same for the same story, else at random."""
    num_groups = min(MAX_GROUPS, len(lengths), len(reference_lengths))
    orders = (np.random.default_rng(seed).permutation(len(side)) for side in (lengths, reference_lengths))
    groups_a, groups_b = (
        np.repeat(order % num_groups, side) for order, side in zip(orders, (lengths, reference_lengths), strict=True)
    )
    return groups_a, groups_b


def _frechet_left_out(a: Features, b: Features, groups_a: Groups, groups_b: Groups) -> list[float]:
    """The distance without each group."""
    kept = [(a[groups_a != group], b[groups_b != group]) for group in np.union1d(groups_a, groups_b)]
    return [frechet_distance(x, y) for x, y in kept if min(len(x), len(y)) > 1]


def _kernel_left_out(a: Features, b: Features, groups_a: Groups, groups_b: Groups) -> Features:
    """The squared MMD of all pictures without each group, from the kernel's sums over pairs of groups."""
    groups = np.union1d(groups_a, groups_b)
    member_a, member_b = groups_a[:, None] == groups, groups_b[:, None] == groups
    sums = (
        _group_sums(a, member_a, a, member_a),
        _group_sums(b, member_b, b, member_b),
        _group_sums(a, member_a, b, member_b),
    )
    kept = 1.0 - np.eye(len(groups))
    left = [np.einsum("gi,ij,gj->g", kept, matrix, kept) for matrix in sums]
    with np.errstate(divide="ignore", invalid="ignore"):  # A group may hold all there is.
        return _squared_mmd(*left, kept @ member_a.sum(0), kept @ member_b.sum(0))


def _group_sums(x: Features, member_x: NDArray[np.bool_], y: Features, member_y: NDArray[np.bool_]) -> Features:
    """The kernel's sums (G,G) over pairs of rows by their groups; over pairs of different rows where both are the same
    set.
    """
    sums = []
    for members in member_x.T:  # One group's rows at a time: the whole kernel may not fit into memory.
        sums.append(_kernel(x[members], y).sum(0) @ member_y)
    own = ((np.square(x).sum(1) / x.shape[1] + 1) ** 3) @ member_x if x is y else np.zeros(len(sums))
    return np.array(sums) - np.diag(own)


def _halves(features: Features, lengths: Sequence[int], seed: int) -> list[tuple[Features, Features]]:
    """Random splits of the stories into halves; none where a half would hold fewer than 2 pictures."""
    stories, rng = np.repeat(np.arange(len(lengths)), lengths), np.random.default_rng(seed)
    told = np.unique(stories)
    firsts = [np.isin(stories, rng.permutation(told)[: len(told) // 2]) for _ in range(NUM_SPLITS)]
    return [(features[first], features[~first]) for first in firsts if min(first.sum(), (~first).sum()) > 1]


def refuse_same_folder(generated: Path, reference: Path) -> None:
    """Raise UserError where pictures would be compared with themselves: the folders are one, or one is inside the
    other.
    """
    first, second = generated.resolve(), reference.resolve()
    same = first == second or (first.exists() and second.exists() and first.samefile(second))
    if same or first in second.parents or second in first.parents:
        relation = "are the same folder" if same else "lie one inside the other"
        raise UserError(
            f"{generated} and {reference} {relation}: give generated and true pictures from two separate folders"
        )


@dataclass(frozen=True)
class Inception:
    """The Inception network that makes a Fréchet distance an FID. It resizes the pictures to 299 x 299 itself."""

    network: torch.jit.ScriptModule
    device: torch.device
    name: ClassVar[str] = "Inception"

    @torch.no_grad()
    def features(self, images: Sequence[Image.Image]) -> Tensor:
        """Pictures of any size -> features (N, 2048)."""
        batches = []
        for _, alike in groupby(map(to_rgb, images), key=lambda image: image.size):
            pixels = torch.from_numpy(np.stack([np.asarray(image) for image in alike])).permute(0, 3, 1, 2)
            batches += [self.network(part.to(self.device), return_features=True).cpu() for part in pixels.split(BATCH)]
        return torch.cat(batches)


def load_inception(path: str | Path, device: torch.device | str = "cpu") -> Inception:
    """Load Inception from a local TorchScript file, NVIDIA's `inception-2015-12-05.pt` as of StyleGAN2-ADA (arXiv
    2006.06676).

    Such a file is a program that will be run: take it from there only.

    Raises:
        UserError: the file is missing, no TorchScript, or does not turn pictures into 2,048 features.
    """
    expected = "give NVIDIA's inception-2015-12-05.pt"
    if not Path(path).is_file():
        raise UserError(f"no file {path} with Inception's weights: {expected}")
    try:
        inception = Inception(torch.jit.load(str(path), map_location=device).eval(), torch.device(device))
    except RuntimeError as error:
        raise UserError(f"{path} is no TorchScript file: {expected}") from error
    try:
        shape = tuple(inception.features([Image.new("RGB", (64, 64))] * 2).shape)
    except (RuntimeError, AttributeError, TypeError) as error:
        raise UserError(
            f"{path} cannot be called as Inception is, with uint8 pictures and return_features=True: {expected}"
        ) from error
    if shape != (2, INCEPTION_WIDTH):
        raise UserError(
            f"{path} turns 2 pictures into features of shape {shape}, not (2, {INCEPTION_WIDTH}): {expected}"
        )
    return inception
