"""Pages decoded from codes, with the true steps that they correspond to: the input of the text and picture metrics."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from modules.common.progress import track
from modules.encoded.stories import EncodedStories
from modules.evaluation.metrics.statistics import story_of_rows
from modules.generation.pipeline import StoryPipeline

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


def decode_texts(pipeline: StoryPipeline, codes: Tensor, title: str) -> list[str]:
    """Return M texts, decoded greedily from codes (M,S) or from vectors (M,S,D)."""
    texts: list[str] = []
    for part in track(f"texts from {title}", codes.split(TEXT_BATCH)):
        texts += [pipeline.tokenizer.decode(ids) for ids in pipeline.model.text_decoder.generate(pipeline.embed(part))]
    return texts


def decode_pages(
    pipeline: StoryPipeline, codes: Tensor, rows: list[int], lengths: list[int], title: str, seed: int
) -> DecodedPages:
    """Return pages from codes (M,S) or vectors (M,S,D), with the pipeline's default settings.

    Every batch has its own noise, drawn from `seed` plus the batch's number.
    """
    texts: list[str] = []
    images: list[Image.Image | None] = []
    for number, part in enumerate(track(f"pages from {title}", codes.split(PICTURE_BATCH))):
        new_texts, new_images = pipeline.render(part, seed=seed + number)
        texts += new_texts
        images += new_images
    return DecodedPages(rows, lengths, texts, images)


def plan_next_steps(
    pipeline: StoryPipeline, stories: EncodedStories, codes: Tensor, count: int, seed: int
) -> tuple[list[int], Tensor]:
    """Return the prior's next step after `NUM_GIVEN` true steps: row numbers (M,), codes (M,S).

    One for each of the first `count` stories that has such a step. A baseline's vectors (N,S,D) are already predictions
    of next steps.
    """
    rows: list[int] = []
    plans: list[Tensor] = []
    for index in track("next steps", range(count)):
        first, length = stories.rows(index)[0], stories.lengths[index]
        if length > NUM_GIVEN:
            rows.append(first + NUM_GIVEN)
            if not pipeline.model.has_codes:
                plans.append(codes[rows[-1]])
                continue
            given = codes[first : first + NUM_GIVEN]
            plan = pipeline.plan(_prompt(stories, index), length - NUM_GIVEN, seed + index, codes=given)
            plans.append(plan.codes[0, 0].cpu())
    return rows, torch.stack(plans) if plans else codes[:0]


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
    return stories.prompts[index].strip() or "a story"  # Some real stories have no prompt.
