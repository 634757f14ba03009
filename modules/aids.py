"""The encoder's aids: losses on what the codes alone say of a step, no part of the bound and not used to generate.

A language model and a diffusion model give the encoder little gradient for what they hardly pay for: a colour that is named
once, a coat of a few pixels. Three guesses that need no reader and no noise bring it into the slots: which words occur
(arXiv 1703.10960), which visual words occur (arXiv 2002.12247), and the latents themselves.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers.utils import ModelOutput
from vector_quantize_pytorch.vector_quantize_pytorch import kmeans

from modules.layers.seeding import seeded

PATCH = 2  # Cells a side of what a visual word stands for.
WORDS_A_TEXT = 20  # About: a guess to start from.


@dataclass(frozen=True)
class AidsConfig:
    num_visual_words: int = 1024
    draft_dim: int = 384


@dataclass
class AidsOutput(ModelOutput):
    """`bag_of_words_loss` (N,) in nats a text; `bag_of_visual_words_loss` (N,) in nats a picture; `draft_loss` (N,), mean squared error.

    A text's is 0 where there is none; the pictures' mean nothing where there is none.
    """

    bag_of_words_loss: Tensor = None
    bag_of_visual_words_loss: Tensor = None
    draft_loss: Tensor = None


class EncoderAids(nn.Module):
    """Linear guesses at both bags, and a small regression of the latents (the draft)."""

    def __init__(self, config: AidsConfig, vocab_size: int, latent_shape: tuple[int, int, int], num_slots: int, code_dim: int) -> None:
        super().__init__()
        width, (channels, height, length) = num_slots * code_dim, latent_shape
        self.bag_of_words = nn.Linear(width, vocab_size)
        nn.init.constant_(self.bag_of_words.bias, math.log(WORDS_A_TEXT / vocab_size))
        self.bag_of_visual_words = nn.Linear(width, config.num_visual_words)
        self.draft = nn.Sequential(
            nn.Linear(width, config.draft_dim), nn.SiLU(), nn.Linear(config.draft_dim, channels * height * length)
        )  # fmt: skip
        self.register_buffer("visual_words", torch.randn(config.num_visual_words, channels * PATCH**2))

    def forward(self, code_embeds: Tensor, input_ids: Tensor, text_mask: Tensor, latents: Tensor) -> AidsOutput:
        """code_embeds (N,S,d), input_ids and text_mask (N,L), latents (N,c,h,w) -> losses (N,)."""
        codes, has_text = code_embeds.flatten(1), text_mask[:, 1:].any(1)
        occurs = torch.zeros(len(codes), self.bag_of_words.out_features, device=codes.device)
        occurs = occurs.scatter_reduce(1, input_ids[:, 1:], text_mask[:, 1:].float(), "amax")
        return AidsOutput(
            bag_of_words_loss=_bag_loss(self.bag_of_words(codes), occurs) * has_text,
            bag_of_visual_words_loss=_bag_loss(self.bag_of_visual_words(codes), self.visual_bag(latents)),
            draft_loss=(self.draft(codes).float().view_as(latents) - latents).square().mean((1, 2, 3)),
        )  # fmt: skip

    @torch.no_grad()
    def visual_bag(self, latents: Tensor) -> Tensor:
        """latents (N,c,h,w) -> whether each visual word is the nearest one of some patch (N, V)."""
        with torch.autocast(latents.device.type, enabled=False):
            distances = self.visual_words.square().sum(1) - 2 * _patches(latents.float()) @ self.visual_words.T
        bag = torch.zeros(len(latents), len(self.visual_words), device=latents.device)
        return bag.scatter_(1, distances.argmin(-1), 1.0)

    @torch.no_grad()
    def fit_visual_words(self, latents: Tensor, seed: int, num_patches: int = 60_000, num_iters: int = 12) -> None:
        """Place the visual words by k-means on patches of pictures' latents (N,c,h,w), and start from how often each occurs."""
        with seeded(seed):
            patches = _patches(latents.float()).flatten(0, 1)
            patches = patches[torch.randperm(len(patches))[:num_patches]]
            means, _ = kmeans(patches[None], len(self.visual_words), num_iters)
        self.visual_words.copy_(means[0])
        share = self.visual_bag(latents).mean(0).clamp(1e-3, 1 - 1e-3)
        self.bag_of_visual_words.bias.copy_(torch.logit(share))


def _patches(latents: Tensor) -> Tensor:
    """Overlapping patches (N, P, c*PATCH*PATCH)."""
    return F.unfold(latents, PATCH).transpose(1, 2)


def _bag_loss(logits: Tensor, occurs: Tensor) -> Tensor:
    """(N, V) -> (N,) in nats."""
    return F.binary_cross_entropy_with_logits(logits.float(), occurs, reduction="none").sum(1)
