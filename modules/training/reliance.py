"""Reliance of the decoders on the codes: their losses with own, swapped and null codes."""

from __future__ import annotations

import torch
from torch import Tensor

from modules.batch import StepNoise, StoryBatch
from modules.common.progress import track
from modules.encoded.stories import EncodedStories
from modules.image_decoder.image_decoder import ImageDecoder
from modules.layers.losses import masked_mean
from modules.story_model.story_model import StoryModel

STORIES_PER_BATCH = 8


def swap_rows(count: int) -> Tensor:
    """Return a permutation (N,) without fixed points: every row is mapped to one about half a batch away."""
    return torch.arange(count).roll(count // 2 + (count > 2))


def codes_or_null(decoder: ImageDecoder, code_embeds: Tensor, null: bool) -> Tensor:
    """Return code_embeds (N,S,d) or, with `null`, as many null codes, for a decoder that reads texts beside them.

    The `null` of `predict` would drop the texts too, and their information would be credited to the codes.
    """
    return decoder.null_codes.to(code_embeds.dtype).repeat(len(code_embeds), 1, 1) if null else code_embeds


@torch.no_grad()
def code_reliance(model: StoryModel, batch: StoryBatch, noise: StepNoise) -> dict[str, Tensor]:
    """Return sums of each row of one batch, N = B*T.

    They are text_nll_{own,swapped,null} (N,) summed over tokens, num_tokens (N,), and
    diffusion_loss_{own,swapped,null} (N,); zero on padded rows. Swapped codes come from a real step of the batch. A
    decoder that reads texts beside the codes always reads the true ones.
    """
    input_ids, text_mask, latents = (
        batch.input_ids.flatten(0, 1),
        batch.text_mask.flatten(0, 1),
        batch.latents.flatten(0, 1),
    )
    image_mask, step_mask = batch.image_mask.flatten(), batch.step_mask.flatten()
    own = model.condition(batch).code_embeds
    swapped = own.clone()
    real = step_mask.nonzero()[:, 0]
    swapped[real] = own[real[swap_rows(len(real))]]
    everywhere, captions = torch.ones_like(step_mask), model.captions(batch)
    sums = {"num_tokens": text_mask[:, 1:].sum(1).float()}
    for name, codes, null in (("own", own, False), ("swapped", swapped, False), ("null", own, True)):
        text = model.text_decoder(codes, input_ids, text_mask, everywhere if null else None)
        shown = codes_or_null(model.image_decoder, codes, null)
        image = model.image_decoder(shown, latents, noise.timesteps, noise.noise, encoder_hidden_states=captions)
        sums[f"text_nll_{name}"], sums[f"diffusion_loss_{name}"] = text.nll.sum(1), image.loss.float() * image_mask
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
    for name in ("own", "swapped", "null"):
        summary[f"text_nll_{name}"] = (sums[f"text_nll_{name}"].sum() / sums["num_tokens"].sum().clamp(min=1)).item()
        summary[f"diffusion_loss_{name}"] = masked_mean(sums[f"diffusion_loss_{name}"], image_mask).item()
    for term in ("text_nll", "diffusion_loss"):
        summary[f"{term}_swap_gap"] = summary[f"{term}_swapped"] - summary[f"{term}_own"]
        summary[f"{term}_null_gap"] = summary[f"{term}_null"] - summary[f"{term}_own"]
    return summary
