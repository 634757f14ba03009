"""The output of a StoryPipeline."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from PIL import Image
from torch import Tensor


@dataclass(frozen=True)
class StoryPipelineOutput:
    """T steps: `images` (RGB), `texts`, `codes` (T,S) and their `log_probs` (T,S) in nats.

    A baseline without a storyboard has no codes. `notes` are sentences about what the model could not take into
    account in the prompt and the given pages.
    """

    prompt: str
    images: list[Image.Image]
    texts: list[str]
    codes: Tensor | None
    log_probs: Tensor | None
    notes: tuple[str, ...] = ()

    @property
    def bits(self) -> list[float] | None:
        """Bits of each step's codes under the prior."""
        return None if self.log_probs is None else (-self.log_probs.sum(-1) / torch.log(torch.tensor(2.0))).tolist()
