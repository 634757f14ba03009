"""Held-out stories as evaluation reads them: encoded once, their pictures kept, and the codes of every step."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from PIL import Image
from torch import Tensor

from modules.common.progress import progress_line
from modules.data.read_ahead import Head
from modules.encoded.codes import cache_codes
from modules.encoded.stories import EncodedStories
from modules.evaluation.metrics.statistics import story_of_rows
from modules.generation.pipeline import StoryPipeline
from modules.story import Story, StoryDataset
from modules.training.reliance import condition_steps

VARIANTS = ("text and picture", "text alone", "picture alone")


class KeptPictures(Head):
    """The first `count` stories of a dataset. The pictures that were read stay in memory, each as `keep` returns it."""

    def __init__(
        self, dataset: StoryDataset, count: int, keep: Callable[[Image.Image], Image.Image] = lambda image: image
    ) -> None:
        super().__init__(dataset, count)
        self._keep, self._kept = keep, dict[int, list[Image.Image | None]]()

    def __getitem__(self, index: int) -> Story:
        story = super().__getitem__(index)
        self._kept[index] = [None if step.image is None else self._keep(step.image) for step in story.steps]
        return story

    @property
    def images(self) -> list[Image.Image | None]:
        """The pictures of all steps read, in the order of the stories; None for a step without one."""
        return [image for index in sorted(self._kept) for image in self._kept[index]]


@dataclass(frozen=True)
class HeldOutStories:
    """N steps of B held-out stories.

    `images` are the true pictures of all steps. `codes` is what every step is decoded from, by name: its codes (N,S),
    those of text and picture together first; for a baseline without codes, vectors (N,S,D).
    """

    encoded: EncodedStories
    images: list[Image.Image | None]
    codes: dict[str, Tensor]

    @classmethod
    def read(cls, pipeline: StoryPipeline, dataset: StoryDataset, count: int) -> HeldOutStories:
        """Read and encode the first `count` stories of a dataset."""
        pictures = KeptPictures(dataset, count)
        encoded = encode_stories(pipeline, pictures, "encoding stories")
        if not pipeline.model.has_codes:
            return cls(encoded, pictures.images, {"what came before": condition_steps(pipeline.model, encoded)})
        codes = dict(zip(VARIANTS, cache_codes(pipeline.model, encoded), strict=True))
        return cls(encoded, pictures.images, codes)

    @property
    def own_codes(self) -> Tensor:
        """Codes (N,S) of text and picture together, or a baseline's vectors (N,S,D)."""
        return next(iter(self.codes.values()))

    @cached_property
    def story(self) -> np.ndarray:
        """The number of the story (N,) that each step belongs to."""
        return story_of_rows(self.encoded.lengths)

    @cached_property
    def true_texts(self) -> list[str]:
        """The true text of every step; empty for a step without one."""
        return [text or "" for text in self.encoded.texts]

    @cached_property
    def attributes(self) -> list[Mapping[str, Any]] | None:
        """The true attributes of every step; None unless all steps are of the story world."""
        return true_attributes(self.encoded)


def encode_stories(pipeline: StoryPipeline, dataset: StoryDataset, title: str) -> EncodedStories:
    """Encode all stories of a dataset behind a progress line."""
    with progress_line(title, len(dataset)) as progress:
        return EncodedStories(dataset, pipeline.model, pipeline.tokenizer, progress.update)


def true_attributes(stories: EncodedStories) -> list[Mapping[str, Any]] | None:
    """Return the true attributes of every step; None unless all steps are of the story world."""
    steps = [attributes for story in stories.attributes for attributes in story]
    known = [attributes for attributes in steps if attributes and "hero" in attributes]
    return known if len(known) == len(steps) else None
