"""Pictures <-> latents: an AutoencoderKL trained on the same data, then frozen (latent diffusion, arXiv 2112.10752)."""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from diffusers import AutoencoderKL
from torch import Tensor, nn
from transformers.utils import ModelOutput


@dataclass(frozen=True)
class AutoencoderConfig:
    image_size: int = 96
    latent_channels: int = 8
    unshuffle: int = 4  # Pixels are folded into channels first: on a CPU the full-resolution convolutions would cost most.
    block_out_channels: tuple[int, ...] = (96, 128)
    layers_per_block: int = 1
    norm_num_groups: int = 16
    kl_weight: float = 1e-6
    edge_weight: float = 0.5

    @property
    def latent_shape(self) -> tuple[int, int, int]:
        size = self.image_size // (self.unshuffle * 2 ** (len(self.block_out_channels) - 1))
        return self.latent_channels, size, size


@dataclass
class AutoencoderOutput(ModelOutput):
    """`loss` () and its named terms."""

    loss: Tensor = None
    losses: dict[str, Tensor] = None


class PictureAutoencoder(nn.Module):
    """AutoencoderKL over folded pixels; latents leave with zero mean and unit variance a channel."""

    def __init__(self, config: AutoencoderConfig) -> None:
        super().__init__()
        self.config = config
        levels = len(config.block_out_channels)
        self.vae = AutoencoderKL(
            in_channels=3 * config.unshuffle**2, out_channels=3 * config.unshuffle**2, latent_channels=config.latent_channels,
            down_block_types=("DownEncoderBlock2D",) * levels, up_block_types=("UpDecoderBlock2D",) * levels,
            block_out_channels=config.block_out_channels, layers_per_block=config.layers_per_block,
            norm_num_groups=config.norm_num_groups, mid_block_add_attention=False, sample_size=config.image_size // config.unshuffle,
        )  # fmt: skip
        self.register_buffer("latent_mean", torch.zeros(config.latent_channels, 1, 1))
        self.register_buffer("latent_std", torch.ones(config.latent_channels, 1, 1))

    def forward(self, images: Tensor, noise: Tensor) -> AutoencoderOutput:
        """images (N,3,H,W) in [-1,1], noise (N,c,h,w) -> absolute error, edge error (differences of neighbours) and KL."""
        posterior = self.vae.encode(F.pixel_unshuffle(images, self.config.unshuffle)).latent_dist
        decoded = self._to_pixels(posterior.mean + posterior.std * noise).float()
        losses = {
            "reconstruction_loss": (decoded - images).abs().mean(),
            "edge_loss": sum((decoded.diff(dim=axis) - images.diff(dim=axis)).abs().mean() for axis in (-1, -2)),
            "kl_loss": posterior.kl().mean() / images[0].numel(),
        }
        weights = {"reconstruction_loss": 1.0, "edge_loss": self.config.edge_weight, "kl_loss": self.config.kl_weight * images[0].numel()}
        return AutoencoderOutput(loss=sum(weights[name] * value for name, value in losses.items()), losses=losses)

    @torch.no_grad()
    def fit_statistics(self, images: Tensor) -> None:
        """Measure the latents' mean and standard deviation a channel on pictures (N,3,H,W), for `encode` and `decode`."""
        mean = self.vae.encode(F.pixel_unshuffle(images, self.config.unshuffle)).latent_dist.mean.float()
        self.latent_mean.copy_(mean.mean((0, 2, 3))[:, None, None])
        self.latent_std.copy_(mean.std((0, 2, 3))[:, None, None])

    @torch.no_grad()
    def encode(self, images: Tensor) -> Tensor:
        """(N,3,H,W) in [-1,1] -> latents (N,c,h,w), standardised."""
        mean = self.vae.encode(F.pixel_unshuffle(images, self.config.unshuffle)).latent_dist.mean
        return (mean.float() - self.latent_mean) / self.latent_std

    @torch.no_grad()
    def decode(self, latents: Tensor) -> Tensor:
        """(N,c,h,w) -> pictures (N,3,H,W) in [-1,1]."""
        return self._to_pixels(latents * self.latent_std + self.latent_mean).float().clamp(-1, 1)

    def _to_pixels(self, raw_latents: Tensor) -> Tensor:
        return F.pixel_shuffle(self.vae.decode(raw_latents).sample, self.config.unshuffle)
