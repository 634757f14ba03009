"""The score of a story: what every page and code costs, and how well its parts fit together."""

from __future__ import annotations

import itertools
import math
import random
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from modules.encoded.stories import batch_of_steps
from modules.generation.output import StoryPipelineOutput
from modules.generation.reading import StoryReader
from modules.story import StoryStep

NUM_ORDERS = 20  # Other orders of the pages that the story's own is compared with.
TIE = 1e-4  # Nats: equal plans differ by rounding alone.


@dataclass(frozen=True)
class PageScore:
    """A page's costs. `code_bits` (S) are those of its codes, `surprise` its bits above the mean of the story's pages.

    `agreement` is the share of the page's codes that the encoder reads alike in the text alone and the picture alone;
    `from_text` and `from_picture` are the shares of the plan's codes that it finds in each.
    """

    bits: float
    surprise: float
    code_bits: tuple[float, ...]
    text_nats: float
    text_nats_per_token: float
    agreement: float
    from_text: float
    from_picture: float


@dataclass(frozen=True)
class StoryScore:
    """The scores of all pages, and the share of other orders of the pages that are less likely than the story's own;
    None for a story of one page.
    """

    pages: tuple[PageScore, ...]
    order: float | None
    num_orders: int

    def totals(self) -> dict[str, Any]:
        """Return the story's sums and means."""
        count = len(self.pages)
        return {
            "pages": count,
            "bits": sum(page.bits for page in self.pages),
            "bits_per_page": sum(page.bits for page in self.pages) / count,
            "text_nats": sum(page.text_nats for page in self.pages),
            "agreement": sum(page.agreement for page in self.pages) / count,
            "order": self.order,
            "num_orders": self.num_orders,
        }


@torch.no_grad()
def score_story(pipeline: StoryReader, story: StoryPipelineOutput, seed: int = 0) -> StoryScore:
    """Score a story of T pages with their codes under the model; its bits and nats are the terms of the bound that
    `evaluate` reports.

    `seed` draws the other orders of a story with more pages than can be tried.
    """
    assert story.codes is not None, "a story without codes has no score"
    bits = plan_nats(pipeline, story.prompt, story.codes[None])[0] / math.log(2)
    nats, tokens = text_nats(pipeline, story)
    agreement, from_text, from_picture = (share.tolist() for share in agreements(pipeline, story))
    page_bits = bits.sum(-1)
    surprise = (page_bits - page_bits.mean()).tolist()
    pages = tuple(
        PageScore(
            bits=float(page_bits[page]),
            surprise=surprise[page],
            code_bits=tuple(bits[page].tolist()),
            text_nats=float(nats[page]),
            text_nats_per_token=float(nats[page] / tokens[page].clamp(min=1)),
            agreement=agreement[page],
            from_text=from_text[page],
            from_picture=from_picture[page],
        )
        for page in range(len(story.codes))
    )
    return StoryScore(pages, *order_test(pipeline, story, seed))


@torch.no_grad()
def plan_nats(pipeline: StoryReader, prompt: str, codes: Tensor) -> Tensor:
    """Return -log p of every code of R plans (R,T,S) after a prompt, in nats (R,T,S) float64."""
    codes = codes.to(pipeline.device)
    ids, mask = (tokens.expand(len(codes), -1) for tokens in pipeline.prompt_tokens(prompt))
    step_mask = torch.ones(codes.shape[:2], dtype=torch.bool, device=pipeline.device)
    return pipeline.model.prior.score(codes, ids, mask, step_mask).nll.double().cpu()


@torch.no_grad()
def text_nats(pipeline: StoryReader, story: StoryPipelineOutput) -> tuple[Tensor, Tensor]:
    """Return -log p of every page's text given the plan, in nats (T,), and the number of its tokens (T,)."""
    assert story.codes is not None, "a story without codes has no score"
    code_embeds = pipeline.embed(story.codes)
    window = pipeline.model.window(code_embeds, [len(code_embeds)])
    batch = batch_of_steps([StoryStep(text) for text in story.texts], pipeline.model, pipeline.tokenizer)
    output = pipeline.model.text_decoder(code_embeds, batch.input_ids[0], batch.text_mask[0], window=window)
    return output.nll.double().sum(1).cpu(), output.mask.sum(1).cpu()


@torch.no_grad()
def agreements(pipeline: StoryReader, story: StoryPipelineOutput) -> tuple[Tensor, Tensor, Tensor]:
    """Return shares of codes, (T,) each: read alike in text and picture, found in the text, found in the picture."""
    assert story.codes is not None, "a story without codes has no score"
    codes = story.codes.cpu()
    of_texts = pipeline.encode([StoryStep(text) for text in story.texts]).cpu()
    of_images = pipeline.encode([StoryStep(None, image) for image in story.images]).cpu()
    pairs = ((of_texts, of_images), (of_texts, codes), (of_images, codes))
    return tuple((one == other).double().mean(1) for one, other in pairs)  # type: ignore[return-value]


def order_test(pipeline: StoryReader, story: StoryPipelineOutput, seed: int = 0) -> tuple[float | None, int]:
    """Return the share of other orders of the pages that are less likely, a tie counting half, and their number."""
    assert story.codes is not None, "a story without codes has no score"
    codes, count = story.codes, len(story.codes)
    if count < 2:
        return None, 0
    orders = other_orders(count, seed)
    plans = torch.stack([codes, *(codes[list(order)] for order in orders)])
    lead = plan_nats(pipeline, story.prompt, plans).sum((1, 2))
    lead = lead[1:] - lead[0]
    return float(((lead > TIE).double() + 0.5 * (lead.abs() <= TIE)).mean()), len(orders)


def other_orders(count: int, seed: int) -> list[tuple[int, ...]]:
    """Return up to `NUM_ORDERS` different orders of `count` pages other than their own."""
    own = tuple(range(count))
    if math.factorial(count) - 1 <= NUM_ORDERS:
        return [order for order in itertools.permutations(own) if order != own]
    rng, found = random.Random(seed), dict[tuple[int, ...], None]()
    while len(found) < NUM_ORDERS:
        order = tuple(rng.sample(own, count))
        if order != own:
            found[order] = None
    return list(found)
