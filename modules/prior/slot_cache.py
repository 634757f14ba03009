"""What a story has said so far, as a bias of the codes that come next."""

from __future__ import annotations

from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

FIRST_SCALE = 6.0  # From 1 it would take long to become as large as it has to be.
DECAY = 0.6  # Neighbouring pages are most alike: with all earlier ones alike, the order of pages would hardly count.


class SlotCache(nn.Module):
    """A continuous cache (arXiv 1612.04426): codes like those that a slot has had become likelier,
    above all those of its latest steps.

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
        step = torch.arange(codes.shape[1], device=codes.device)
        weights = _recency(step[:, None] - 1 - step)
        return self._bias(torch.einsum("tu,busd->btsd", weights, F.embedding(codes, self._vectors())), self.scale)

    def next(self, flat: Tensor) -> Tensor:
        """Return what is added to the logits of the code after M flattened ones (B,M): (B,K)."""
        slot = flat.shape[1] % self.num_slots
        past = F.embedding(flat[:, slot :: self.num_slots], self._vectors())
        weights = _recency(torch.arange(past.shape[1] - 1, -1, -1, device=flat.device))
        return self._bias(weights @ past, self.scale[slot])

    def _vectors(self) -> Tensor:
        """Return the codebook as unit vectors (K,d)."""
        (quantizer,) = self._quantizer
        return F.normalize(cast(Tensor, quantizer.codebook), dim=-1)

    def _bias(self, mean: Tensor, scale: Tensor) -> Tensor:
        """Return the scaled likeness to means (...,d) of each code: (...,K)."""
        return scale[..., None] * F.linear(mean, self._vectors())


def _recency(age: Tensor) -> Tensor:
    """Return the weights (...,T) of steps of an age (...,T), 0 for the latest: they sum to 1, those not there yet 0."""
    weights = torch.where(age < 0, 0.0, DECAY ** age.clamp(min=0))
    return weights / weights.sum(-1, keepdim=True).clamp(min=1)
