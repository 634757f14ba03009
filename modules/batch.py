"""What goes into the model: a batch of stories, and the random numbers of one pass. Axes as in `story.py`."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from transformers.utils import ModelOutput

FEATURES = ("image_features", "text_features")  # Of frozen encoders, computed in advance.
READ_OF_STEPS = ("latents", "image_mask", "input_ids", "text_mask", "pixels", "encoder_ids", "encoder_mask", *FEATURES)


@dataclass
class PlanBatch(ModelOutput):
    """Cached codes for the prior to learn from: those of both modalities, of P stories that need not be the batch's
    own.
    """

    codes: Tensor = None  # (P, T, S)
    prompt_ids: Tensor = None  # (P, Lp)
    prompt_mask: Tensor = None  # (P, Lp) bool
    step_mask: Tensor = None  # (P, T) bool
    num_steps: Tensor = None  # () as in StoryBatch
    own_share: Tensor | None = (
        None  # () of the codes before that are the prior's own draws, not the true ones (`two_pass_nll`)
    )
    own_draws: Tensor | None = None  # (2, P, T, S) the randomness of these, as `draw_mixing` gives it

    def to(self, device: torch.device) -> PlanBatch:
        """The same plans on another device."""
        return PlanBatch(**{name: value.to(device) for name, value in self.items()})


@dataclass
class StoryBatch(ModelOutput):
    """Stories as tensors. The pictures travel as latents of the frozen autoencoder, encoded once; what only some
    presets read is None in the others.
    """

    prompt_ids: Tensor = None  # (B, Lp)
    prompt_mask: Tensor = None  # (B, Lp) bool
    input_ids: Tensor = None  # (B, T, L) <bos> ... <eos>
    text_mask: Tensor = None  # (B, T, L) bool; all False where a step has no text
    latents: Tensor = None  # (B, T, c, h, w)
    image_mask: Tensor = None  # (B, T) bool; False where a step has no picture
    step_mask: Tensor = None  # (B, T) bool; False on padding steps
    pixels: Tensor | None = None  # (B, T, 3, H, W) in [-1, 1], for an image encoder
    encoder_ids: Tensor | None = None  # (B, T, Le) the same texts, by the tokenizer of a pretrained text encoder
    encoder_mask: Tensor | None = None  # (B, T, Le) bool
    image_features: Tensor | None = None  # (B, T, P, D') what a frozen image encoder says of the pixels, in their place
    text_features: Tensor | None = None  # (B, T, Le, D') and a frozen text encoder of its tokens
    caption_ids: Tensor | None = None  # (B, T, Lc) the same texts, by the tokenizer of Stable Diffusion's text encoder
    codes: Tensor | None = None  # (B, T, S) cached codes for the decoders; None while the encoder is being trained
    plans: PlanBatch | None = None  # what the prior learns, where it is not the codes above
    num_steps: Tensor = None  # () steps, tokens and pictures that a mean is taken over: those of this batch, or,
    num_tokens: Tensor = None  # () when a global batch is cut into parts, the global number divided by the parts,
    num_images: Tensor = None  # () so that the parts' mean losses average to the global batch's mean loss.

    def steps(self) -> dict[str, Tensor]:
        """What the encoder reads of the N = B*T steps."""
        return {name: value.flatten(0, 1) for name, value in self.items() if name in READ_OF_STEPS}

    def to(self, device: torch.device) -> StoryBatch:
        """The same batch on another device."""
        return StoryBatch(**{name: value.to(device) for name, value in self.items()})


@dataclass
class StepNoise(ModelOutput):
    """The random numbers of one training pass, drawn outside the model: the pass itself is a pure function. N = B*T."""

    keep_text: Tensor = None  # (N,) bool: the encoder sees the text (modality dropout)
    keep_image: Tensor = None  # (N,) bool: the encoder sees the picture
    null_text: Tensor = None  # (N,) bool: the text decoder gets the null codes (classifier-free guidance dropout)
    null_image: Tensor = None  # (N,) bool: the image decoder gets them
    timesteps: Tensor = None  # (N,) diffusion timesteps
    noise: Tensor = None  # (N, c, h, w)

    def rows(self, start: int, end: int) -> StepNoise:
        """The part that belongs to rows start..end of a global batch."""
        return StepNoise(**{name: value[start:end] for name, value in self.items()})

    def to(self, device: torch.device) -> StepNoise:
        return StepNoise(**{name: value.to(device) for name, value in self.items()})


def draw_noise(
    num_rows: int,
    latent_shape: tuple[int, int, int],
    num_timesteps: int,
    generator: torch.Generator,
    modality_dropout: float = 0.0,
    null_text: float = 0.0,
    null_image: float = 0.0,
) -> StepNoise:
    """Draw the noise of `num_rows` steps. `modality_dropout` is the chance of text only, and again of picture only.

    Timesteps are stratified over the rows (one from each of `num_rows` equal parts, in random order): the same mean
    loss at a lower variance (as in VDM, arXiv 2107.00630, appendix I.1).
    """
    modality = torch.rand(num_rows, generator=generator)
    strata = (torch.arange(num_rows) + torch.rand(num_rows, generator=generator)) / num_rows
    order = torch.randperm(num_rows, generator=generator)
    return StepNoise(
        keep_text=modality >= modality_dropout,
        keep_image=(modality < modality_dropout) | (modality >= 2 * modality_dropout),
        null_text=torch.rand(num_rows, generator=generator) < null_text,
        null_image=torch.rand(num_rows, generator=generator) < null_image,
        timesteps=(strata[order] * num_timesteps).long().clamp(max=num_timesteps - 1),
        noise=torch.randn(num_rows, *latent_shape, generator=generator),
    )
