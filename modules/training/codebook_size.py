"""The size of the codebook where the config leaves it open: as large as the prior can learn from the data."""

from __future__ import annotations

import dataclasses
import sys

from modules.config import StoryConfig
from modules.saving.warm_start import donor_config
from modules.story import StoryDataset
from modules.training.settings import TrainSettings

STEPS_PER_CODE = 10  # As in the shipped weights: 47,000 steps, 4,096 codes. 4,096 for 13,000 cost more than they save.
SMALLEST, LARGEST = 16, 4096


def fitting_size(num_steps: int) -> int:
    """Return the largest power of two that leaves `STEPS_PER_CODE` training steps for every code."""
    wanted = min(LARGEST, max(SMALLEST, num_steps // STEPS_PER_CODE))
    return 2 ** (wanted.bit_length() - 1)


def with_codebook_size(
    config: StoryConfig, settings: TrainSettings, dataset: StoryDataset, visible: bool = True
) -> StoryConfig:
    """Return the config with a number in place of a `storyboard.codebook_size` of 0, and print it with the reason.

    It is that of `settings.init_from`, if weights are given, else it follows the number of training steps. Every slot
    draws from the whole codebook, so a slot sees as many examples of its codes as there are steps.
    """
    if config.storyboard.codebook_size:
        return config
    if settings.init_from is not None:
        size = donor_config(settings.init_from, offline=settings.offline).storyboard.codebook_size
        reason = f"as in {settings.init_from}"
    else:
        num_steps = sum(dataset.lengths)
        size = fitting_size(num_steps)
        reason = f"for {num_steps:,} pages: a power of two, {STEPS_PER_CODE} or more pages for each"
    if visible:
        print(f"storyboard.codebook_size: {size} codes {reason}", file=sys.stderr)
    return dataclasses.replace(config, storyboard=dataclasses.replace(config.storyboard, codebook_size=size))
