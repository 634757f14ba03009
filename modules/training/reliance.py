"""Reliance of the decoders on the codes: their losses with own, swapped and null codes."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from modules.batch import StepNoise, StoryBatch
from modules.common.progress import track
from modules.encoded.stories import EncodedStories
from modules.image_decoder.image_decoder import ImageDecoder
from modules.layers.losses import masked_mean
from modules.layers.plan_window import PlanWindow
from modules.story_model.story_model import StoryModel
from modules.text_decoder.text_decoder import TextDecoder

STORIES_PER_BATCH = 8


def swap_rows(count: int) -> Tensor:
    """Return a permutation (N,) without fixed points: every row is mapped to one about half a batch away."""
    return torch.arange(count).roll(count // 2 + (count > 2))


class Condition(NamedTuple):
    """What the decoders read of N pages: `code_embeds` (N,S,d) and the windows around them, or with `null` the learned
    null codes in place of a page's own.
    """

    code_embeds: Tensor
    window: PlanWindow | None
    null: bool = False

    def rows(self, rows: Tensor) -> Condition:
        """Return the condition of some of the pages."""
        return Condition(self.code_embeds[rows], None if self.window is None else self.window[rows], self.null)

    def codes(self, decoder: ImageDecoder | TextDecoder) -> Tensor:
        """Return the page's own codes (N,S,d) as a decoder reads them.

        The decoders' own `null` would drop a text that is read beside the codes, and the whole plan.
        """
        null_codes = decoder.null_codes.to(self.code_embeds.dtype)
        return null_codes.repeat(len(self.code_embeds), 1, 1) if self.null else self.code_embeds

    def text_nats(self, model: StoryModel, input_ids: Tensor, text_mask: Tensor) -> Tensor:
        """Return -log p(s | z) of N texts (N,L) in nats (N,)."""
        decoder = model.text_decoder
        return decoder(self.codes(decoder), input_ids, text_mask, window=self.window).nll.sum(1)

    def image_loss(self, model: StoryModel, latents: Tensor, noise: StepNoise, captions: Tensor | None) -> Tensor:
        """Return the losses (N,) of denoising N latents (N,c,h,w); the true texts `captions` (N,L,D) are always read,
        if any.
        """
        decoder = model.image_decoder
        loss = decoder(
            self.codes(decoder),
            latents,
            noise.timesteps,
            noise.noise,
            encoder_hidden_states=captions,
            window=self.window,
        ).loss
        return loss.float()


def plan_conditions(code_embeds: Tensor, window: PlanWindow | None, swap: Tensor) -> dict[str, Condition]:
    """Return, by name, what N pages (N,S,d) are decoded from: their plan, that of the page `swap` (N,), and no codes.

    Where decoders read the whole plan, the page's own codes and those of the others are also replaced apart: by the
    other page's (`page_swapped`, `others_swapped`), and by nothing (`page_null`, `others_null`).
    """
    other = code_embeds[swap]
    if window is None:
        swapped = Condition(other, None)
        return {"own": Condition(code_embeds, None), "swapped": swapped, "null": Condition(code_embeds, None, True)}
    elsewhere = window[swap]
    return {
        "own": Condition(code_embeds, window),
        "swapped": Condition(other, elsewhere),
        "null": Condition(code_embeds, window.hide(torch.ones_like(window.mask)), True),
        "page_swapped": Condition(other, window.with_own(other)),
        "others_swapped": Condition(code_embeds, elsewhere.with_own(code_embeds)),
        "page_null": Condition(code_embeds, window.hide_own(), True),
        "others_null": Condition(code_embeds, window.hide_others()),
    }


@torch.no_grad()
def code_reliance(model: StoryModel, batch: StoryBatch, noise: StepNoise) -> dict[str, Tensor]:
    """Return sums of each row of one batch, N = B*T.

    They are text_nll_{own,swapped,null,...} (N,) summed over tokens, num_tokens (N,), and
    diffusion_loss_{own,swapped,null,...} (N,); zero on padded rows; see `plan_conditions`. Swapped codes come from a
    real step of the batch. A decoder that reads texts beside the codes always reads the true ones.
    """
    input_ids, text_mask, latents = (
        batch.input_ids.flatten(0, 1),
        batch.text_mask.flatten(0, 1),
        batch.latents.flatten(0, 1),
    )
    image_mask, captions = batch.image_mask.flatten(), model.captions(batch)
    board = model.condition(batch)
    real = batch.step_mask.flatten().nonzero()[:, 0]
    swap = torch.arange(len(image_mask), device=real.device)
    swap[real] = real[swap_rows(len(real))]
    sums = {"num_tokens": text_mask[:, 1:].sum(1).float()}
    conditions = plan_conditions(board.code_embeds, model.batch_window(board, batch), swap)
    for name, condition in conditions.items():
        sums[f"text_nll_{name}"] = condition.text_nats(model, input_ids, text_mask)
        sums[f"diffusion_loss_{name}"] = condition.image_loss(model, latents, noise, captions) * image_mask
    return sums


@torch.no_grad()
def condition_steps(model: StoryModel, stories: EncodedStories) -> Tensor:
    """Return the code vectors that the decoders read, of every step of `stories` in order: (N,S,d) on the CPU.

    In the baselines they are predicted from the true steps before.
    """
    vectors: list[Tensor] = []
    for start in track("reading stories", range(0, len(stories), STORIES_PER_BATCH)):
        batch = stories.batch(range(start, min(start + STORIES_PER_BATCH, len(stories)))).to(
            model.autoencoder.latent_mean.device
        )
        vectors.append(model.condition(batch).code_embeds[batch.step_mask.flatten()].cpu())
    return torch.cat(vectors)


def reliance_summary(sums: dict[str, Tensor], image_mask: Tensor) -> dict[str, float]:
    """Return means of `code_reliance`: nats a token and mean squared error, and the gaps to a step's own codes."""
    summary: dict[str, float] = {}
    for name in [name.removeprefix("text_nll_") for name in sums if name.startswith("text_nll_")]:
        summary[f"text_nll_{name}"] = (sums[f"text_nll_{name}"].sum() / sums["num_tokens"].sum().clamp(min=1)).item()
        summary[f"diffusion_loss_{name}"] = masked_mean(sums[f"diffusion_loss_{name}"], image_mask).item()
    for term in ("text_nll", "diffusion_loss"):
        summary[f"{term}_swap_gap"] = summary[f"{term}_swapped"] - summary[f"{term}_own"]
        summary[f"{term}_null_gap"] = summary[f"{term}_null"] - summary[f"{term}_own"]
    return summary
