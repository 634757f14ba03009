"""Alternatives: other codes at one place of a plan, with the words and the picture that they would give."""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor

from modules.common.errors import UserError
from modules.generation.pipeline import StoryPipeline
from modules.generation.rendering import render_images, render_texts
from modules.layers.seeding import make_generator
from modules.steering.plan import Plan
from modules.steering.planned_story import PlannedStory

TWIN_COSINE = 0.9  # Of the vectors of two codes that read alike.


@dataclass(frozen=True)
class Alternative:
    """A code, its probability under the prior given the codes before it, and the page as it would be with it."""

    code: int
    probability: float
    text: str
    image: Image.Image


@torch.no_grad()
def alternatives(
    pipeline: StoryPipeline, story: PlannedStory, page: int, slot: int, count: int = 8
) -> list[Alternative]:
    """Return the likeliest codes of a page's slot, the present one first, and the page decoded with each of them.

    Of codes that nearly mean the same, one is shown: see `distinct_codes`. All pictures begin with the noise of the
    page's own, so what differs comes from the code. Raises UserError if the slot does not exist.
    """
    plan = story.plan
    if not 0 <= slot < plan.num_slots:
        raise UserError(f"slot {slot + 1} does not exist: a page has slots from 1 to {plan.num_slots}")
    probabilities = code_probabilities(pipeline, plan, page, slot)
    chosen = distinct_codes(pipeline, probabilities, plan.codes[page][slot], count)
    plans = torch.tensor(plan.codes).repeat(len(chosen), 1, 1)
    plans[:, page, slot] = torch.tensor(chosen)
    code_embeds = pipeline.embed(plans.flatten(0, 1))
    window = pipeline.model.window(code_embeds, [plan.num_pages] * len(chosen))
    rows = torch.arange(len(chosen), device=pipeline.device) * plan.num_pages + page
    own, around = code_embeds[rows], None if window is None else window[rows]
    settings = replace(plan.settings, strength=1.0)  # Each is a picture of this page, none the one after another.
    texts = render_texts(pipeline.model, pipeline.tokenizer, own, settings, around)
    noise = page_noise(pipeline, plan, page).expand(len(chosen), -1, -1, -1)
    images = render_images(pipeline.model, own, texts, settings, None, around, noise)
    values = zip(chosen, texts, images, strict=True)
    return [Alternative(code, float(probabilities[code]), text, image) for code, text, image in values]


@torch.no_grad()
def code_probabilities(pipeline: StoryPipeline, plan: Plan, page: int, slot: int) -> Tensor:
    """Return the probability (K,) of every code of a slot, given the prompt and the codes before it."""
    codes = torch.tensor(plan.codes, device=pipeline.device)[None]
    step_mask = torch.ones(codes.shape[:2], dtype=torch.bool, device=pipeline.device)
    logits = pipeline.model.prior.score(codes, *pipeline.prompt_tokens(plan.prompt), step_mask).logits
    return logits[0, page, slot].float().softmax(-1).cpu()


def distinct_codes(pipeline: StoryPipeline, probabilities: Tensor, present: int, count: int) -> list[int]:
    """Return the present code of a slot and up to `count` others, the likeliest of probabilities (K,) first.

    A codebook has many twins: codes whose vectors nearly coincide, and which give the same words and picture. A code is
    left out if it is a twin of one before it.
    """
    vectors = F.normalize(pipeline.embed(torch.arange(len(probabilities))).float(), dim=-1).cpu()
    left = probabilities.clone()
    left[present] = 2.0
    chosen: list[int] = []
    while len(chosen) <= count and left.max() >= 0:
        code = int(left.argmax())
        chosen.append(code)
        left[vectors @ vectors[code] >= TWIN_COSINE] = -1.0
        left[code] = -1.0
    return chosen


def page_noise(pipeline: StoryPipeline, plan: Plan, page: int) -> Tensor:
    """Return the noise (c,h,w) that a page's picture began with; of a given picture, the first of the plan's seed."""
    source, row, seed = plan.picture_from[page], 0, plan.settings.seed
    if source is not None:
        rendering = plan.renderings[source]
        row, seed = rendering.pages.index(page), rendering.settings.seed
    shape = pipeline.model.image_decoder.latent_shape
    return torch.randn(row + 1, *shape, generator=make_generator(seed))[row]
