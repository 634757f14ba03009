"""Candidates of an edited page, of which the encoder chooses: it reads back what each of them would show and say."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor

from modules.encoded.stories import batch_of_steps
from modules.generation.pipeline import StoryPipeline
from modules.generation.rendering import render_images, render_texts
from modules.generation.settings import GenerationSettings
from modules.layers.seeding import derive_seed, make_generator
from modules.steering.drafts import drafting
from modules.story import StoryStep

NUM_NOISES = 3  # From which the picture of a page may begin.
NUM_WORDINGS, WORDING_TEMPERATURE, WORDING_TOP_P = 24, 1.0, 0.98
KEPT_WORDINGS = 3  # That are drafted.
VIEW_NATS = 4.0


def noise_seeds(seed: int) -> list[int]:
    """Return the seeds of the noises to choose from, `seed` first."""
    return [seed, *(derive_seed(seed, "noise", number) for number in range(1, NUM_NOISES))]


@torch.no_grad()
def choose_view(
    pipeline: StoryPipeline, codes: Tensor, page: int, text: str, settings: GenerationSettings, seeds: Sequence[int]
) -> tuple[Tensor, int]:
    """Return the plan (T,S) that a page of the plan `codes` (T,S) is to be drawn in, and one of the seeds: those whose
    draft shows the given text best, by the nats of the text given the codes that the encoder reads in the draft.

    What new words say may contradict the other pages, whose codes the picture is drawn to as well. So there is another
    view beside the plan itself: a plan in which all pages are this one. It is taken only if it saves `VIEW_NATS`.
    """
    plans = torch.stack([codes, codes[page].expand_as(codes)])
    images = _draft(pipeline, plans, page, [text] * len(plans), settings, seeds)
    model = pipeline.model
    read = model.encode(batch_of_steps([StoryStep(None, image) for image in images], model, pipeline.tokenizer)).codes
    assert read is not None  # The codebook is ready.
    batch = batch_of_steps([StoryStep(text)], model, pipeline.tokenizer)
    ids, mask = (tokens[0].expand(len(images), -1) for tokens in (batch.input_ids, batch.text_mask))
    shown = pipeline.embed(read)
    window = model.window(shown, [1] * len(images))
    nats = model.text_decoder(shown, ids, mask, window=window).nll.double().sum(1).cpu()
    best, noises = nats.view(len(seeds), len(plans)).min(0)
    view = int(best[0] - best[1] >= VIEW_NATS)
    return plans[view], seeds[int(noises[view])]


@torch.no_grad()
def choose_wording(
    pipeline: StoryPipeline,
    codes: Tensor,
    page: int,
    slots: Sequence[int],
    settings: GenerationSettings,
    seeds: Sequence[int],
    text: str | None = None,
    image: Image.Image | None = None,
) -> tuple[str | None, int]:
    """Return other words for a page of the plan `codes` (T,S), None if the likeliest ones do, and one of the seeds: so
    that the encoder reads the codes of `slots` in words and picture, and those of the other slots as well as it may.

    With a given `text` the seed alone is chosen, with a given `image` the words alone.
    """
    told = [text] if text is not None else _wordings(pipeline, codes, page, settings)
    found, scores = _read_back(pipeline, [StoryStep(words) for words in told], codes[page], slots)
    better = [] if found[0] else [row for row in scores.argsort(descending=True).tolist() if found[row]]
    told = [told[row] for row in [0, *better][:KEPT_WORDINGS]]  # The likeliest words stay unless others say it.
    if image is None:
        images = _draft(pipeline, codes.repeat(len(told), 1, 1), page, told, settings, seeds)
    else:
        images = [image] * len(told)
    pages = [StoryStep(told[row % len(told)], image) for row, image in enumerate(images)]
    best = int(_read_back(pipeline, pages, codes[page], slots)[1].argmax())
    words = best % len(told)
    return (None if words == 0 else told[words]), seeds[best // len(told)]


def _wordings(pipeline: StoryPipeline, codes: Tensor, page: int, settings: GenerationSettings) -> list[str]:
    """Return different texts of a page of the plan `codes` (T,S), the one that it would get first."""
    code_embeds = pipeline.embed(codes)
    window = pipeline.model.window(code_embeds, [len(codes)])
    drawn = replace(settings, decoding="top_p", temperature=WORDING_TEMPERATURE, top_p=WORDING_TOP_P, penalty_alpha=0.0)
    texts = list[str]()
    for count, chosen in ((1, settings), (NUM_WORDINGS, drawn)):
        rows = torch.full((count,), page, device=pipeline.device)
        around = None if window is None else window[rows]
        texts += render_texts(pipeline.model, pipeline.tokenizer, code_embeds[rows], chosen, around)
    return list(dict.fromkeys(texts))


def _draft(
    pipeline: StoryPipeline,
    plans: Tensor,
    page: int,
    texts: Sequence[str],
    settings: GenerationSettings,
    seeds: Sequence[int],
) -> list[Image.Image]:
    """Draft a page of R plans (R,T,S) with their texts (R) from each of M noises: pictures (M*R), all plans of one
    noise after the other.
    """
    count, num_pages = plans.shape[:2]
    model, code_embeds = pipeline.model, pipeline.embed(plans.flatten(0, 1))
    window = model.window(code_embeds, [num_pages] * count)
    rows = (torch.arange(count, device=pipeline.device) * num_pages + page).repeat(len(seeds))
    shape = model.image_decoder.latent_shape
    noise = torch.cat([torch.randn(1, *shape, generator=make_generator(seed)) for seed in seeds])
    around = None if window is None else window[rows]
    own, told = code_embeds[rows], [*texts] * len(seeds)
    noises = noise.repeat_interleave(count, 0)
    return render_images(model, own, told, drafting(settings), None, around, noises)


def _read_back(
    pipeline: StoryPipeline, pages: Sequence[StoryStep], codes: Tensor, slots: Sequence[int]
) -> tuple[Tensor, Tensor]:
    """Return whether all of the `slots` of a page's codes (S) are read in N pages (N,), and how well (N,)."""
    read, cosines = _read(pipeline, pages, pipeline.embed(codes))
    asked = list(slots)
    found = (read.cpu()[:, asked] == codes[asked]).double().mean(1)
    return found == 1, found + cosines[:, asked].mean(1) + cosines.mean(1)


def _read(pipeline: StoryPipeline, pages: Sequence[StoryStep], wanted: Tensor) -> tuple[Tensor, Tensor]:
    """Return the codes (N,S) read in N pages, and the cosines (N,S) of their slots and wanted vectors (N|1,S,d)."""
    read = pipeline.model.encode(batch_of_steps(pages, pipeline.model, pipeline.tokenizer))
    assert read.codes is not None  # The codebook is ready.
    slots = pipeline.embed(read.codes) if read.slots is None else read.slots
    return read.codes, F.cosine_similarity(slots.float(), wanted.float(), dim=-1).double().cpu()
