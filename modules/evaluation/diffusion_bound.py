"""The diffusion term of the bound: an upper bound on -log p(x | z) of a page's latents, with the true VLB weights.

It is the variational bound of the discrete-time diffusion model (arXiv 2006.11239, 2107.00630), not its training loss:
every timestep's squared error is weighted by what it contributes to the likelihood.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from modules.common.errors import UserError
from modules.encoded.stories import EncodedStories
from modules.image_decoder.image_decoder import ImageDecoder
from modules.training.reliance import Condition

ROWS_PER_BATCH = 64


@dataclass(frozen=True)
class TimestepSample:
    """M `timesteps` (M,), the `weights` (M,) of the strata that they represent, and `noise` (M,c,h,w)."""

    timesteps: Tensor
    weights: Tensor
    noise: Tensor


def error_name(decoder: ImageDecoder) -> str:
    """Return the name of a decoder's training loss: the mean squared error of the noise or of the velocity."""
    return "noise_mse" if decoder.prediction_type == "epsilon" else "velocity_mse"


def vlb_weights(alphas_cumprod: Tensor, prediction_type: str) -> tuple[Tensor, float]:
    """Return weights (T,) float64 and a constant such that the bound is sum_t weights_t * loss_t + constant.

    In nats a dimension; `end_nats` comes on top. With SNR = abar / (1 - abar) and the posterior's variance in every
    reverse step, L_{t-1} = (SNR(t-1) - SNR(t)) / 2 * |x_0 - x0_hat|^2 (arXiv 2107.00630). For a predicted velocity,
    x0_hat = sqrt(abar) x_t - sqrt(1 - abar) v_hat, hence |x_0 - x0_hat|^2 = (1 - abar) |v - v_hat|^2 (arXiv
    2202.00512); for predicted noise, x0_hat = (x_t - sqrt(1 - abar) eps_hat) / sqrt(abar), hence (1 - abar) / abar
    |eps - eps_hat|^2 (arXiv 2006.11239). L_0 is the Gaussian p(x_0 | x_1) = N(x0_hat, 1 / SNR(1)), whose variance is
    that of x_0 given x_1 alone; latents are continuous, so nothing is discretised.

    Raises UserError if the UNet predicts noise and the schedule ends in pure noise: x0_hat is then undefined.
    """
    alphas = alphas_cumprod.detach().cpu().double()
    snr = alphas / (1 - alphas)
    steps = torch.cat([snr[:1], snr[:-1] - snr[1:]])
    squares = 1 - alphas  # |x_0 - x0_hat|^2 for each unit of the loss.
    if prediction_type == "epsilon":
        if not (alphas > 0).all():
            raise UserError(
                "this UNet predicts noise and its schedule ends at zero signal-to-noise: its pictures have no "
                "likelihood bound"
            )
        squares = squares / alphas
    return steps / 2 * squares, 0.5 * math.log(2 * math.pi / snr[0].item())


def end_nats(alphas_cumprod: Tensor, latents: Tensor) -> float:
    """Return L_T = KL(q(x_T | x_0) || N(0, 1)) of a page's latents (c,h,w), in nats.

    It is 0 if the schedule ends at zero signal-to-noise (arXiv 2305.08891).
    """
    alpha = alphas_cumprod[-1].item()
    return 0.5 * (alpha * (latents.double().square() - 1).sum().item() - latents.numel() * math.log1p(-alpha))


def sample_timesteps(
    weights: Tensor, num_timesteps: int, latent_shape: tuple[int, ...], generator: torch.Generator
) -> TimestepSample:
    """Draw one timestep from each of M = `num_timesteps` strata of about equal weight, or take all T if M >= T.

    Within its stratum a timestep is drawn in proportion to its weight (T,), so sum_m weights_m * error_m is an unbiased
    estimate of sum_t weights_t * error_t. A timestep that weighs more than an equal share is its own stratum: the
    smallest timesteps, which contribute most of the bound, are always included.
    """
    total = torch.cat([weights.new_zeros(1), weights.cumsum(0)])
    edges = _strata(total, min(num_timesteps, len(weights)))
    low, high = total[edges[:-1]], total[edges[1:]]
    places = low + torch.rand(len(low), generator=generator, dtype=weights.dtype) * (high - low)
    timesteps = (torch.searchsorted(total, places, right=True) - 1).clamp(edges[:-1], edges[1:] - 1)
    return TimestepSample(timesteps, high - low, torch.randn(len(timesteps), *latent_shape, generator=generator))


def _strata(total: Tensor, count: int) -> Tensor:
    """Return the edges (count + 1,) of non-empty strata, given the summed weights below each timestep (T + 1,)."""
    num_timesteps, edges = len(total) - 1, [0]
    for left in range(count, 1, -1):
        share = (total[-1] - total[edges[-1]]) / left
        edge = int(torch.searchsorted(total, total[edges[-1]] + share))
        edges.append(min(max(edge, edges[-1] + 1), num_timesteps - left + 1))
    return torch.tensor([*edges, num_timesteps])


def diffusion_vlb(
    decoder: ImageDecoder, condition: Condition, latents: Tensor, sample: TimestepSample, text: Tensor | None = None
) -> float:
    """Return an upper bound on -log p(x | z) of a page's latents (c,h,w) given what its decoder reads, in nats.

    The bound is in expectation over the sample. `condition` is that of the one page; with the encoded `text` (1,L,D),
    it is a bound on -log p(x | z, s).
    """
    errors, device = [], condition.code_embeds.device
    context = decoder.context(condition.codes(decoder), None, text, condition.window)
    for timesteps, noise in zip(
        sample.timesteps.split(ROWS_PER_BATCH), sample.noise.split(ROWS_PER_BATCH), strict=True
    ):
        pages = latents.to(device).expand(len(timesteps), *latents.shape)
        repeated = context.repeat(len(timesteps))
        errors.append(decoder.denoising_loss(repeated, pages, timesteps.to(device), noise.to(device)).loss)
    _, constant = vlb_weights(decoder.alphas_cumprod, decoder.prediction_type)
    losses = torch.cat(errors).double().cpu()
    nats = latents.numel() * ((sample.weights * losses).sum().item() + constant)
    return nats + end_nats(decoder.alphas_cumprod, latents)


def choose_pages(stories: EncodedStories, count: int, seed: int = 0) -> list[int]:
    """Return the row numbers of up to `count` pages with a picture, spread evenly over the stories.

    No story contributes a second page before every story has contributed one.
    """
    rng = np.random.default_rng(seed)
    pages: list[tuple[int, float, int]] = []
    for index in range(len(stories)):
        rows = rng.permutation([row for row in stories.rows(index) if stories.image_mask[row]])
        pages += [(turn, rng.random(), int(row)) for turn, row in enumerate(rows)]
    return sorted(row for _, _, row in sorted(pages)[:count])
