"""Pictures and latents: the autoencoder on its own."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import Tensor

from modules.common.errors import UserError
from modules.image_decoder.autoencoder import PictureAutoencoder
from tests.support.tensors import generator


@pytest.fixture(scope="module")
def pictures() -> Tensor:
    """Eight smooth pictures (8,3,32,32) in [-1,1], no two alike."""
    y, x = torch.meshgrid(torch.linspace(-1, 1, 32), torch.linspace(-1, 1, 32), indexing="ij")
    phase = torch.arange(24.0).view(8, 3, 1, 1)
    return torch.sin(phase + x * (1 + phase % 3) + 2 * y)


@pytest.fixture
def autoencoder(tiny_config) -> PictureAutoencoder:
    torch.manual_seed(0)
    return PictureAutoencoder(tiny_config.autoencoder)


def test_autoencoder_shapes_and_statistics(autoencoder, pictures, tiny_config):
    assert not torch.allclose(autoencoder.encode(pictures).std((0, 2, 3)), torch.ones(4), atol=0.1)
    autoencoder.fit_statistics(pictures)
    latents = autoencoder.encode(pictures)
    assert latents.shape[1:] == tiny_config.autoencoder.latent_shape == (4, 4, 4)
    torch.testing.assert_close(latents.mean((0, 2, 3)), torch.zeros(4), atol=1e-4, rtol=0)
    torch.testing.assert_close(latents.std((0, 2, 3)), torch.ones(4), atol=1e-4, rtol=0)


def test_autoencoder_starts_as_principal_components(autoencoder, pictures, tiny_config):
    autoencoder.fit_shortcut(pictures)
    latents = autoencoder.encode(pictures).transpose(0, 1).flatten(1)
    torch.testing.assert_close(latents.mean(1), torch.zeros(4), atol=1e-3, rtol=0)
    torch.testing.assert_close(latents.cov(correction=0), torch.eye(4), atol=1e-2, rtol=0)
    patches = (
        torch.nn.functional.pixel_unshuffle(pictures, tiny_config.autoencoder.downsampling).transpose(0, 1).flatten(1)
    )
    left_over = torch.linalg.svdvals(patches - patches.mean(1, keepdim=True))[4:].square().sum() / pictures.numel()
    error = (autoencoder.decode(autoencoder.encode(pictures)) - pictures).square().mean()
    assert 0.5 * left_over < error < 1.001 * left_over < 0.5 * pictures.var()  # Below it where decoding stays in range.


def test_statistics_cancel_between_encode_and_decode(autoencoder, pictures):
    before = autoencoder.decode(autoencoder.encode(pictures))
    autoencoder.fit_statistics(pictures)
    torch.testing.assert_close(autoencoder.decode(autoencoder.encode(pictures)), before, atol=1e-4, rtol=0)


def test_decoded_pictures_stay_in_range(autoencoder):
    decoded = autoencoder.decode(100 * torch.randn(2, 4, 4, 4, generator=generator()))
    assert decoded.shape == (2, 3, 32, 32) and decoded.min() == -1 and decoded.max() == 1


def test_autoencoder_loss_names_its_terms(autoencoder, pictures, tiny_config):
    noise = torch.randn(8, 4, 4, 4, generator=generator())
    out = autoencoder(pictures, noise)
    terms, config = out.losses, tiny_config.autoencoder
    expected = (
        terms["reconstruction_loss"]
        + config.squared_weight * terms["squared_loss"]
        + config.edge_weight * terms["edge_loss"]
        + config.kl_weight * 3 * 32 * 32 * terms["kl_loss"]
    )
    torch.testing.assert_close(out.loss, expected)
    assert all(value > 0 for value in terms.values())
    assert torch.equal(autoencoder(pictures, noise).loss, out.loss) and not torch.equal(
        autoencoder(pictures, -noise).loss, out.loss
    )


def test_posterior_is_as_wide_as_the_latent_noise(autoencoder, pictures, tiny_config):
    posterior = autoencoder.posterior(pictures)
    torch.testing.assert_close(posterior.std, torch.full_like(posterior.mean, tiny_config.autoencoder.latent_noise))


@pytest.mark.parametrize(
    ("latent_noise", "error", "message"),
    [(0.0, ValueError, "must be above 0, got 0.0"), (-0.1, UserError, "must be from 0 to 1000000, got -0.1")],
)
def test_latent_noise_must_be_positive(tiny_config, latent_noise, error, message):
    with pytest.raises(error, match=f"latent_noise {message}"):
        PictureAutoencoder(replace(tiny_config.autoencoder, latent_noise=latent_noise))


def test_autoencoder_learns_a_batch_and_decodes_it(autoencoder, pictures):
    optimizer = torch.optim.AdamW(autoencoder.parameters(), lr=5e-3)
    losses = []
    for step in range(40):
        out = autoencoder(pictures, torch.randn(8, 4, 4, 4, generator=generator(step)))
        optimizer.zero_grad()
        out.loss.backward()
        optimizer.step()
        losses.append(out.loss.item())
    assert losses[-1] < 0.6 * losses[0]
    autoencoder.fit_statistics(pictures)
    latents, noise = autoencoder.encode(pictures), torch.randn(8, 4, 4, 4, generator=generator(99))
    error = (autoencoder.decode(latents) - pictures).abs().mean()
    assert error < 0.8 * (pictures - pictures.mean((0, 2, 3), keepdim=True)).abs().mean()
    shaken = latents + autoencoder.config.latent_noise * noise / autoencoder.latent_std
    assert (autoencoder.decode(shaken) - pictures).abs().mean() < 1.08 * error  # Learnt without that noise, 1.14.
