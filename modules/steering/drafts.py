"""Quick drafts of planned stories, read by the encoder: do the pictures show the plan, and what the texts say?"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
import torch.nn.functional as F
from torch import Tensor

from modules.common.precision import inference_autocast
from modules.common.progress import track
from modules.encoded.stories import batch_of_latents
from modules.generation.pipeline import StoryPipeline
from modules.generation.rendering import draw_latents
from modules.generation.settings import GenerationSettings
from modules.layers.seeding import make_generator

DRAFTED_AT_ONCE = 16  # Plans.
DRAFT_STEPS = 2  # More rank no better: assets/notes.md.
NATS_PER_UNIT = 50.0  # Of a text, that count as much as a fit of 1: benchmarks/search_curve.py, assets/notes.md.


@dataclass(frozen=True)
class DraftReading:
    """What the drafts of R plans show, a mean over pages each (R,).

    `fit` is the cosine of the encoder's slots, read from a picture alone, and the plan's codes. `text_nats` is -log p
    of a page's text given the codes that the encoder reads in the story's pictures.
    """

    fit: Tensor
    text_nats: Tensor

    @property
    def scores(self) -> Tensor:
        """The scores (R,) by which plans are ranked: higher is better."""
        return self.fit - self.text_nats / NATS_PER_UNIT


def drafting(settings: GenerationSettings, num_steps: int = 4) -> GenerationSettings:
    """Return the settings of a quick draft: a few unguided steps."""
    return replace(settings, scheduler="dpmsolver++", num_inference_steps=num_steps, guidance_scale=1.0, strength=1.0)


@torch.no_grad()
def read_drafts(
    pipeline: StoryPipeline, codes: Tensor, texts: Sequence[Sequence[str]], settings: GenerationSettings
) -> DraftReading:
    """Draw every page of R plans (R,T,S) in two unguided steps, from the noise of the story itself, and read them.

    `texts` (R,T) are those decoded from the plans. A draft begins with the noise that the picture will begin with, so
    that it shows what this picture will show, and not only what the plan could.
    """
    parts, fits, nats = codes.split(DRAFTED_AT_ONCE), list[Tensor](), list[Tensor]()
    for number, part in enumerate(track("plans drafted", parts, visible=len(parts) > 1)):
        told = [text for story in texts[number * DRAFTED_AT_ONCE :][: len(part)] for text in story]
        fit, cost = _read(pipeline, part, told, settings)
        fits.append(fit)
        nats.append(cost)
    return DraftReading(torch.cat(fits), torch.cat(nats))


def _read(
    pipeline: StoryPipeline, codes: Tensor, texts: list[str], settings: GenerationSettings
) -> tuple[Tensor, Tensor]:
    """Return the fit and the nats of the texts (R*T) of R plans (R,T,S)."""
    count, num_pages = codes.shape[:2]
    model, own = pipeline.model, pipeline.embed(codes.flatten(0, 1))
    window, lengths = model.window(own, [num_pages] * count), [num_pages] * count
    noise = torch.randn(num_pages, *model.image_decoder.latent_shape, generator=make_generator(settings.seed))
    quick = drafting(settings, DRAFT_STEPS)
    latents = draw_latents(model, own, texts, quick, window, noise.repeat(count, 1, 1, 1))
    with inference_autocast(settings.precision, pipeline.device):
        read = model.encode(batch_of_latents(latents, model, pipeline.tokenizer))
    assert read.codes is not None  # The codebook is ready.
    if read.slots is None:
        fit = (read.codes.cpu() == codes.flatten(0, 1)).double().mean(1)
    else:
        fit = F.cosine_similarity(read.slots.float(), own.float(), dim=-1).double().mean(1).cpu()
    ids, mask = pipeline.tokenizer.encode_batch(texts, model.config.text_decoder.max_length)
    shown, longest = pipeline.embed(read.codes), max(1, int(mask.sum(1).max()))
    tokens = ids[:, :longest].to(pipeline.device), mask[:, :longest].bool().to(pipeline.device)
    with inference_autocast(settings.precision, pipeline.device):
        nats = model.text_decoder(shown, *tokens, window=model.window(shown, lengths)).nll.double().sum(1).cpu()
    return fit.view(count, num_pages).mean(1), nats.view(count, num_pages).mean(1)
