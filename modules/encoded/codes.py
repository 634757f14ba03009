"""The codes of all stories, computed once when the encoder is frozen."""

from __future__ import annotations

import torch
from torch import Tensor

from modules.common.progress import track
from modules.encoded.stories import EncodedStories
from modules.story_model.story_model import StoryModel

BATCH_SIZE = 128  # Steps of one call.


@torch.no_grad()
def cache_codes(model: StoryModel, stories: EncodedStories, visible: bool = True) -> Tensor:
    """Return the codes of every step from both modalities, text alone and image alone: (3, N, S).

    Where a step lacks one modality, all three come from the other.
    """
    variants = []
    for name, keep_image, keep_text in (("both", True, True), ("the text", False, True), ("the picture", True, False)):
        codes = []
        for start in track(f"codes from {name}", range(0, len(stories.text_mask), BATCH_SIZE), visible):
            rows = slice(start, start + BATCH_SIZE)
            steps = stories.steps(rows).to(model.device).keep(text=keep_text, image=keep_image)
            codes.append(model.storyboard(steps).codes.cpu())
        variants.append(torch.cat(codes))
    return torch.stack(variants)
