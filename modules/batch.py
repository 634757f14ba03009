"""Inputs of the model: a batch of stories, and the random numbers of one pass. Axes as in `story.py`."""

from __future__ import annotations

from dataclasses import dataclass, fields, replace
from typing import Any

import torch
from torch import Tensor
from transformers.utils import ModelOutput

from modules.common.outputs import REQUIRED
from modules.layers.plan_window import MAX_SEEN

FEATURES = ("image_features", "text_features")  # Of frozen encoders, computed in advance.


@dataclass(frozen=True)
class StepInputs:
    """Inputs of a storyboard encoder for N steps; fields that only some encoders read are None for the others."""

    latents: Tensor  # (N, c, h, w)
    image_mask: Tensor  # (N,) bool; False where a step has no picture
    input_ids: Tensor  # (N, L)
    text_mask: Tensor  # (N, L) bool; all False where a step has no text
    pixels: Tensor | None = None  # (N, 3, H, W) in [-1, 1]
    encoder_ids: Tensor | None = None  # (N, Le) the texts, by the tokenizer of a pretrained text encoder
    encoder_mask: Tensor | None = None  # (N, Le) bool
    image_features: Tensor | None = None  # (N, P, D') a frozen image encoder's output, in place of the pixels
    text_features: Tensor | None = None  # (N, Le, D') a frozen text encoder's output

    def tensors(self) -> dict[str, Tensor]:
        """Return the tensors that are present, by field name."""
        return {
            field.name: getattr(self, field.name) for field in fields(self) if getattr(self, field.name) is not None
        }

    def to(self, device: torch.device) -> StepInputs:
        """Return the same steps on another device."""
        return StepInputs(**{name: value.to(device) for name, value in self.tensors().items()})

    def without_text(self) -> StepInputs:
        """Return the steps as pictures alone."""
        return replace(self, text_mask=torch.zeros_like(self.text_mask))

    def without_image(self) -> StepInputs:
        """Return the steps as texts alone."""
        return replace(self, image_mask=torch.zeros_like(self.image_mask))

    def keep(self, text: Tensor | bool, image: Tensor | bool) -> StepInputs:
        """Mask the modalities that are not kept, (N,) bool each; one is masked only where the step has the other."""
        has_text, has_image = self.text_mask.any(1), self.image_mask
        return replace(
            self, text_mask=self.text_mask & (text | ~has_image)[:, None], image_mask=has_image & (image | ~has_text)
        )

    def dropped(self, noise: StepNoise) -> StepInputs:
        """Apply the modality dropout of `noise`."""
        return self.keep(noise.keep_text, noise.keep_image)


STEP_FIELDS = tuple(field.name for field in fields(StepInputs))


@dataclass
class PlanBatch(ModelOutput):
    """Cached codes that the prior learns from: those of both modalities, of P stories, not necessarily the batch's."""

    codes: Tensor = REQUIRED  # (P, T, S)
    prompt_ids: Tensor = REQUIRED  # (P, Lp)
    prompt_mask: Tensor = REQUIRED  # (P, Lp) bool
    step_mask: Tensor = REQUIRED  # (P, T) bool
    num_steps: Tensor = REQUIRED  # () as in StoryBatch
    own_share: float | None = None  # the share of past codes that the prior draws itself (`two_pass_nll`); None: 0
    own_draws: Tensor | None = None  # (2, P, T, S) their randomness, from `draw_mixing`
    given: Tensor | None = None  # (P, G) pages that the prior sees from the start, from `draw_given`

    def to(self, device: torch.device) -> PlanBatch:
        """Return the same plans on another device."""
        return PlanBatch(**_moved(self, device))


@dataclass
class StoryBatch(ModelOutput):
    """Stories as tensors. Pictures are latents of the frozen autoencoder, encoded once; fields that only some presets
    read are None for the others.
    """

    prompt_ids: Tensor = REQUIRED  # (B, Lp)
    prompt_mask: Tensor = REQUIRED  # (B, Lp) bool
    input_ids: Tensor = REQUIRED  # (B, T, L) <bos> ... <eos>
    text_mask: Tensor = REQUIRED  # (B, T, L) bool; all False where a step has no text
    latents: Tensor = REQUIRED  # (B, T, c, h, w)
    image_mask: Tensor = REQUIRED  # (B, T) bool; False where a step has no picture
    step_mask: Tensor = REQUIRED  # (B, T) bool; False on padding steps
    pixels: Tensor | None = None  # (B, T, 3, H, W); this and the next four as in StepInputs
    encoder_ids: Tensor | None = None  # (B, T, Le)
    encoder_mask: Tensor | None = None  # (B, T, Le) bool
    image_features: Tensor | None = None  # (B, T, P, D')
    text_features: Tensor | None = None  # (B, T, Le, D')
    caption_ids: Tensor | None = None  # (B, T, Lc) the texts, by the tokenizer of Stable Diffusion's text encoder
    codes: Tensor | None = None  # (B, T, S) cached codes for the decoders; None while the encoder is being trained
    plans: PlanBatch | None = None  # what the prior learns from, if not from the codes above
    num_steps: Tensor = REQUIRED  # () steps, tokens and pictures that means are taken over: those of this batch, or,
    num_tokens: Tensor = REQUIRED  # () if a global batch is cut into parts, the global number divided by the parts,
    num_images: Tensor = REQUIRED  # () so that the parts' mean losses average to the global batch's mean loss.

    def steps(self) -> StepInputs:
        """Return the encoder's inputs for the N = B*T steps."""
        return StepInputs(**{name: value.flatten(0, 1) for name, value in self.items() if name in STEP_FIELDS})

    def own_plans(self, codes: Tensor) -> PlanBatch:
        """Return `plans` or, without them, `codes` (B,T,S) as plans of the batch's own stories."""
        if self.plans is not None:
            return self.plans
        return PlanBatch(codes, self.prompt_ids, self.prompt_mask, self.step_mask, self.num_steps)

    def to(self, device: torch.device) -> StoryBatch:
        """Return the same batch on another device."""
        return StoryBatch(**_moved(self, device))


@dataclass
class StepNoise(ModelOutput):
    """The random numbers of one training pass, drawn outside the model: the pass itself is a pure function. N = B*T."""

    keep_text: Tensor = REQUIRED  # (N,) bool: the encoder sees the text (modality dropout)
    keep_image: Tensor = REQUIRED  # (N,) bool: the encoder sees the picture
    null_text: Tensor = REQUIRED  # (N,) bool: the text decoder gets the null codes (classifier-free guidance dropout)
    null_image: Tensor = REQUIRED  # (N,) bool: the image decoder gets them
    timesteps: Tensor = REQUIRED  # (N,) diffusion timesteps
    noise: Tensor = REQUIRED  # (N, c, h, w)
    hidden_pages: Tensor = REQUIRED  # (N, MAX_SEEN) bool: the decoders do not see this page of the plan
    hidden_words: Tensor | None = None  # (N, L) bool: the text decoder does not see this token of the text

    def rows(self, start: int, end: int) -> StepNoise:
        """Return the noise of rows start..end of a global batch."""
        return StepNoise(**{name: value[start:end] for name, value in self.items()})

    def to(self, device: torch.device) -> StepNoise:
        """Return the same noise on another device."""
        return StepNoise(**_moved(self, device))


def draw_noise(
    num_rows: int,
    latent_shape: tuple[int, int, int],
    num_timesteps: int,
    generator: torch.Generator,
    modality_dropout: float = 0.0,
    null_text: float = 0.0,
    null_image: float = 0.0,
    page_dropout: float = 0.0,
    word_dropout: float = 0.0,
    text_length: int = 0,
) -> StepNoise:
    """Draw the noise of `num_rows` steps. `modality_dropout` is the chance of text only, and again of picture only.

    `page_dropout` is the chance that a step's decoders see a random part of the plan only: each other page is then
    hidden with a probability that is itself uniform, so all numbers of visible pages are as likely. `word_dropout` is
    the chance that the text decoder does not see one of the `text_length` tokens that it has read.

    Timesteps are stratified over the rows (one from each of `num_rows` equal parts, in random order): the same mean
    loss at a lower variance (as in VDM, arXiv 2107.00630, appendix I.1). The noise is on the generator's device.
    """
    device = generator.device
    random: Any = {"generator": generator, "device": device}
    modality = torch.rand(num_rows, **random)
    strata = (torch.arange(num_rows, device=device) + torch.rand(num_rows, **random)) / num_rows
    order = torch.randperm(num_rows, **random)
    values = StepNoise(
        keep_text=modality >= modality_dropout,
        keep_image=(modality < modality_dropout) | (modality >= 2 * modality_dropout),
        null_text=torch.rand(num_rows, **random) < null_text,
        null_image=torch.rand(num_rows, **random) < null_image,
        timesteps=(strata[order] * num_timesteps).long().clamp(max=num_timesteps - 1),
        noise=torch.randn(num_rows, *latent_shape, **random),
        hidden_pages=torch.zeros(num_rows, MAX_SEEN, dtype=torch.bool, device=device),
    )
    if page_dropout:  # Drawn last: without it, all numbers are as they were before there was a plan to hide.
        share = torch.rand(num_rows, 2, **random)
        share = share[:, 1] * (share[:, 0] < page_dropout)
        values.hidden_pages = torch.rand(num_rows, MAX_SEEN, **random) < share[:, None]
    if word_dropout:
        values.hidden_words = torch.rand(num_rows, text_length, **random) < word_dropout
    return values


def _moved(values: ModelOutput, device: torch.device) -> dict[str, Any]:
    return {name: value.to(device) if hasattr(value, "to") else value for name, value in values.items()}
