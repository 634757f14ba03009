"""Pages told and drawn from codes, and which true steps they stand for: what texts and pictures are scored on."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from PIL import Image
from torch import Tensor

from modules.common.progress import track
from modules.encoded.stories import EncodedStories
from modules.pipeline import StoryPipeline

NUM_GIVEN = 3  # True steps before a step that is predicted.
TEXT_BATCH, PICTURE_BATCH = 128, 32


@dataclass(frozen=True)
class DecodedPages:
    """M pages: `rows` are the true steps that they stand for, `lengths` the numbers of pages of their stories (they sum
    to M).
    """

    rows: list[int]
    lengths: list[int]
    texts: list[str]
    images: list[Image.Image]


def decode_texts(pipeline: StoryPipeline, codes: Tensor, what: str) -> list[str]:
    """Codes (M,S), or vectors (M,S,d) in their place -> M texts, greedily."""
    texts = []
    for part in track(f"texts from {what}", codes.split(TEXT_BATCH)):
        texts += [pipeline.tokenizer.decode(ids) for ids in pipeline.model.text_decoder.generate(pipeline.embed(part))]
    return texts


def decode_pages(
    pipeline: StoryPipeline, codes: Tensor, rows: list[int], lengths: list[int], what: str, seed: int
) -> DecodedPages:
    """Codes (M,S), or vectors (M,S,d) in their place -> pages by the pipeline's own settings, every batch with noise of
    its own.
    """
    texts, images = [], []
    for number, part in enumerate(track(f"pages from {what}", codes.split(PICTURE_BATCH))):
        told, drawn = pipeline.render(part, seed=seed + number)
        texts, images = texts + told, images + drawn
    return DecodedPages(rows, lengths, texts, images)


def plan_next_steps(
    pipeline: StoryPipeline, stories: EncodedStories, codes: Tensor, count: int, seed: int
) -> tuple[list[int], Tensor]:
    """The prior's next step after `NUM_GIVEN` true ones, in each of the first `count` stories that have one: rows (M,),
    codes (M,S).

    A baseline's vectors (N,S,d) are predictions of next steps already.
    """
    rows, plans = [], []
    for index in track("next steps", range(count)):
        first, length = stories.rows(index)[0], stories.lengths[index]
        if length > NUM_GIVEN:
            rows.append(first + NUM_GIVEN)
            if not pipeline.model.has_codes:
                plans.append(codes[rows[-1]])
                continue
            plan = pipeline.plan(
                _prompt(stories, index), length - NUM_GIVEN, seed + index, codes=codes[first : first + NUM_GIVEN]
            )
            plans.append(plan.codes[0, 0].cpu())
    return rows, torch.stack(plans) if plans else codes[:0]


def plan_stories(pipeline: StoryPipeline, stories: EncodedStories, count: int, seed: int) -> Tensor:
    """The prior's plans of the first `count` stories from their prompts alone, as long as the true ones: codes (M,S)."""
    plans = [
        pipeline.plan(_prompt(stories, index), stories.lengths[index], seed + index).codes[0].cpu()
        for index in track("plans", range(count))
    ]
    return torch.cat(plans)


def tell_stories(pipeline: StoryPipeline, stories: EncodedStories, count: int, seed: int) -> DecodedPages:
    """The pages of the first `count` stories as a model without plans tells them, from their prompts alone, as long as
    the true ones.
    """
    lengths = stories.lengths[:count]
    told = [pipeline(_prompt(stories, index), lengths[index], seed + index) for index in track("stories", range(count))]
    texts, images = (
        [page for story in told for page in pages(story)]
        for pages in (lambda story: story.texts, lambda story: story.images)
    )
    return DecodedPages(list(range(sum(lengths))), lengths, texts, images)


def _prompt(stories: EncodedStories, index: int) -> str:
    return stories.prompts[index].strip() or "a story"  # Some real stories have no prompt.
