"""The codes of all stories, computed once when the encoder is frozen."""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor

from modules.common.progress import track
from modules.encoded.stories import EncodedStories
from modules.story_model.story_model import StoryModel

BATCH_SIZE = 128  # Steps of one call; on a GPU that reads latents, eight times as many.
VARIANTS = ((True, True), (True, False), (False, True))  # Whether the encoder reads texts, and pictures.


@torch.no_grad()
def cache_codes(
    model: StoryModel, stories: EncodedStories, visible: bool = True, num_variants: int = len(VARIANTS)
) -> Tensor:
    """Return the codes of every step from both modalities, text alone and image alone: (3, N, S), or the first
    `num_variants` of these.

    Where a step lacks one modality, all three come from the other.
    """
    num_rows, num_slots = len(stories.text_mask), model.config.storyboard.num_slots
    size = BATCH_SIZE if model.device.type == "cpu" or model.pictures != "latents" else 8 * BATCH_SIZE
    # One tensor for all: small ones, kept among the large ones of every batch, would fragment the memory.
    codes = torch.empty(num_variants, num_rows, num_slots, dtype=torch.long)
    for start in track("codes", range(0, num_rows, size), visible):
        rows = slice(start, start + size)
        steps = stories.steps(rows).to(model.device)
        steps = replace(steps, **model.frozen_features(steps))
        for variant, (keep_text, keep_image) in zip(codes, VARIANTS, strict=False):
            variant[rows] = model.storyboard(steps.keep(text=keep_text, image=keep_image)).codes
    return codes
