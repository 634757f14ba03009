"""Cut long stories into windows: consecutive parts of at most `max_steps` steps, as even as possible."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from modules.story import Story


def cut_story(story: Story, max_steps: int | None) -> list[Story]:
    """Cut a story into windows with the ids "id#0", "id#1", ...; a short story is returned as it is."""
    _, firsts, ends = window_bounds(np.array([len(story.steps)]), max_steps)
    if len(firsts) == 1:
        return [story]
    bounds = enumerate(zip(firsts.tolist(), ends.tolist(), strict=True))
    return [window(story, number, first, end) for number, (first, end) in bounds]


def window(story: Story, number: int, first: int, end: int) -> Story:
    """Return window `number` of a story, its steps from `first` up to `end`."""
    return replace(story, id=f"{story.id}#{number}", steps=story.steps[first:end])


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
