"""The output of a StoryPipeline."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal, get_args

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from modules.common.errors import UserError
from modules.story import StoryStep

OutputType = Literal["pil", "np", "pt"]


@dataclass(frozen=True)
class StoryPipelineOutput:
    """T pages: `images`, `texts`, `codes` (T,S) and their `log_probs` (T,S) in nats.

    The images are a list of RGB images of PIL; with `output_type="np"` an array (T,H,W,3) and with "pt" a tensor
    (T,3,H,W), both float32 in [0, 1]. A baseline without a storyboard has no codes. `notes` are sentences about what
    the model could not take into account in the prompt and the given pages. `seed` is the one that gives this story
    again.
    """

    prompt: str
    images: Any
    texts: list[str]
    codes: Tensor | None
    log_probs: Tensor | None
    notes: tuple[str, ...] = ()
    seed: int | None = None

    @property
    def bits(self) -> list[float] | None:
        """Bits of each page's codes under the prior."""
        return None if self.log_probs is None else (-self.log_probs.sum(-1) / torch.log(torch.tensor(2.0))).tolist()

    def converted(self, output_type: OutputType) -> StoryPipelineOutput:
        """Return the same story with its images as `output_type` says."""
        check_output_type(output_type)
        images = self.pictures()
        if output_type == "pil":
            return replace(self, images=images)
        array = np.stack([np.asarray(image, dtype=np.float32) for image in images]) / np.float32(255)
        return replace(
            self, images=array if output_type == "np" else torch.from_numpy(array).permute(0, 3, 1, 2).contiguous()
        )

    def steps(self) -> list[StoryStep]:
        """Return the pages as `encode`, `continue_story` and `complete` take them."""
        return [StoryStep(text, image) for text, image in zip(self.texts, self.pictures(), strict=True)]

    def pictures(self) -> list[Image.Image]:
        """Return the images as a list of RGB images of PIL, whatever they are."""
        if isinstance(self.images, Sequence):
            return list(self.images)
        images = self.images.permute(0, 2, 3, 1).cpu().numpy() if isinstance(self.images, Tensor) else self.images
        return [Image.fromarray(image) for image in np.rint(images * 255).clip(0, 255).astype(np.uint8)]


def check_output_type(output_type: str) -> None:
    """Raise UserError unless it is one of `OutputType`."""
    known = get_args(OutputType)
    if output_type not in known:
        raise UserError(f"output_type must be one of {', '.join(known)}, got {output_type!r:.80}")
