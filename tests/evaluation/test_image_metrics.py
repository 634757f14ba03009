"""Distances between sets of pictures: known answers, invariances, and refused input."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from scipy.linalg import cholesky, eigh

from modules.common.errors import UserError
from modules.evaluation.folders import refuse_same_folder
from modules.evaluation.metrics.image import (
    _kernel_left_out,
    distances,
    frechet_distance,
    kernel_distance,
    peak_signal_to_noise,
)
from modules.evaluation.metrics.inception import load_inception


def features(seed: int, num_rows: int, width: int) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=(num_rows, width))


def with_moments(seed: int, mean: list[float], covariance: list[list[float]], num_rows: int = 50) -> np.ndarray:
    """Rows of exactly this mean and this covariance."""
    rows = features(seed, num_rows, len(mean))
    rows -= rows.mean(0)
    return rows @ np.linalg.inv(cholesky(np.cov(rows.T))) @ cholesky(np.array(covariance)) + mean


def frechet_by_eigh(a: np.ndarray, b: np.ndarray) -> float:
    """The textbook's form."""
    first, second = np.cov(a.T), np.cov(b.T)
    values, vectors = eigh(first)
    root = vectors * np.sqrt(values.clip(0)) @ vectors.T
    crossed = np.sqrt(eigh(root @ second @ root, eigvals_only=True).clip(0)).sum()
    return float(np.square(a.mean(0) - b.mean(0)).sum() + np.trace(first) + np.trace(second) - 2 * crossed)


def squared_mmd(a: np.ndarray, b: np.ndarray) -> float:
    """The definition, a pair at a time."""

    def mean(pairs: list[tuple[np.ndarray, np.ndarray]]) -> float:
        return float(np.mean([(x @ y / len(x) + 1) ** 3 for x, y in pairs]))

    within = [mean([(x, y) for i, x in enumerate(rows) for j, y in enumerate(rows) if i != j]) for rows in (a, b)]
    return sum(within) - 2 * mean([(x, y) for x in a for y in b])


# The Fréchet distance


def test_frechet_distance_of_known_gaussians():
    a = with_moments(0, [0, 0], [[1, 0], [0, 9]])
    b = with_moments(1, [3, 4], [[4, 0], [0, 4]])
    assert frechet_distance(a, b) == pytest.approx(3**2 + 4**2 + (1 - 2) ** 2 + (3 - 2) ** 2)
    turned = with_moments(2, [0, 0], [[5, 4], [4, 5]])  # Eigenvalues 9 and 1, along other axes than a's.
    crossed = 2 * np.sqrt(np.sqrt(9 * 9) * 2 + 5 + 45)  # tr of a 2x2 root: sqrt(tr + 2 sqrt(det)).
    assert frechet_distance(a, turned) == pytest.approx(10 + 10 - crossed)


@pytest.mark.parametrize("num_rows", [200, 21, 20, 7])
def test_frechet_distance_also_of_singular_covariances(num_rows):
    a, b = features(0, num_rows, 20), 1.5 * features(1, 30, 20) + 0.3
    assert frechet_distance(a, b) == pytest.approx(frechet_by_eigh(a, b), rel=1e-6)
    assert frechet_distance(a, b) == pytest.approx(frechet_distance(b, a))
    assert frechet_distance(a[::-1], b) == pytest.approx(frechet_distance(a, b))
    assert frechet_distance(a, a[::-1]) == pytest.approx(0, abs=1e-11)
    assert frechet_distance(a, a + 2) == pytest.approx(4 * 20)


def test_frechet_distance_bias_falls_with_more_pictures():
    means = [
        np.mean([frechet_distance(features(2 * i, n, 8), features(2 * i + 1, n, 8)) for i in range(20)])
        for n in (40, 160)
    ]
    assert means[0] / means[1] == pytest.approx(4, rel=0.15)


# The kernel distance


def test_kernel_distance_is_its_definition_whatever_the_order():
    a, b = features(0, 9, 5), features(1, 9, 5) + 0.5
    value, deviation = kernel_distance(a, b)
    assert (value, deviation) == (pytest.approx(squared_mmd(a, b)), 0)
    assert kernel_distance(b[::-1], a)[0] == pytest.approx(value)


def test_kernel_distance_is_unbiased():
    values = [kernel_distance(features(2 * i, 12, 3), features(2 * i + 1, 12, 3))[0] for i in range(400)]
    assert abs(np.mean(values)) < 3 * np.std(values) / 20
    assert min(values) < 0 < max(values)


def test_kernel_distance_over_subsets_is_near_that_of_all():
    a, b = features(0, 60, 4), features(1, 70, 4) + 0.5
    value, deviation = kernel_distance(a, b, num_subsets=200, subset_size=30)
    assert value == pytest.approx(squared_mmd(a, b), abs=4 * deviation / np.sqrt(200))
    assert deviation > 0
    assert (
        kernel_distance(a, b, 5, 30, seed=1)
        == kernel_distance(a, b, 5, 30, seed=1)
        != kernel_distance(a, b, 5, 30, seed=2)
    )


# Estimates


def test_the_same_pictures_are_at_no_distance():
    a = features(0, 40, 6)
    figures = distances(a, a, "judge", [4] * 10)
    assert list(figures) == ["FD-judge", "KID-judge"]
    assert figures["FD-judge"].value == pytest.approx(0, abs=1e-11)
    assert figures["FD-judge"].low >= 0
    assert figures["FD-judge"].floor > 0.1
    assert figures["KID-judge"].value <= 0


def test_both_sides_of_a_story_are_left_out_together():
    """The same shift everywhere is the same distance whichever story is left out."""
    a = features(0, 30, 6)
    figure = distances(a + 2, a, "judge", [3, 0, 5, 2, 10, 4, 6])["FD-judge"]
    assert (figure.low, figure.value, figure.high) == pytest.approx((24, 24, 24))
    apart = distances(a + 2, a[::-1], "judge", [3, 0, 5, 2, 10, 4, 6], [6, 4, 10, 2, 5, 0, 3])["FD-judge"]
    assert apart.value == pytest.approx(24)
    assert apart.high - apart.low > 1


def test_kernel_distance_without_a_group_is_that_of_the_rest():
    a, b = features(0, 20, 5), features(1, 25, 5) + 0.4
    groups_a, groups_b = np.repeat([2, 0, 1], [7, 5, 8]), np.repeat([0, 1, 2], [10, 8, 7])
    expected = [squared_mmd(a[groups_a != group], b[groups_b != group]) for group in range(3)]
    assert _kernel_left_out(a, b, groups_a, groups_b) == pytest.approx(expected)


@pytest.mark.parametrize("same_stories", [True, False])
def test_intervals_cover_the_expected_distance(same_stories):
    """Pages of a story are alike: 30 stories of 4 pages tell less than 120 pages would."""
    rng, found = np.random.default_rng(0), []
    for seed in range(40):
        a, b = ((rng.normal(size=(30, 1, 3)) + rng.normal(size=(30, 4, 3))).reshape(120, 3) for _ in range(2))
        a = 0.7 * b + 0.4 * a if same_stories else 1.2 * a
        found.append(distances(a, b, "x", [4] * 30, seed=seed))
    for name in ("FD-x", "KID-x"):
        expected = np.mean([figures[name].value for figures in found])
        assert 34 <= sum(figures[name].low <= expected <= figures[name].high for figures in found)
        widths = [(figures[name].high - figures[name].low) / 2 for figures in found]
        assert np.median(widths) < 3.5 * np.std([figures[name].value for figures in found])


def test_distances_are_the_same_for_the_same_seed_only():
    a, b = features(0, 60, 4), features(1, 60, 4)
    assert distances(a, b, "x", [2] * 30, seed=1) == distances(a, b, "x", [2] * 30, seed=1)
    assert distances(a, b, "x", [2] * 30, seed=1) != distances(a, b, "x", [2] * 30, seed=2)


def test_one_story_has_neither_width_nor_floor():
    figure = distances(features(0, 5, 3), features(1, 5, 3), "x", [5])["FD-x"]
    assert figure.value > 0 and figure.floor is None
    assert np.isnan([figure.low, figure.high]).all()


def test_too_few_pictures_are_told_and_wrong_shapes_raise():
    with pytest.raises(UserError, match="needs 2 in each, got 1 and 4"):
        distances(features(0, 1, 3), features(1, 4, 3), "x", [1], [4])
    with pytest.raises(ValueError, match="lengths add up to 5 and 5"):
        distances(features(0, 4, 3), features(1, 4, 3), "x", [5])
    with pytest.raises(ValueError, match="features must be"):
        frechet_distance(features(0, 4, 3), features(1, 4, 2))


# Folders


def test_pictures_are_not_compared_with_themselves(tmp_path):
    for name in ("out", "out2", "out/deep"):
        (tmp_path / name).mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "out", target_is_directory=True)
    for first, second in (("out", "out"), ("out", "link"), ("out/../out", "link")):
        with pytest.raises(UserError, match="are the same folder"):
            refuse_same_folder(tmp_path / first, tmp_path / second)
    for first, second in (("out", "out/deep"), ("link/deep", "out")):
        with pytest.raises(UserError, match="lie one inside the other"):
            refuse_same_folder(tmp_path / first, tmp_path / second)
    with pytest.raises(UserError, match="none is not a folder"):
        refuse_same_folder(tmp_path / "out", tmp_path / "none")
    refuse_same_folder(tmp_path / "out", tmp_path / "out2")


# Inception


class Stub(torch.nn.Module):
    """Called as Inception is; its features are the mean colour."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.width = width

    def forward(self, img: torch.Tensor, return_features: bool = False) -> torch.Tensor:
        assert img.dtype == torch.uint8 and return_features
        return img.float().mean((2, 3)).repeat(1, self.width // 3 + 1)[:, : self.width]


class OtherCall(torch.nn.Module):
    def forward(self, img: torch.Tensor) -> torch.Tensor:
        return img.float()


def scripted(module: torch.nn.Module, path: Path) -> Path:
    torch.jit.script(module).save(str(path))
    return path


def test_inception_sees_whole_pictures_and_names_the_figure(tmp_path):
    inception = load_inception(scripted(Stub(2048), tmp_path / "inception.pt"))
    colors, sizes = [(9, 0, 0), (0, 200, 0), (1, 2, 3), (4, 5, 6)], [(8, 8), (8, 8), (6, 4), (8, 8)]
    found = inception.features([Image.new("RGB", size, color) for color, size in zip(colors, sizes, strict=True)])
    assert found.shape == (4, 2048)
    assert found[:, :3].tolist() == [list(color) for color in colors]
    assert list(distances(found, found, inception.name, [2, 2])) == ["FID", "KID-Inception"]


def test_what_is_no_inception_is_told(tmp_path):
    (tmp_path / "text.pt").write_text("weights")
    torch.save({"weight": torch.zeros(2)}, tmp_path / "state.pt")
    cases = {
        tmp_path / "none.pt": "no file",
        tmp_path: "no file",
        tmp_path / "text.pt": "is no TorchScript file",
        tmp_path / "state.pt": "is no TorchScript file",
        scripted(OtherCall(), tmp_path / "call.pt"): "cannot be called as Inception is",
        scripted(Stub(1000), tmp_path / "narrow.pt"): r"features of shape \(2, 1000\)",
    }
    for path, message in cases.items():
        with pytest.raises(UserError, match=message) as error:
            load_inception(path)
        assert str(path) in str(error.value)
        assert str(error.value).endswith("give NVIDIA's inception-2015-12-05.pt")


def test_psnr_is_that_of_the_mean_error():
    same = peak_signal_to_noise([0.01] * 4, [2, 2])
    assert (same.value, same.low, same.high) == pytest.approx((20, 20, 20))
    mixed = peak_signal_to_noise([0.1, 0.1, 0.001, 0.001], [2, 2])
    assert mixed.value == pytest.approx(-10 * np.log10(0.0505))
    assert (mixed.low, mixed.high) == pytest.approx((10, 30))
    assert peak_signal_to_noise([0.0], [1]).value == pytest.approx(100)
