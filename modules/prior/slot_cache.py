"""What a story has said so far, as a bias of the codes that come next."""

from __future__ import annotations

from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

FIRST_SCALE = 4.0  # From 1 it would take long to become as large as it has to be.


class SlotCache(nn.Module):
    """A continuous cache (arXiv 1612.04426): codes like those that a slot has had in the story become likelier.

    The likeness of two codes is the cosine of their vectors in the codebook: the encoder has learnt it, and a
    transformer would have to learn it anew, for which a few hundred stories are too few.
    """

    def __init__(self, num_slots: int, quantizer: nn.Module | None) -> None:
        """`quantizer` has the codebook (K,d); it stays another module's part. Raises ValueError without one."""
        super().__init__()
        if quantizer is None:
            raise ValueError("a prior with a cache needs the quantiser, whose codebook says which codes are alike")
        self.num_slots, self._quantizer = num_slots, (quantizer,)
        self.scale = nn.Parameter(torch.full((num_slots,), FIRST_SCALE))

    def forward(self, codes: Tensor) -> Tensor:
        """Return what is added to the logits of codes (B,T,S) by those of the steps before: (B,T,S,K)."""
        vectors = F.embedding(codes, self._vectors())
        past = vectors.cumsum(1) - vectors
        count = torch.arange(codes.shape[1], device=codes.device).clamp(min=1)
        return self._bias(past / count[:, None, None], self.scale)

    def next(self, flat: Tensor) -> Tensor:
        """Return what is added to the logits of the code after M flattened ones (B,M): (B,K)."""
        slot = flat.shape[1] % self.num_slots
        past = F.embedding(flat[:, slot :: self.num_slots], self._vectors())
        return self._bias(past.sum(1) / max(1, past.shape[1]), self.scale[slot])

    def _vectors(self) -> Tensor:
        """Return the codebook as unit vectors (K,d)."""
        (quantizer,) = self._quantizer
        return F.normalize(cast(Tensor, quantizer.codebook), dim=-1)

    def _bias(self, mean: Tensor, scale: Tensor) -> Tensor:
        """Return the scaled likeness to means (...,d) of each code: (...,K)."""
        return scale[..., None] * F.linear(mean, self._vectors())
