"""One step's picture and text as sequences of vectors, before the storyboard fuses them."""

from __future__ import annotations

import torch
from einops import rearrange
from torch import Tensor, nn


class LatentPatchEncoder(nn.Module):
    """Cuts a latent (N, c, h, w) into patches and embeds them: (N, P, D), P = (h/patch) * (w/patch)."""

    def __init__(self, latent_shape: tuple[int, int, int], patch_size: int, dim: int) -> None:
        super().__init__()
        channels, height, width = latent_shape
        if height % patch_size or width % patch_size:
            raise ValueError(f"patch_size {patch_size} does not divide the latent's {height}x{width}")
        self.patch_size = patch_size
        self.embed = nn.Linear(channels * patch_size**2, dim)
        self.position = nn.Parameter(torch.randn(height * width // patch_size**2, dim) * 0.02)

    def forward(self, latents: Tensor) -> Tensor:
        patches = rearrange(latents, "n c (h p) (w q) -> n (h w) (c p q)", p=self.patch_size, q=self.patch_size)
        return self.embed(patches) + self.position


class TokenEncoder(nn.Module):
    """Embeds token ids (N, L) with learned positions: (N, L, D). The fusion transformer does the reading."""

    def __init__(self, vocab_size: int, max_length: int, dim: int) -> None:
        super().__init__()
        self.embed = nn.Embedding(vocab_size, dim)
        self.position = nn.Parameter(torch.randn(max_length, dim) * 0.02)
        nn.init.normal_(self.embed.weight, std=0.02)

    def forward(self, input_ids: Tensor) -> Tensor:
        return self.embed(input_ids) + self.position[: input_ids.shape[1]]
