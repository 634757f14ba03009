"""The story world: picture stories without end, drawn and told from a seed."""

from __future__ import annotations

import hashlib
import random
from collections.abc import Iterator
from functools import cached_property

from modules.common.errors import UserError
from modules.story import Story, StoryStep
from modules.storyworld.labels import ACTIONS, CHARACTERS, COLORS, NAMES, OBJECTS, PLACES, WEATHERS, mentioned
from modules.storyworld.page import Page
from modules.storyworld.plots import make_plot
from modules.storyworld.prompts import write_prompt
from modules.storyworld.scene import draw
from modules.storyworld.wording import Writer

__all__ = ["ACTIONS", "CHARACTERS", "COLORS", "NAMES", "OBJECTS", "PLACES", "WEATHERS", "StoryWorld", "mentioned"]


class StoryWorld:
    """`num_stories` stories of a split; story `index` depends on seed, split and index alone, and is drawn when asked
    for.

    A story of several episodes is one hero's, who wears one colour in all of them; its prompt is that of the first.
    """

    name = "storyworld"

    def __init__(
        self, num_stories: int, seed: int = 0, split: str = "train", image_size: int = 96, num_episodes: int = 1
    ) -> None:
        if num_stories < 1:
            raise UserError(f"The story world needs at least one story, not {num_stories}: raise num_stories.")
        if image_size < 16:
            raise UserError(
                f"Pictures of {image_size} pixels are too small for the story world: set image_size to 16 or more."
            )
        if num_episodes < 1:
            raise UserError(f"A story has at least one episode, not {num_episodes}: raise num_episodes.")
        self.num_stories, self.seed, self.split, self.image_size, self.num_episodes = (
            num_stories,
            seed,
            split,
            image_size,
            num_episodes,
        )

    def __len__(self) -> int:
        return self.num_stories

    def __getitem__(self, index: int) -> Story:
        """Return a story with its pictures."""
        if not 0 <= index < self.num_stories:
            raise IndexError(f"story {index} of {self.num_stories}")
        prompt, pages = self._tell(index)
        steps = tuple(StoryStep(text, draw(page, self.image_size), page.attributes()) for text, page in pages)
        return Story(f"{self.split}-{index:06d}", prompt, steps)

    def outline(self, index: int) -> Story:
        """Return a story without its pictures, undrawn."""
        prompt, pages = self._tell(index)
        return Story(
            f"{self.split}-{index:06d}", prompt, tuple(StoryStep(text, None, page.attributes()) for text, page in pages)
        )

    @cached_property
    def lengths(self) -> list[int]:
        """The number of steps of every story."""
        return [len(self._tell(index)[1]) for index in range(self.num_stories)]

    def texts(self) -> Iterator[str]:
        """Yield every prompt and every step's text, without drawing."""
        for index in range(self.num_stories):
            prompt, pages = self._tell(index)
            yield prompt
            yield from (text for text, _ in pages)

    def fingerprint(self) -> str:
        """Return a short hash of the settings and of a sample of what is told and drawn."""
        digest = hashlib.sha256(f"{self.num_stories}/{self.seed}/{self.split}/{self.image_size}".encode())
        digest.update(f"/{self.num_episodes}".encode() if self.num_episodes > 1 else b"")
        for index in range(min(64, self.num_stories)):
            digest.update(repr(self._tell(index)).encode())
        for index in range(min(4, self.num_stories)):
            for step in self[index].steps:
                digest.update(step.image.tobytes())
        return digest.hexdigest()[:16]

    def _tell(self, index: int) -> tuple[str, list[tuple[str, Page]]]:
        # A hash keeps the streams of two splits apart, whatever their seeds and lengths.
        key = hashlib.sha256(f"storyworld/{self.seed}/{self.split}/{index}".encode()).digest()
        rng = random.Random(int.from_bytes(key, "big"))
        plot = make_plot(rng)
        prompt, writer = write_prompt(rng, plot), Writer(rng)
        pages = [(writer.write(page), page) for page in plot.pages]
        for _ in range(self.num_episodes - 1):
            pages += [(writer.write(page), page) for page in make_plot(rng, plot.hero).pages]
        return prompt, pages
