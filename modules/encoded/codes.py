"""The codes of all stories, computed once when the encoder is frozen."""

from __future__ import annotations

import torch
from torch import Tensor

from modules.common.progress import track
from modules.encoded.stories import EncodedStories
from modules.story_model import StoryModel


@torch.no_grad()
def cache_codes(model: StoryModel, stories: EncodedStories, visible: bool = True) -> Tensor:
    """Codes of every step from both modalities, text alone and picture alone: (3, N, S).

    Where a step lacks one modality, all three come from the other.
    """
    device = model.autoencoder.latent_mean.device
    variants = []
    for name, keep_image, keep_text in (("both", True, True), ("the text", False, True), ("the picture", True, False)):
        codes = []
        for start in track(f"codes from {name}", range(0, len(stories.text_mask), 128), visible):
            rows = slice(start, start + 128)
            steps = {name: value.to(device) for name, value in stories.steps(rows).items()}
            has_text, has_image = steps["text_mask"].any(1), steps["image_mask"]
            steps["text_mask"] = steps["text_mask"] & (keep_text | ~has_image)[:, None]
            steps["image_mask"] = has_image & (keep_image | ~has_text)
            codes.append(model.storyboard(**steps).codes.cpu())
        variants.append(torch.cat(codes))
    return torch.stack(variants)
