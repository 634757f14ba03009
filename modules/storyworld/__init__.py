"""The story world: an endless supply of picture stories, written and drawn from a seed."""

from __future__ import annotations

import hashlib
import random
from collections.abc import Iterator
from functools import cached_property

from modules.common.errors import UserError
from modules.story import Story, StoryStep
from modules.storyworld.episode import Plot
from modules.storyworld.labels import ACTIONS, CHARACTERS, COLORS, NAMES, OBJECTS, PLACES, WEATHERS, mentioned
from modules.storyworld.page import Page
from modules.storyworld.plots import MAX_PAGES, make_plot
from modules.storyworld.prompts import write_prompt
from modules.storyworld.scene import draw
from modules.storyworld.wording import Writer

__all__ = ["ACTIONS", "CHARACTERS", "COLORS", "NAMES", "OBJECTS", "PLACES", "WEATHERS", "StoryWorld", "mentioned"]

_SECOND_EPISODE = 0.25  # Of the stories with room for one.


class StoryWorld:
    """A `StoryDataset` of generated stories; a story depends only on seed, split and index, and is drawn on access.

    A story has 1 to 8 pages. In one of five, a second episode begins after the ending of the first. All episodes of a
    story have the same characters in the same colours; the prompt describes the first one.

    Args:
        num_stories: the number of stories.
        seed: stories of different seeds differ.
        split: "train", "val", or any other name; splits share no random numbers.
        image_size: the side of the square pictures, in pixels.
        num_episodes: with more than one, so many plots in a row, each of 1 to 8 pages, make up a story.

    Raises:
        UserError: an argument is too small.
    """

    name = "storyworld"

    def __init__(
        self, num_stories: int, seed: int = 0, split: str = "train", image_size: int = 96, num_episodes: int = 1
    ) -> None:
        if num_stories < 1:
            raise UserError(f"the story world needs at least one story, got {num_stories}: raise num_stories")
        if image_size < 16:
            raise UserError(f"the story world needs pictures of at least 16 pixels, got {image_size}: raise image_size")
        if num_episodes < 1:
            raise UserError(f"a story needs at least one episode, got {num_episodes}: raise num_episodes")
        self.num_stories, self.seed, self.split = num_stories, seed, split
        self.image_size, self.num_episodes = image_size, num_episodes

    def first(self, count: int) -> StoryWorld:
        """Return the world of the first `count` stories."""
        return StoryWorld(count, self.seed, self.split, self.image_size, self.num_episodes)

    def __len__(self) -> int:
        return self.num_stories

    def __getitem__(self, index: int) -> Story:
        """Return one story with its pictures."""
        if not 0 <= index < self.num_stories:
            raise IndexError(f"story {index} of {self.num_stories}")
        prompt, pages = self._generate(index)
        steps = tuple(StoryStep(text, draw(page, self.image_size), page.attributes()) for text, page in pages)
        return Story(f"{self.split}-{index:06d}", prompt, steps)

    def outline(self, index: int) -> Story:
        """Return one story without drawing its pictures."""
        prompt, pages = self._generate(index)
        steps = tuple(StoryStep(text, None, page.attributes()) for text, page in pages)
        return Story(f"{self.split}-{index:06d}", prompt, steps)

    @cached_property
    def lengths(self) -> list[int]:
        """The number of steps of every story."""
        return [len(self._generate(index)[1]) for index in range(self.num_stories)]

    def texts(self) -> Iterator[str]:
        """Yield every prompt and every step's text, without drawing."""
        for index in range(self.num_stories):
            prompt, pages = self._generate(index)
            yield prompt
            yield from (text for text, _ in pages)

    def fingerprint(self) -> str:
        """Return a short hash of the settings and of a sample of texts and pictures."""
        digest = hashlib.sha256(f"{self.num_stories}/{self.seed}/{self.split}/{self.image_size}".encode())
        digest.update(f"/{self.num_episodes}".encode() if self.num_episodes > 1 else b"")
        for index in range(min(64, self.num_stories)):
            digest.update(repr(self._generate(index)).encode())
        for index in range(min(4, self.num_stories)):
            for _, page in self._generate(index)[1]:
                digest.update(draw(page, self.image_size).tobytes())
        return digest.hexdigest()[:16]

    def _generate(self, index: int) -> tuple[str, list[tuple[str, Page]]]:
        """Return the prompt and the written pages of a story."""
        rng = self._rng(index)
        plots = self._plots(rng)
        prompt, writer = write_prompt(rng, plots[0]), Writer(rng)
        return prompt, [
            (writer.write(page, opening=number == 0), page) for plot in plots for number, page in enumerate(plot.pages)
        ]

    def _rng(self, index: int) -> random.Random:
        """Return the random numbers of a story."""
        # Hashing separates the random streams of splits, whatever their seeds and lengths.
        key = hashlib.sha256(f"storyworld/{self.seed}/{self.split}/{index}".encode()).digest()
        return random.Random(int.from_bytes(key, "big"))

    def _plots(self, rng: random.Random) -> list[Plot]:
        """Return the plots of a story."""
        plots = [make_plot(rng)]
        for _ in range(self.num_episodes - 1):
            plots.append(make_plot(rng, plots[-1]))
        # A single page has no ending for another episode to follow.
        if self.num_episodes == 1 and 1 < len(plots[0].pages) < MAX_PAGES and rng.random() < _SECOND_EPISODE:
            plots.append(make_plot(rng, plots[0], MAX_PAGES - len(plots[0].pages)))
        return plots
