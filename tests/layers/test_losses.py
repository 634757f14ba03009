"""Pure functions of a training step: means, sums, schedule, sampling from logits, and the random numbers of a pass."""

from __future__ import annotations

from itertools import pairwise

import pytest
import torch

from modules.batch import draw_noise
from modules.layers.losses import cosine_distance, masked_mean, weighted_sum
from modules.layers.plan_window import MAX_SEEN
from modules.prior.sampling import sample_logits
from modules.training.optimizer import cosine_with_warmup

SHAPE = (2, 3, 3)


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


# --- means and sums


def test_masked_mean_counts_what_the_mask_shows():
    values, mask = torch.tensor([[1.0, 2.0], [30.0, float("nan")]]), torch.tensor([[True, True], [True, False]])
    assert masked_mean(values, mask) == 11
    assert masked_mean(values, mask, torch.tensor(66.0)) == 0.5
    assert masked_mean(values, torch.tensor([True, False])) == 1.5  # The mask of rows covers their columns.
    assert masked_mean(values, torch.zeros(2, 2, dtype=torch.bool)) == 0


def test_masked_mean_gives_no_gradient_under_the_mask():
    values = torch.tensor([1.0, float("inf"), 3.0], requires_grad=True)
    masked_mean(values, torch.tensor([True, False, True])).backward()
    assert values.grad.tolist() == [0.5, 0, 0.5]


def test_masked_mean_is_taken_in_float32():
    values = torch.full((5000,), 1.0, dtype=torch.bfloat16)
    assert masked_mean(values, torch.ones(5000, dtype=torch.bool)) == 1


def test_cosine_distance_is_that_of_directions():
    a = torch.tensor([[1.0, 0.0], [3.0, 4.0], [2.0, 0.0], [0.0, 5.0]])
    b = torch.tensor([[7.0, 0.0], [4.0, 3.0], [0.0, 1.0], [0.0, -1.0]])
    torch.testing.assert_close(cosine_distance(a, b), torch.tensor([0.0, 0.04, 1.0, 2.0]))
    torch.testing.assert_close(cosine_distance(a[None, :2], b[:2].view(1, 2, 2)), torch.tensor([[0.0, 0.04]]))
    assert cosine_distance(torch.zeros(3, 2), torch.zeros(3, 2)).isfinite().all()


def test_cosine_distance_is_taken_in_float32():
    a = torch.randn(50, 32, generator=generator()).bfloat16()
    distance = cosine_distance(a, a)
    assert distance.dtype == torch.float32 and distance.abs().max() < 1e-6


def test_weighted_sum_needs_a_weight_for_every_loss():
    losses = {"a": torch.tensor(2.0), "b": torch.tensor(3.0)}
    assert weighted_sum(losses, {"a": 10, "b": 0.5, "c": 7}) == 21.5
    with pytest.raises(KeyError, match="b"):
        weighted_sum(losses, {"a": 1})


# --- learning rate


def test_learning_rate_rises_then_falls_to_its_floor():
    factors = [cosine_with_warmup(step, 100, 10, 0.05) for step in range(101)]
    assert factors[0] == pytest.approx(0.1) and factors[9] == factors[10] == 1
    assert factors[:10] == pytest.approx([(step + 1) / 10 for step in range(10)])
    assert factors[55] == pytest.approx((1 + 0.05) / 2) and factors[100] == pytest.approx(0.05)
    assert all(first > second for first, second in pairwise(factors[10:]))
    assert cosine_with_warmup(500, 100, 10, 0.05) == pytest.approx(0.05)


def test_learning_rate_of_very_short_runs():
    assert 0 < cosine_with_warmup(0, 1, 1, 0.05) <= 1
    assert cosine_with_warmup(5, 5, 5, 0.1) == 1


# --- codes from logits


def drawn(probabilities: list[float], temperature: float = 1.0, top_p: float = 1.0, count: int = 4000) -> torch.Tensor:
    """The shares of each index among `count` draws."""
    logits = torch.tensor(probabilities).log().expand(count, -1)
    return torch.bincount(sample_logits(logits, temperature, top_p, generator()), minlength=len(probabilities)) / count


def test_draws_follow_the_probabilities_and_the_temperature():
    probabilities = [0.1, 0.2, 0.3, 0.4]
    torch.testing.assert_close(drawn(probabilities), torch.tensor(probabilities), atol=0.03, rtol=0)
    squared = torch.tensor(probabilities).square()
    torch.testing.assert_close(drawn(probabilities, temperature=0.5), squared / squared.sum(), atol=0.03, rtol=0)


@pytest.mark.parametrize(
    ("top_p", "kept"),
    [(1.0, {0, 1, 2, 3}), (0.96, {0, 1, 2, 3}), (0.9, {0, 1, 3}), (0.79, {1, 3}), (0.5, {3}), (0.01, {3})],
)
def test_top_p_keeps_the_smallest_set(top_p, kept):
    shares = drawn([0.15, 0.3, 0.05, 0.5], top_p=top_p)
    assert set(shares.nonzero()[:, 0].tolist()) == kept
    probabilities = torch.tensor([0.15, 0.3, 0.05, 0.5])
    expected = torch.tensor([probabilities[i] if i in kept else 0.0 for i in range(4)])
    torch.testing.assert_close(shares, expected / expected.sum(), atol=0.03, rtol=0)


def test_top_p_is_taken_after_the_temperature():
    assert set(drawn([0.4, 0.35, 0.25], temperature=0.1, top_p=0.7).nonzero()[:, 0].tolist()) == {0}


def test_temperature_zero_takes_the_best_of_each_row():
    logits = torch.tensor([[1.0, 3.0, 2.0], [5.0, 0.0, -1.0]])
    assert sample_logits(logits, 0, 0.5, None).tolist() == sample_logits(logits, 0, 1.0, generator()).tolist() == [1, 0]


# --- the random numbers of a pass


def test_noise_is_a_function_of_its_generator():
    first, second, third = (draw_noise(40, SHAPE, 1000, generator(seed), 0.25, 0.3, 0.3, 0.4) for seed in (1, 1, 2))
    assert all(torch.equal(first[name], second[name]) for name in first)
    assert not any(torch.equal(first[name], third[name]) for name in first)
    assert first.noise.shape == (40, *SHAPE) and first.timesteps.shape == (40,)


def test_noise_can_be_cut_into_rows():
    noise = draw_noise(12, SHAPE, 1000, generator(), 0.25, 0.3, 0.3, 0.4)
    parts = [noise.rows(0, 5), noise.rows(5, 12)]
    assert [len(part.noise) for part in parts] == [5, 7]
    assert all(torch.equal(torch.cat([part[name] for part in parts]), value) for name, value in noise.items())


@pytest.mark.parametrize("num_rows", [1, 7, 60, 1000, 2500])
def test_timesteps_are_stratified_and_in_range(num_rows):
    timesteps = draw_noise(num_rows, SHAPE, 1000, generator()).timesteps
    assert timesteps.dtype == torch.long and timesteps.min() >= 0 and timesteps.max() <= 999
    strata = torch.arange(num_rows + 1) * 1000 / num_rows
    ordered = timesteps.sort().values
    assert (ordered >= strata[:-1].floor()).all() and (ordered <= strata[1:].ceil()).all()
    assert num_rows < 60 or not torch.equal(timesteps, ordered)  # Which row gets which stratum is random.


def test_every_timestep_is_as_likely():
    timesteps = torch.cat([draw_noise(10, SHAPE, 4, generator(seed)).timesteps for seed in range(400)])
    torch.testing.assert_close(torch.bincount(timesteps) / 4000, torch.full((4,), 0.25), atol=0.02, rtol=0)


def test_dropout_has_its_rates():
    noise = draw_noise(20_000, (1, 1, 1), 1000, generator(), modality_dropout=0.25, null_text=0.05, null_image=0.1)
    rates = {name: (~noise[name]).float().mean().item() for name in ("keep_text", "keep_image")}
    rates |= {name: noise[name].float().mean().item() for name in ("null_text", "null_image")}
    assert rates == pytest.approx(
        {"keep_text": 0.25, "keep_image": 0.25, "null_text": 0.05, "null_image": 0.1}, abs=0.01
    )
    assert (noise.keep_text | noise.keep_image).all()
    assert (noise.null_text & noise.null_image).float().mean() == pytest.approx(0.005, abs=0.003)  # Drawn apart.


def test_nothing_is_dropped_unless_asked():
    noise = draw_noise(500, (1, 1, 1), 1000, generator())
    assert noise.keep_text.all() and noise.keep_image.all()
    assert not any(noise[name].any() for name in ("null_text", "null_image", "hidden_pages"))


def test_pages_of_the_plan_are_hidden_last():
    """All other numbers are those drawn without it."""
    plain, hiding = (draw_noise(40, SHAPE, 1000, generator(), 0.25, 0.3, 0.3, rate) for rate in (0.0, 0.4))
    assert hiding.hidden_pages.shape == plain.hidden_pages.shape == (40, MAX_SEEN)
    assert all(torch.equal(plain[name], hiding[name]) for name in plain if name != "hidden_pages")
    assert hiding.hidden_pages.any() and not plain.hidden_pages.any()


def test_page_dropout_has_its_rates():
    """Of the steps that lose pages, every number of lost pages is as likely."""
    hidden = draw_noise(20_000, (1, 1, 1), 1000, generator(), page_dropout=0.4).hidden_pages
    assert hidden.float().mean().item() == pytest.approx(0.4 / 2, abs=0.01)
    assert hidden.any(1).float().mean().item() == pytest.approx(0.4 * MAX_SEEN / (MAX_SEEN + 1), abs=0.01)
    always = draw_noise(20_000, (1, 1, 1), 1000, generator(), page_dropout=1.0).hidden_pages
    shares = torch.bincount(always.sum(1), minlength=MAX_SEEN + 1) / 20_000
    torch.testing.assert_close(shares, torch.full((MAX_SEEN + 1,), 1 / (MAX_SEEN + 1)), atol=0.01, rtol=0)


def test_noise_is_standard_normal():
    noise = draw_noise(2000, SHAPE, 1000, generator()).noise
    assert noise.mean().item() == pytest.approx(0, abs=0.02) and noise.std().item() == pytest.approx(1, abs=0.02)
