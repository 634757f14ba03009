"""Training of the autoencoder with more latent channels; those that there were stay close to what they were."""

from __future__ import annotations

import argparse
import copy
from typing import Any, cast

import torch
from gpu_fit import Fit, autocast, say
from gpu_stories import as_images
from gpu_widen import add_components, widen
from torch import Tensor

from modules.common.errors import UserError
from modules.image_decoder.autoencoder import PictureAutoencoder
from modules.layers.seeding import make_generator
from modules.story_model.story_model import StoryModel
from modules.training.optimizer import parameter_groups

STATISTICS_PICTURES = 4000


def psnr(autoencoder: PictureAutoencoder, images: Tensor, noise: float = 0.0) -> float:
    """Return the mean PSNR of reconstructions in dB."""
    values = []
    for part in images.split(512):
        latents = autoencoder.encode(part)
        decoded = autoencoder.decode(latents + noise * torch.randn_like(latents))
        values.append((decoded - part).square().mean((1, 2, 3)) / 4)
    return -10 * torch.cat(values).log10().mean().item()


class AutoencoderTrainer:
    """Trains a copy of `old`, with more channels or, where it has as many, its decoder alone."""

    def __init__(self, old: StoryModel, pixels: Tensor, args: argparse.Namespace) -> None:
        """`pixels` (N,H,W,3) uint8 are the pictures, on the device that trains."""
        self.pixels, self.args, self.before = pixels, args, old.config.autoencoder.latent_channels
        if args.channels < self.before:
            raise UserError(f"--channels must be {self.before} or more, as this model has, got {args.channels}")
        self.model = widen(old, args.channels) if args.channels > self.before else copy.deepcopy(old)
        self.autoencoder = cast(PictureAutoencoder, self.model.autoencoder.to(pixels.device))
        self.teacher = cast(PictureAutoencoder, old.autoencoder.to(pixels.device).requires_grad_(False))
        self.generator = make_generator(args.seed, pixels.device)

    def train(self, held_out: Tensor) -> dict[str, Any]:
        """Train; return updates, losses, and what held-out images (N,3,H,W) look like after it."""
        autoencoder, training = self.autoencoder, self.model.config.training
        say(f"PSNR before: {psnr(self.teacher, held_out):.2f} dB")
        if self.args.channels > self.before:
            add_components(autoencoder, self._sample(), self.before)
        autoencoder.requires_grad_(True).train()
        if self.args.channels == self.before:
            autoencoder.train_decoder_only()
        groups = parameter_groups(autoencoder.named_parameters(), (), (), training)
        done = Fit(groups, self.args.learning_rate, training.adam_betas, self.args.length).run(self._loss)
        autoencoder.requires_grad_(False).eval()
        self._fit_statistics()
        moved = autoencoder.encode(held_out)[:, : self.before] - self.teacher.encode(held_out)
        found = {f"psnr_{noise}": psnr(autoencoder, held_out, noise) for noise in (0.0, 0.1, 0.2)}
        found["shift"] = moved.square().mean().sqrt().item()  # In standard deviations.
        say(", ".join(f"{name} {value:.3f}" for name, value in found.items()))
        return {**done, **found}

    def _loss(self) -> Tensor:
        """Return the loss () of random pictures, with the squared error of the channels that there were."""
        count, device = self.args.rows, self.pixels.device
        rows = torch.randint(len(self.pixels), (count,), generator=self.generator, device=device)
        images, shape = as_images(self.pixels[rows]), self.model.config.autoencoder.latent_shape
        noise = torch.randn(count, *shape, generator=self.generator, device=device)
        with autocast(device):
            posterior = self.autoencoder.posterior(images)
            loss = self.autoencoder.losses(images, posterior, noise).loss
            if self.args.channels == self.before:
                return loss
            with torch.no_grad():
                wanted = self.teacher.posterior(images).mean
            moved = (posterior.mean[:, : self.before] - wanted) / self.teacher.latent_std
            return loss + self.args.anchor * moved.square().mean()

    @torch.no_grad()
    def _fit_statistics(self) -> None:
        """Measure mean and deviation of the new channels; those of the others stay."""
        autoencoder, before = self.autoencoder, self.before
        mean, std = autoencoder.latent_mean.clone(), autoencoder.latent_std.clone()
        autoencoder.fit_statistics(self._sample())
        autoencoder.latent_mean[:before], autoencoder.latent_std[:before] = mean[:before], std[:before]

    def _sample(self) -> Tensor:
        return as_images(self.pixels[:: max(1, len(self.pixels) // STATISTICS_PICTURES)][:STATISTICS_PICTURES])
