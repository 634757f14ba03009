"""Images <-> latents: an AutoencoderKL trained on the same data, then frozen (latent diffusion, arXiv 2112.10752)."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers.utils import ModelOutput

from modules.common.errors import UserError
from modules.common.outputs import REQUIRED
from modules.image_decoder.config import AutoencoderConfig
from modules.image_decoder.stable_diffusion import load_vae
from modules.layers.losses import weighted_sum
from modules.pretrained.libraries import AutoencoderKL, DiagonalGaussianDistribution
from modules.pretrained.part import PretrainedPart
from modules.pretrained.source import PretrainedSource


@dataclass
class AutoencoderOutput(ModelOutput):
    """`loss` () and its named terms `losses`, each ()."""

    loss: Tensor
    losses: dict[str, Tensor] = REQUIRED


class PictureAutoencoder(nn.Module):
    """AutoencoderKL over folded pixels, with a linear path around it; every latent channel has zero mean and unit
    variance.
    """

    def __init__(self, config: AutoencoderConfig) -> None:
        """Raises ValueError where the config describes no autoencoder."""
        super().__init__()
        if config.image_size % config.downsampling:
            raise ValueError(
                f"image_size {config.image_size} is not a multiple of {config.downsampling},"
                " the pixels a side of one latent cell"
            )
        if config.latent_noise <= 0:
            raise ValueError(f"latent_noise must be above 0, got {config.latent_noise}")
        self.config = config
        levels = len(config.block_out_channels)
        self.vae = AutoencoderKL(
            in_channels=3 * config.unshuffle**2,
            out_channels=3 * config.unshuffle**2,
            latent_channels=config.latent_channels,
            down_block_types=("DownEncoderBlock2D",) * levels,
            up_block_types=("UpDecoderBlock2D",) * levels,
            block_out_channels=config.block_out_channels,
            layers_per_block=config.layers_per_block,
            norm_num_groups=config.norm_num_groups,
            mid_block_add_attention=False,
            sample_size=config.image_size // config.unshuffle,
        )
        # A linear path around the network, patch by patch, starts as principal components (`fit_shortcut`); the network
        # starts at zero and learns the rest. After 30 CPU-seconds that gives 21.5 dB instead of 16.7.
        patch = 3 * config.downsampling**2
        self.to_latent = nn.Conv2d(patch, config.latent_channels, 1)
        self.to_patch = nn.Conv2d(config.latent_channels, patch, 1)
        for layer in (self.vae.quant_conv, self.vae.decoder.conv_out):
            nn.init.zeros_(layer.weight)
            nn.init.zeros_(layer.bias)
        self.latent_mean: Tensor
        self.latent_std: Tensor
        self.register_buffer("latent_mean", torch.zeros(config.latent_channels, 1, 1))
        self.register_buffer("latent_std", torch.ones(config.latent_channels, 1, 1))

    def forward(self, images: Tensor, noise: Tensor) -> AutoencoderOutput:
        """Return absolute and squared error, edge error (of the differences of neighbours) and KL.

        images (N,3,H,W) in [-1,1], noise (N,c,h,w).
        """
        return self.losses(images, self.posterior(images), noise)

    def losses(self, images: Tensor, posterior: DiagonalGaussianDistribution, noise: Tensor) -> AutoencoderOutput:
        """Return the same of images (N,3,H,W) whose posterior is known."""
        decoded = self._to_pixels(posterior.mean + posterior.std * noise).float()
        losses = {
            "reconstruction_loss": (decoded - images).abs().mean(),
            "squared_loss": (decoded - images).square().mean(),
            "edge_loss": _edge_error(decoded, images, -1) + _edge_error(decoded, images, -2),
            "kl_loss": posterior.kl().mean() / images[0].numel(),
        }
        weights = {
            "reconstruction_loss": 1.0,
            "squared_loss": self.config.squared_weight,
            "edge_loss": self.config.edge_weight,
            "kl_loss": self.config.kl_weight * images[0].numel(),
        }
        return AutoencoderOutput(loss=weighted_sum(losses, weights), losses=losses)

    def train_decoder_only(self) -> None:
        """Freeze the encoder: latents stay as they are, for a UNet that has learned to draw them."""
        for part in (self.vae.encoder, self.vae.quant_conv, self.to_latent):
            part.requires_grad_(False)

    @torch.no_grad()
    def fit_shortcut(self, images: Tensor) -> None:
        """Set the linear path to the principal components of the patches of images (N,3,H,W), at unit variance."""
        patches = F.pixel_unshuffle(images, self.config.downsampling).permute(0, 2, 3, 1).flatten(0, 2)
        mean = patches.mean(0)
        covariance = (patches - mean).T @ (patches - mean) / len(patches)
        variances, axes = torch.linalg.eigh(covariance)
        count = self.config.latent_channels
        scale, axes = variances[-count:].clamp(min=1e-8).sqrt(), axes[:, -count:]
        self.to_latent.weight.copy_((axes / scale).T[:, :, None, None])
        assert self.to_latent.bias is not None and self.to_patch.bias is not None
        self.to_latent.bias.copy_(-mean @ (axes / scale))
        self.to_patch.weight.copy_((axes * scale)[:, :, None, None])
        self.to_patch.bias.copy_(mean)

    @torch.no_grad()
    def fit_statistics(self, images: Tensor) -> None:
        """Measure every latent channel's mean and standard deviation on images (N,3,H,W), for `encode` and `decode`."""
        mean = self.posterior(images).mean.float()
        self.latent_mean.copy_(mean.mean((0, 2, 3))[:, None, None])
        self.latent_std.copy_(mean.std((0, 2, 3))[:, None, None])

    @torch.no_grad()
    def encode(self, images: Tensor) -> Tensor:
        """Encode images (N,3,H,W) in [-1,1] to standardised latents (N,c,h,w)."""
        return (self.posterior(images).mean.float() - self.latent_mean) / self.latent_std

    @torch.no_grad()
    def decode(self, latents: Tensor) -> Tensor:
        """Decode latents (N,c,h,w) to images (N,3,H,W) in [-1,1]."""
        return self._to_pixels(latents * self.latent_std + self.latent_mean).float().clamp(-1, 1)

    def posterior(self, images: Tensor) -> DiagonalGaussianDistribution:
        """Return the distribution of the latents (N,c,h,w), not standardised, of images (N,3,H,W) in [-1,1]."""
        moments = self.vae.quant_conv(self.vae.encoder(F.pixel_unshuffle(images, self.config.unshuffle))).float()
        linear = self.to_latent(F.pixel_unshuffle(images, self.config.downsampling)).float()
        mean, _ = moments.chunk(2, dim=1)
        log_variance = torch.full_like(mean, 2 * math.log(self.config.latent_noise))
        return DiagonalGaussianDistribution(torch.cat([mean + linear, log_variance], dim=1))

    def _to_pixels(self, raw_latents: Tensor) -> Tensor:
        decoded = F.pixel_shuffle(self.vae.decode(raw_latents).sample, self.config.unshuffle)
        return decoded + F.pixel_shuffle(self.to_patch(raw_latents), self.config.downsampling)


def _edge_error(decoded: Tensor, images: Tensor, axis: int) -> Tensor:
    return (decoded.diff(dim=axis) - images.diff(dim=axis)).abs().mean()


class PretrainedAutoencoder(PretrainedPart):
    """The AutoencoderKL of a Stable Diffusion folder, frozen; latents have the scale that its UNet expects.

    It computes in float32 under autocast too: its activations are too large for float16, and images would be black.
    """

    def __init__(self, config: AutoencoderConfig, source: PretrainedSource | None = None) -> None:
        """`source` is by default the one that the config names.

        Raises UserError where the autoencoder is missing or its latents have another shape than the config's.
        """
        super().__init__()
        self.config = config
        source = source or PretrainedSource(config.source, "autoencoder.source")
        _check_shape(config, source)
        self.vae = load_vae(source).requires_grad_(False)
        settings: Any = self.vae.config
        shape = (settings.latent_channels, 1, 1)
        self.latent_mean: Tensor
        self.latent_std: Tensor
        self.register_buffer("latent_mean", torch.full(shape, float(settings.shift_factor or 0)), persistent=False)
        self.register_buffer("latent_std", torch.full(shape, 1 / settings.scaling_factor), persistent=False)

    def pretrained_names(self) -> Iterator[str]:
        """Yield the names of all parameters."""
        return (name for name, _ in self.named_parameters(remove_duplicate=False))

    def save_memory(self, slicing: bool = True, tiling: bool = False) -> None:
        """Work image by image (the same result) and, with `tiling`, on overlapping parts of large images (nearly the
        same).
        """
        for chosen, enable, disable in (
            (slicing, self.vae.enable_slicing, self.vae.disable_slicing),
            (tiling, self.vae.enable_tiling, self.vae.disable_tiling),
        ):
            (enable if chosen else disable)()

    @torch.no_grad()
    def encode(self, images: Tensor) -> Tensor:
        """Encode images (N,3,H,W) in [-1,1] to latents (N,c,h,w), the posterior's means."""
        with torch.autocast(images.device.type, enabled=False):
            return (self.vae.encode(images.float()).latent_dist.mean - self.latent_mean) / self.latent_std

    @torch.no_grad()
    def decode(self, latents: Tensor) -> Tensor:
        """Decode latents (N,c,h,w) to images (N,3,H,W) in [-1,1]."""
        with torch.autocast(latents.device.type, enabled=False):
            return self.vae.decode(latents.float() * self.latent_std + self.latent_mean).sample.clamp(-1, 1)


def _check_shape(config: AutoencoderConfig, source: PretrainedSource) -> None:
    """Raise UserError where a source's latents have another shape than the config's."""
    settings = source.part("vae").settings_for(AutoencoderKL)
    for name, given, found in (
        ("latent_channels", config.latent_channels, settings.get("latent_channels", 4)),
        ("downsampling", config.downsampling, 2 ** (len(settings.get("block_out_channels", (64,))) - 1)),
    ):
        if given != found:
            raise UserError(
                f"{source.what}: the {name} of the VAE in {source.id} is {found}, the config's is {given}: set {found}"
            )
    if config.image_size % config.downsampling:
        raise UserError(f"autoencoder.image_size must be a multiple of {config.downsampling}, got {config.image_size}")
