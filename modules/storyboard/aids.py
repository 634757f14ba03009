"""Auxiliary losses of the encoder: predictions from a step's codes alone. Not part of the bound, not used to generate.

Language model and diffusion model give the encoder little gradient for details that cost them little: a colour named
once, a coat of a few pixels. Predictions without a decoder and without noise bring these into the slots: which words
occur (arXiv 1703.10960), which visual words occur (arXiv 2002.12247), and the latents themselves. Both bags of words
are also predicted for the *other* steps of the story (as skip-thought, arXiv 1506.06726, predicts neighbouring
sentences): a plan must encode what steps share, and the other steps share nothing of an image's accidental layout.
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
from modules.common.outputs import REQUIRED
from modules.layers.seeding import seeded
from modules.storyboard.config import AidsConfig

PATCH = 2  # Cells a side of the patch that a visual word represents.
WORDS_A_TEXT = 20  # A rough guess, for the bias until `fit_words`.
UNSEEN = 0.01  # Pseudo-count of every word, in addition to the texts that contain it.
IMAGE_AIDS = ("bag_of_visual_words_loss", "draft_loss")  # Means over steps with an image; the others: over all steps.


@dataclass
class AidsOutput(ModelOutput):
    """`bag_of_words_loss` (N,) in nats a text; `bag_of_visual_words_loss` (N,) in nats an image; `draft_loss` (N,),
    a mean squared error; `other_words_loss` and `other_visual_words_loss` (N,), of the story's other steps, in
    nats a step.

    Without a text, or without other steps, the loss is 0; without an image, the image's losses mean nothing.
    """

    bag_of_words_loss: Tensor
    bag_of_visual_words_loss: Tensor = REQUIRED
    draft_loss: Tensor = REQUIRED
    other_words_loss: Tensor = REQUIRED
    other_visual_words_loss: Tensor = REQUIRED


class EncoderAids(nn.Module):
    """Linear predictions of both bags of words, of a step and of the other steps, and a small regression of the latents
    (the draft).
    """

    visual_words: Tensor  # (V, c*PATCH*PATCH)

    def __init__(
        self, config: AidsConfig, vocab_size: int, latent_shape: tuple[int, int, int], num_slots: int, code_dim: int
    ) -> None:
        super().__init__()
        width, (channels, height, length) = num_slots * code_dim, latent_shape
        self.bag_of_words, self.other_words = nn.Linear(width, vocab_size), nn.Linear(width, vocab_size)
        for predictor in (self.bag_of_words, self.other_words):
            nn.init.constant_(predictor.bias, math.log(WORDS_A_TEXT / vocab_size))
        self.bag_of_visual_words = nn.Linear(width, config.num_visual_words)
        self.other_visual_words = nn.Linear(width, config.num_visual_words)
        self.draft = nn.Sequential(
            nn.Linear(width, config.draft_dim), nn.SiLU(), nn.Linear(config.draft_dim, channels * height * length)
        )
        self.register_buffer("visual_words", torch.randn(config.num_visual_words, channels * PATCH**2))

    def forward(self, code_embeds: Tensor, batch: StoryBatch) -> AidsOutput:
        """Return the losses (N,) of code_embeds (N,S,d) of the batch's N = B*T steps."""
        codes, latents, shape = code_embeds.flatten(1), batch.latents.flatten(0, 1), batch.step_mask.shape
        has_text, has_image = batch.text_mask[..., 1:].any(-1), batch.image_mask
        words = self.word_bag(batch.input_ids.flatten(0, 1), batch.text_mask.flatten(0, 1))
        visual_words = self.visual_bag(latents)
        other_words, some_words = of_other_pages(words.unflatten(0, shape), has_text)
        other_visual_words, some_images = of_other_pages(visual_words.unflatten(0, shape), has_image)
        return AidsOutput(
            bag_of_words_loss=_bag_loss(self.bag_of_words(codes), words) * has_text.flatten(),
            bag_of_visual_words_loss=_bag_loss(self.bag_of_visual_words(codes), visual_words),
            draft_loss=(self.draft(codes).float().view_as(latents) - latents).square().mean((1, 2, 3)),
            other_words_loss=_bag_loss(self.other_words(codes), other_words.flatten(0, 1)) * some_words.flatten(),
            other_visual_words_loss=_bag_loss(self.other_visual_words(codes), other_visual_words.flatten(0, 1))
            * some_images.flatten(),
        )

    def word_bag(self, input_ids: Tensor, text_mask: Tensor) -> Tensor:
        """Return whether each word occurs after <bos> (N,vocab), for input_ids and text_mask (N,L)."""
        bag = torch.zeros(len(input_ids), self.bag_of_words.out_features, device=input_ids.device)
        return bag.scatter_reduce(1, input_ids[:, 1:], text_mask[:, 1:].float(), "amax")

    @torch.no_grad()
    def visual_bag(self, latents: Tensor) -> Tensor:
        """Return whether each visual word is the nearest to some patch (N,V) of latents (N,c,h,w)."""
        with torch.autocast(latents.device.type, enabled=False):
            distances = self.visual_words.square().sum(1) - 2 * _patches(latents.float()) @ self.visual_words.T
        bag = torch.zeros(len(latents), len(self.visual_words), device=latents.device)
        return bag.scatter_(1, distances.argmin(-1), 1.0)

    @torch.no_grad()
    def fit_words(self, input_ids: Tensor, text_mask: Tensor) -> None:
        """Initialise the biases of both predictions of words by their frequencies in texts, for input_ids and text_mask
        (N,L): with a large vocabulary these take long to learn, and hide what differs between texts.
        """
        texts = text_mask[:, 1:].any(1)
        words = input_ids[texts, 1:].masked_fill(~text_mask[texts, 1:], -1).sort(1).values
        is_first = F.pad(words[:, 1:] != words[:, :-1], (1, 0), value=True) & (words >= 0)  # Each word once a text.
        counts = torch.bincount(words[is_first], minlength=self.bag_of_words.out_features)
        for predictor in (self.bag_of_words, self.other_words):
            predictor.bias.copy_(torch.logit((counts + UNSEEN) / (texts.sum() + 1)))

    @torch.no_grad()
    def fit_visual_words(self, latents: Tensor, seed: int, num_patches: int = 60_000, num_iters: int = 12) -> None:
        """Place the visual words by k-means on patches of latents (N,c,h,w), and initialise the predictions' biases by
        their frequencies.
        """
        with seeded(seed):
            patches = _patches(latents.float()).flatten(0, 1)
            patches = patches[torch.randperm(len(patches))[:num_patches]]
            means, _ = kmeans(patches[None], len(self.visual_words), num_iters)
        self.visual_words.copy_(means[0])
        share = self.visual_bag(latents).mean(0).clamp(1e-3, 1 - 1e-3)
        for predictor in (self.bag_of_visual_words, self.other_visual_words):
            predictor.bias.copy_(torch.logit(share))


def of_other_pages(bags: Tensor, present: Tensor) -> tuple[Tensor, Tensor]:
    """Average bags (B,T,V), where `present` (B,T), over the other steps of each step (B,T,V); also return where there
    are other steps (B,T).
    """
    bags = bags * present[..., None]
    count = present.sum(1, keepdim=True) - present.long()
    return (bags.sum(1, keepdim=True) - bags) / count.clamp(min=1)[..., None], count > 0


def _patches(latents: Tensor) -> Tensor:
    """Cut latents into overlapping patches (N,P,c*PATCH*PATCH)."""
    return F.unfold(latents, PATCH).transpose(1, 2)


def _bag_loss(logits: Tensor, occurs: Tensor) -> Tensor:
    """Return the cross-entropy of logits (N,V), summed over words: (N,), in nats."""
    return F.binary_cross_entropy_with_logits(logits.float(), occurs, reduction="none").sum(1)
