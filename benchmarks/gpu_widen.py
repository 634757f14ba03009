"""A model with more channels of its latents than it was trained with, or with a prior that can be given pages."""

from __future__ import annotations

from dataclasses import replace

import torch
import torch.nn.functional as F
from torch import Tensor

from modules.image_decoder.autoencoder import PictureAutoencoder
from modules.story_model.story_model import StoryModel


def widen(old: StoryModel, channels: int) -> StoryModel:
    """Return the model with more channels of the latents, which nothing reads or writes yet."""
    new = StoryModel(replace(old.config, autoencoder=replace(old.config.autoencoder, latent_channels=channels)))
    own = new.state_dict()
    for name, value in old.state_dict().items():
        if not name.startswith("aids."):  # They are for training the encoder alone.
            own[name] = value if own[name].shape == value.shape else _widened(name, value, own[name])
    new.load_state_dict(own)
    return new.eval()


def _widened(name: str, value: Tensor, fresh: Tensor) -> Tensor:
    """Return the tensor `value` inside one of the shape of `fresh`, at the places of the channels that there were."""
    if name.startswith("autoencoder.vae.post_quant_conv"):
        whole = torch.eye(len(fresh))[..., None, None] if value.ndim > 1 else torch.zeros(len(fresh))
    elif name.startswith("autoencoder.vae.encoder.conv_out"):  # Its new rows are random, what reads them is zero.
        whole = fresh.clone()
    else:
        whole = torch.full_like(fresh, float(name.endswith("latent_std")))
    is_moments = name.startswith(("autoencoder.vae.encoder.conv_out", "autoencoder.vae.quant_conv"))
    # Means, then log variances; a patch of latents has its channels as the slowest axis.
    index = [
        torch.cat([torch.arange(old // 2), new // 2 + torch.arange(old // 2)])
        if is_moments and old != new
        else torch.arange(old)
        for old, new in zip(value.shape, fresh.shape, strict=True)
    ]
    whole[torch.meshgrid(*index, indexing="ij")] = value
    return whole


@torch.no_grad()
def add_components(autoencoder: PictureAutoencoder, images: Tensor, before: int) -> None:
    """Let the new channels begin as the images' components, at unit variance, along the axes on which the old channels
    lose most. The decoder does not read them yet.
    """
    size, count = autoencoder.config.downsampling, autoencoder.config.latent_channels - before
    whole, lost = (
        F.pixel_unshuffle(values, size).permute(0, 2, 3, 1).flatten(0, 2)
        for values in (images, images - autoencoder.decode(autoencoder.encode(images)))
    )
    axes = torch.linalg.eigh(lost.T @ lost)[1][:, -count:]
    found = whole @ axes
    mean, scale = found.mean(0), found.std(0).clamp(min=1e-4)
    autoencoder.to_latent.weight[before:] = (axes / scale).T[:, :, None, None]
    assert autoencoder.to_latent.bias is not None
    autoencoder.to_latent.bias[before:] = -mean / scale


def with_given_pages(model: StoryModel) -> StoryModel:
    """Return the model with a prior that can be given pages."""
    if model.config.prior.given_share:
        return model
    prior = replace(model.config.prior, given_share=0.5)
    new = StoryModel(replace(model.config, prior=prior))
    new.load_state_dict(new.state_dict() | model.state_dict())
    return new.eval()
