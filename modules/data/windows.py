"""Cut long stories into windows: consecutive parts of at most `max_steps` steps, as even as possible."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator
from dataclasses import replace

import numpy as np

from modules.story import Story


def cut_story(story: Story, max_steps: int | None) -> list[Story]:
    """Cut a story into windows with the ids "id#0", "id#1", ...; a short story is returned as it is."""
    _, firsts, ends = window_bounds(np.array([len(story.steps)]), max_steps)
    if len(firsts) == 1:
        return [story]
    bounds = enumerate(zip(firsts.tolist(), ends.tolist(), strict=True))
    return [_window(story, number, first, end) for number, (first, end) in bounds]


def window_bounds(counts: np.ndarray, max_steps: int | None) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return the windows of many stories.

    Args:
        counts: the number of steps of every story.
        max_steps: the longest window; None for no limit.

    Returns:
        For every window: the index of its story, its first step, and the step after its last one.
    """
    windows = np.ones_like(counts) if max_steps is None else np.maximum(1, -(-counts // max_steps))
    stories = np.repeat(np.arange(len(counts)), windows)
    number = np.arange(len(stories)) - np.repeat(np.cumsum(windows) - windows, windows)
    counts, windows = counts[stories].astype(np.int64), windows[stories]
    return stories, number * counts // windows, (number + 1) * counts // windows


class WindowedStories(ABC):
    """Base class of datasets whose stories are rows of a table: the windows of these rows.

    Args:
        counts: the number of steps of every row.
        max_steps: the longest window; None for no limit.
    """

    def __init__(self, counts: np.ndarray, max_steps: int | None) -> None:
        self._rows, self._firsts, self._ends = window_bounds(counts, max_steps)

    @abstractmethod
    def row_outline(self, row: int) -> Story:
        """Return the whole story of a row without its pictures."""

    def __len__(self) -> int:
        return len(self._rows)

    @property
    def lengths(self) -> list[int]:
        """The number of steps of every story."""
        return (self._ends - self._firsts).tolist()

    def outline(self, index: int) -> Story:
        """Return one story without opening its pictures."""
        row, steps = self.locate(index)
        story = self.row_outline(row)
        if steps.stop - steps.start == len(story.steps):
            return story
        number = range(len(self))[index] - int(np.searchsorted(self._rows, row))
        return _window(story, number, steps.start, steps.stop)

    def texts(self) -> Iterator[str]:
        """Yield every prompt and every step's text, without opening a picture."""
        for index in range(len(self)):
            story = self.outline(index)
            yield story.prompt
            yield from (step.text for step in story.steps if step.text is not None)

    def locate(self, index: int) -> tuple[int, slice]:
        """Return the row of a story, and the steps of that row that belong to it."""
        index = range(len(self))[index]
        return int(self._rows[index]), slice(int(self._firsts[index]), int(self._ends[index]))


def _window(story: Story, number: int, first: int, end: int) -> Story:
    return replace(story, id=f"{story.id}#{number}", steps=story.steps[first:end])
