"""The encoder's aids: losses on what the codes alone say of a step, no part of the bound and not used to generate.

A language model and a diffusion model give the encoder little gradient for what they hardly pay for: a colour that is
named once, a coat of a few pixels. Guesses that need no reader and no noise bring it into the slots: which words occur
(arXiv 1703.10960), which visual words occur (arXiv 2002.12247), and the latents themselves. Both bags are also guessed
of the *other* pages of the story (as skip-thought, arXiv 1506.06726, guesses the sentences around one): what a plan
must hold is what pages share, and of what a picture shows by chance, where things stand to a few pixels, the other
pages tell nothing.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers.utils import ModelOutput
from vector_quantize_pytorch.vector_quantize_pytorch import kmeans

from modules.batch import StoryBatch
from modules.layers.seeding import seeded
from modules.storyboard.config import AidsConfig

PATCH = 2  # Cells a side of what a visual word stands for.
WORDS_A_TEXT = 20  # About: a guess to start from.
IMAGE_AIDS = ("bag_of_visual_words_loss", "draft_loss")  # Means over steps with an image; the others: over all steps.


@dataclass
class AidsOutput(ModelOutput):
    """`bag_of_words_loss` (N,) in nats a text; `bag_of_visual_words_loss` (N,) in nats a picture; `draft_loss` (N,),
    mean squared error; `other_words_loss` and `other_visual_words_loss` (N,), the bags' of the story's other pages, in
    nats a page.

    A text's is 0 where there is none; a picture's own mean nothing where there is none; the others' are 0 where there
    are none.
    """

    bag_of_words_loss: Tensor = None
    bag_of_visual_words_loss: Tensor = None
    draft_loss: Tensor = None
    other_words_loss: Tensor = None
    other_visual_words_loss: Tensor = None


class EncoderAids(nn.Module):
    """Linear guesses at both bags, a page's own and the other pages', and a small regression of the latents (the
    draft).
    """

    def __init__(
        self, config: AidsConfig, vocab_size: int, latent_shape: tuple[int, int, int], num_slots: int, code_dim: int
    ) -> None:
        super().__init__()
        width, (channels, height, length) = num_slots * code_dim, latent_shape
        self.bag_of_words, self.other_words = nn.Linear(width, vocab_size), nn.Linear(width, vocab_size)
        for guess in (self.bag_of_words, self.other_words):
            nn.init.constant_(guess.bias, math.log(WORDS_A_TEXT / vocab_size))
        self.bag_of_visual_words = nn.Linear(width, config.num_visual_words)
        self.other_visual_words = nn.Linear(width, config.num_visual_words)
        self.draft = nn.Sequential(
            nn.Linear(width, config.draft_dim), nn.SiLU(), nn.Linear(config.draft_dim, channels * height * length)
        )
        self.register_buffer("visual_words", torch.randn(config.num_visual_words, channels * PATCH**2))

    def forward(self, code_embeds: Tensor, batch: StoryBatch) -> AidsOutput:
        """code_embeds (N,S,d) of the batch's N = B*T pages -> losses (N,)."""
        codes, latents, pages = code_embeds.flatten(1), batch.latents.flatten(0, 1), batch.step_mask.shape
        has_text, has_image = batch.text_mask[..., 1:].any(-1), batch.image_mask
        words, visual_words = (
            self.word_bag(batch.input_ids.flatten(0, 1), batch.text_mask.flatten(0, 1)),
            self.visual_bag(latents),
        )
        other_words, some_words = of_other_pages(words.unflatten(0, pages), has_text)
        other_visual_words, some_images = of_other_pages(visual_words.unflatten(0, pages), has_image)
        return AidsOutput(
            bag_of_words_loss=_bag_loss(self.bag_of_words(codes), words) * has_text.flatten(),
            bag_of_visual_words_loss=_bag_loss(self.bag_of_visual_words(codes), visual_words),
            draft_loss=(self.draft(codes).float().view_as(latents) - latents).square().mean((1, 2, 3)),
            other_words_loss=_bag_loss(self.other_words(codes), other_words.flatten(0, 1)) * some_words.flatten(),
            other_visual_words_loss=_bag_loss(self.other_visual_words(codes), other_visual_words.flatten(0, 1))
            * some_images.flatten(),
        )

    def word_bag(self, input_ids: Tensor, text_mask: Tensor) -> Tensor:
        """input_ids and text_mask (N,L) -> whether each word occurs after <bos> (N, vocab)."""
        bag = torch.zeros(len(input_ids), self.bag_of_words.out_features, device=input_ids.device)
        return bag.scatter_reduce(1, input_ids[:, 1:], text_mask[:, 1:].float(), "amax")

    @torch.no_grad()
    def visual_bag(self, latents: Tensor) -> Tensor:
        """latents (N,c,h,w) -> whether each visual word is the nearest one of some patch (N, V)."""
        with torch.autocast(latents.device.type, enabled=False):
            distances = self.visual_words.square().sum(1) - 2 * _patches(latents.float()) @ self.visual_words.T
        bag = torch.zeros(len(latents), len(self.visual_words), device=latents.device)
        return bag.scatter_(1, distances.argmin(-1), 1.0)

    @torch.no_grad()
    def fit_visual_words(self, latents: Tensor, seed: int, num_patches: int = 60_000, num_iters: int = 12) -> None:
        """Place the visual words by k-means on patches of pictures' latents (N,c,h,w), and start from how often each
        occurs.
        """
        with seeded(seed):
            patches = _patches(latents.float()).flatten(0, 1)
            patches = patches[torch.randperm(len(patches))[:num_patches]]
            means, _ = kmeans(patches[None], len(self.visual_words), num_iters)
        self.visual_words.copy_(means[0])
        share = self.visual_bag(latents).mean(0).clamp(1e-3, 1 - 1e-3)
        for guess in (self.bag_of_visual_words, self.other_visual_words):
            guess.bias.copy_(torch.logit(share))


def of_other_pages(bags: Tensor, present: Tensor) -> tuple[Tensor, Tensor]:
    """bags (B,T,V) of the pages where `present` (B,T) -> their mean over each page's other ones (B,T,V), and where
    there are any (B,T).
    """
    bags = bags * present[..., None]
    count = present.sum(1, keepdim=True) - present.long()
    return (bags.sum(1, keepdim=True) - bags) / count.clamp(min=1)[..., None], count > 0


def _patches(latents: Tensor) -> Tensor:
    """Overlapping patches (N, P, c*PATCH*PATCH)."""
    return F.unfold(latents, PATCH).transpose(1, 2)


def _bag_loss(logits: Tensor, occurs: Tensor) -> Tensor:
    """(N, V) -> (N,) in nats."""
    return F.binary_cross_entropy_with_logits(logits.float(), occurs, reduction="none").sum(1)
