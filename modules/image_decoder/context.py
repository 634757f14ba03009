"""The context of the UNet: what it reads beside the noisy latents."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor


class ImageContext(NamedTuple):
    """What the UNet reads of N steps: vectors (N,L,D), which of them may be read (N,L), None for all, and the own codes
    (N,S*d) that enter with the time embedding, if they do.
    """

    vectors: Tensor
    mask: Tensor | None
    labels: Tensor | None

    def repeat(self, count: int) -> ImageContext:
        """Repeat the context of each step `count` times in a row."""
        mask, labels = (None if value is None else value.repeat_interleave(count, dim=0) for value in self[1:])
        return ImageContext(self.vectors.repeat_interleave(count, dim=0), mask, labels)

    def with_null(self, null: ImageContext) -> ImageContext:
        """Return this context of N steps, followed by another one of N steps."""
        pairs = zip(self[1:], null[1:], strict=True)
        mask, labels = (None if value is None or other is None else torch.cat([value, other]) for value, other in pairs)
        return ImageContext(torch.cat([self.vectors, null.vectors]), mask, labels)
