"""The diffusion term of the bound: true VLB weights, unbiased estimates, and exact predictors."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch
from torch import Tensor
from torch.distributions import Normal, kl_divergence

from modules.common.errors import UserError
from modules.evaluation.diffusion_bound import diffusion_vlb, end_nats, sample_timesteps, vlb_weights
from modules.image_decoder.config import ImageDecoderConfig
from modules.image_decoder.image_decoder import ImageDecoder
from modules.presets import TINY
from modules.training.reliance import Condition

SCHEDULES = [
    ("v_prediction", 1000, True),
    ("v_prediction", 50, False),
    ("epsilon", 1000, False),
    ("epsilon", 50, False),
]


def with_schedule(decoder: ImageDecoder, prediction_type: str, num_timesteps: int, zero_snr: bool) -> ImageDecoder:
    """A decoder with a pretrained model's noise schedule, cut to 50 timesteps, which leave much of the picture."""
    own = {"prediction_type": prediction_type, "num_train_timesteps": num_timesteps, "rescale_betas_zero_snr": zero_snr}
    decoder.noise_schedule |= own | ({} if zero_snr else {"beta_start": 0.00085, "beta_end": 0.012})
    decoder.alphas_cumprod = decoder.make_scheduler("ddim").alphas_cumprod.clone()
    return decoder


@pytest.mark.parametrize("schedule", SCHEDULES)
def test_weights_equal_the_divergence_from_the_posterior(schedule):
    """KL(q(x_{t-1} | x_t, x_0) || p(x_{t-1} | x_t)) from DDPM's own formulas (arXiv 2006.11239, equations 6 and 7)."""
    decoder = with_schedule(ImageDecoder(TINY.image_decoder, (4, 4, 4), 8, 8), *schedule)
    weights, _ = vlb_weights(decoder.alphas_cumprod, decoder.prediction_type)
    alphas = decoder.alphas_cumprod.double()
    before, after = alphas[:-1], alphas[1:]
    beta = 1 - after / before
    variance, slope = (1 - before) / (1 - after) * beta, before.sqrt() * beta / (1 - after)
    clean = (
        (1 - after) / after if schedule[0] == "epsilon" else 1 - after
    )  # The error of x_0 for each unit of the loss.
    torch.testing.assert_close(weights[1:], slope**2 / (2 * variance) * clean, rtol=1e-6, atol=0)
    assert weights[0] == pytest.approx(0.5 if schedule[0] == "epsilon" else alphas[0] / 2)
    assert torch.isfinite(weights).all()
    assert (weights > 0).all()


def test_what_is_left_of_the_picture_at_the_end_is_paid_for():
    latents = 2 * torch.randn(4, 4, 4, generator=torch.Generator().manual_seed(0))
    for alpha in (0.0, 0.0047, 0.8):
        ends = Normal(math.sqrt(alpha) * latents, math.sqrt(1 - alpha)), Normal(torch.zeros(4, 4, 4), 1.0)
        assert end_nats(torch.tensor([0.9, alpha]), latents) == pytest.approx(
            kl_divergence(*ends).sum().item(), rel=1e-5
        )
    assert end_nats(torch.tensor([0.9, 0.0]), latents) == 0


def test_noise_predicted_of_noise_alone_has_no_bound():
    decoder = with_schedule(ImageDecoder(TINY.image_decoder, (4, 4, 4), 8, 8), "epsilon", 1000, True)
    with pytest.raises(UserError, match="predicts noise and its schedule ends at zero signal-to-noise"):
        vlb_weights(decoder.alphas_cumprod, decoder.prediction_type)


def test_strata_take_every_small_timestep_and_no_timestep_twice():
    weights, _ = vlb_weights(ImageDecoder(ImageDecoderConfig(), (4, 4, 4), 8, 8).alphas_cumprod, "v_prediction")
    sample = sample_timesteps(weights, 64, (4, 4, 4), torch.Generator().manual_seed(0))
    assert sample.timesteps[:9].tolist() == list(range(9))
    assert (sample.timesteps.diff() > 0).all()
    assert (sample.timesteps < 50).sum() >= 20
    assert sample.weights.sum() == pytest.approx(weights.sum())
    assert sample.weights[9:].max() < 1.5 * weights.sum() / 64
    everything = sample_timesteps(weights, 5000, (1, 1, 1), torch.Generator())
    assert everything.timesteps.tolist() == list(range(1000))
    torch.testing.assert_close(everything.weights, weights)


@pytest.mark.parametrize("count", [8, 64])
def test_estimate_of_any_error_curve_is_unbiased(count):
    weights, _ = vlb_weights(ImageDecoder(ImageDecoderConfig(), (4, 4, 4), 8, 8).alphas_cumprod, "v_prediction")
    errors, generator = torch.linspace(1, -2, 1000, dtype=torch.float64).exp(), torch.Generator().manual_seed(0)
    samples = [sample_timesteps(weights, count, (1, 1, 1), generator) for _ in range(500)]
    estimates = torch.stack([(sample.weights * errors[sample.timesteps]).sum() for sample in samples])
    assert estimates.std() > 0
    assert abs(estimates.mean() - (weights * errors).sum()) < 3 * estimates.std() / 500**0.5


def test_few_timesteps_estimate_what_all_of_them_give():
    """Noise is the same at all timesteps, so that nothing but their choice makes estimates differ."""
    torch.manual_seed(0)
    decoder = ImageDecoder(replace(TINY.image_decoder, num_train_timesteps=16), (4, 4, 4), 8, 8).eval()
    weights, _ = vlb_weights(decoder.alphas_cumprod, decoder.prediction_type)
    page, generator = Condition(torch.randn(1, 8, 8), None), torch.Generator().manual_seed(1)
    latents, noise = torch.randn(4, 4, 4), torch.randn(1, 4, 4, 4)

    @torch.no_grad()
    def estimate(count: int) -> float:
        sample = sample_timesteps(weights, count, latents.shape, generator)
        return diffusion_vlb(decoder, page, latents, replace(sample, noise=noise.expand_as(sample.noise)))

    few, full = torch.tensor([estimate(8) for _ in range(60)], dtype=torch.float64), estimate(16)
    assert 0 < few.std() < 0.1 * abs(full)
    assert abs(few.mean() - full) < 3 * few.std() / 60**0.5


class ExactGaussian(ImageDecoder):
    """What a perfect network would predict for latents that are N(0, deviation^2)."""

    deviation = 0.5

    def predict(self, noisy: Tensor, timesteps: Tensor, *_: Tensor | None, **__: None) -> Tensor:
        alpha = self.alphas_cumprod[timesteps].sqrt()[:, None, None, None]
        sigma = (1 - self.alphas_cumprod[timesteps]).sqrt()[:, None, None, None]
        clean = alpha * self.deviation**2 / (alpha**2 * self.deviation**2 + sigma**2) * noisy
        return (noisy - alpha * clean if self.prediction_type == "epsilon" else alpha * noisy - clean) / sigma


@pytest.mark.parametrize("schedule", SCHEDULES)
def test_bound_of_an_exact_gaussian_predictor_is_analytic(schedule):
    decoder, shape = with_schedule(ExactGaussian(TINY.image_decoder, (4, 32, 32), 8, 8), *schedule), (4, 32, 32)
    weights, _ = vlb_weights(decoder.alphas_cumprod, decoder.prediction_type)
    generator, page = torch.Generator().manual_seed(0), Condition(torch.zeros(1, 8, 8), None)
    nats = []
    for _ in range(20):
        latents = decoder.deviation * torch.randn(shape, generator=generator)
        nats.append(
            diffusion_vlb(decoder, page, latents, sample_timesteps(weights, 64, shape, generator)) / latents.numel()
        )

    alphas, variance = decoder.alphas_cumprod.double(), decoder.deviation**2
    error = variance * (1 - alphas) / (alphas * variance + 1 - alphas)  # E |x_0 - E[x_0 | x_t]|^2 a dimension.
    snr = alphas / (1 - alphas)
    steps = torch.cat([snr[:1], snr[:-1] - snr[1:]])
    end = (alphas[-1] * (variance - 1) - torch.log1p(-alphas[-1])).item() / 2
    expected = (steps / 2 * error).sum().item() + 0.5 * math.log(2 * math.pi / snr[0]) + end
    assert sum(nats) / 20 == pytest.approx(expected, abs=0.01)
    entropy = 0.5 * math.log(2 * math.pi * math.e * variance)
    assert (end > 0.1) == (schedule[1] == 50)
    assert (
        entropy < expected < entropy + end + 0.35
    )  # What is left is the price of large steps at the clean end of the schedule.
