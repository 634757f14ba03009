"""Pages decoded from codes, with the true steps that they correspond to: the input of the text and picture metrics."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from modules.common.progress import track
from modules.encoded.stories import EncodedStories
from modules.evaluation.metrics.statistics import first_rows, story_of_rows
from modules.generation.pipeline import StoryPipeline
from modules.generation.settings import nonempty_prompt

NUM_GIVEN = 3  # True steps before a step that is predicted.
TEXT_BATCH, PICTURE_BATCH = 128, 32


@dataclass(frozen=True)
class DecodedPages:
    """M pages: `rows` are the true steps that they correspond to, `lengths` their stories' numbers of pages (sum M)."""

    rows: list[int]
    lengths: list[int]
    texts: list[str]
    images: list[Image.Image | None]

    def with_pictures(self, true_images: Sequence[Image.Image | None]) -> DecodedPages:
        """Return the pages that have a picture and whose true step has one; `true_images` (N,) are of all steps."""
        pairs = enumerate(zip(self.rows, self.images, strict=True))
        kept = [page for page, (row, image) in pairs if image is not None and true_images[row] is not None]
        lengths = np.unique(story_of_rows(self.lengths)[kept], return_counts=True)[1].tolist()
        rows, texts = [self.rows[page] for page in kept], [self.texts[page] for page in kept]
        return DecodedPages(rows, lengths, texts, [self.images[page] for page in kept])


@dataclass(frozen=True)
class PlannedPages:
    """M pages to decode, of stories whose other pages are planned too.

    `codes` (N,S), or vectors (N,S,D), are of stories of `story_lengths` pages (sum N); `pages` are the row numbers of
    the M pages among them. `rows` are the true steps that these correspond to, `lengths` how many there are of each
    story (sum M).
    """

    codes: Tensor
    story_lengths: list[int]
    pages: list[int]
    rows: list[int]
    lengths: list[int]

    @classmethod
    def whole(cls, codes: Tensor, lengths: list[int]) -> PlannedPages:
        """Return all pages of the first stories."""
        rows = list(range(sum(lengths)))
        return cls(codes, lengths, rows, rows, lengths)

    @classmethod
    def alone(cls, codes: Tensor, lengths: list[int]) -> PlannedPages:
        """Return all pages of the first stories, each decoded as if it were its story's only page."""
        rows = list(range(sum(lengths)))
        return cls(codes, [1] * len(rows), rows, rows, lengths)

    @classmethod
    def first_pages(cls, codes: Tensor, lengths: list[int], num_pages: int) -> PlannedPages:
        """Return the first `num_pages` pages, or as many as there are, of each of the first stories."""
        counts = [min(num_pages, length) for length in lengths]
        starts = first_rows(lengths).tolist()
        rows = [start + page for start, count in zip(starts, counts, strict=True) for page in range(count)]
        return cls(codes, lengths, rows, rows, counts)

    def texts(self, pipeline: StoryPipeline, title: str) -> list[str]:
        """Return the texts of the M pages."""
        texts = decode_texts(pipeline, self.codes, self.story_lengths, title)
        return [texts[page] for page in self.pages]


def decode_texts(pipeline: StoryPipeline, codes: Tensor, lengths: Sequence[int], title: str) -> list[str]:
    """Return M texts, decoded greedily from codes (M,S) or from vectors (M,S,D) of stories of `lengths` pages."""
    code_embeds, texts = pipeline.embed(codes), list[str]()
    window = pipeline.model.window(code_embeds, lengths)
    for rows in track(f"texts from {title}", torch.arange(len(codes), device=code_embeds.device).split(TEXT_BATCH)):
        around = None if window is None else window[rows]
        texts += map(pipeline.tokenizer.decode, pipeline.model.text_decoder.generate(code_embeds[rows], window=around))
    return texts


def decode_pages(
    pipeline: StoryPipeline, plans: PlannedPages, title: str, seed: int, given_texts: Sequence[str] = (), **options: Any
) -> DecodedPages:
    """Return the planned pages with texts and pictures, by default with the pipeline's default settings.

    Every batch has its own noise, drawn from `seed` plus the batch's number. `given_texts` (M,) are kept, and only
    pictures are decoded.
    """
    texts: list[str] = []
    images: list[Image.Image | None] = []
    for number, rows in enumerate(track(f"pages from {title}", torch.arange(len(plans.pages)).split(PICTURE_BATCH))):
        new_texts, new_images = pipeline.render(
            plans.codes,
            seed + number,
            lengths=plans.story_lengths,
            pages=[plans.pages[row] for row in rows],
            texts=[given_texts[row] for row in rows] if given_texts else (),
            **options,
        )
        texts += new_texts
        images += new_images
    return DecodedPages(plans.rows, plans.lengths, texts, images)


def plan_next_steps(
    pipeline: StoryPipeline, stories: EncodedStories, codes: Tensor, count: int, seed: int
) -> PlannedPages:
    """Return the prior's next step after `NUM_GIVEN` true steps, and these.

    One for each of the first `count` stories that has such a step. A baseline's vectors (N,S,D) are already predictions
    of next steps.
    """
    rows: list[int] = []
    plans: list[Tensor] = []
    for index in track("next steps", range(count)):
        first, length = stories.rows(index)[0], stories.lengths[index]
        if length <= NUM_GIVEN:
            continue
        rows.append(first + NUM_GIVEN)
        given = codes[first : first + NUM_GIVEN]
        if pipeline.model.has_codes:
            plan = pipeline.plan(_prompt(stories, index), length - NUM_GIVEN, seed + index, codes=given)
            following = plan.codes[0, :1].cpu()
        else:
            following = codes[rows[-1] : rows[-1] + 1]
        plans.append(torch.cat([given, following]))
    pages = [NUM_GIVEN + (NUM_GIVEN + 1) * number for number in range(len(rows))]
    whole = torch.cat(plans) if plans else codes[:0]
    return PlannedPages(whole, [NUM_GIVEN + 1] * len(rows), pages, rows, [1] * len(rows))


def plan_stories(pipeline: StoryPipeline, stories: EncodedStories, count: int, seed: int) -> Tensor:
    """Return the prior's plans of the first `count` stories from their prompts alone, at their true lengths: (M,S)."""
    plans = [
        pipeline.plan(_prompt(stories, index), stories.lengths[index], seed + index).codes[0].cpu()
        for index in track("plans", range(count))
    ]
    return torch.cat(plans)


def generate_stories(pipeline: StoryPipeline, stories: EncodedStories, count: int, seed: int) -> DecodedPages:
    """Return the first `count` stories, generated from their prompts by a baseline, at their true lengths."""
    lengths = stories.lengths[:count]
    outputs = [
        pipeline(_prompt(stories, index), lengths[index], seed + index) for index in track("stories", range(count))
    ]
    texts = [text for output in outputs for text in output.texts]
    return DecodedPages(
        list(range(sum(lengths))), lengths, texts, [image for output in outputs for image in output.images]
    )


def _prompt(stories: EncodedStories, index: int) -> str:
    return nonempty_prompt(stories.prompts[index])
