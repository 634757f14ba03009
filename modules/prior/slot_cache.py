"""What a story has said so far, as a bias of the codes that come next."""

from __future__ import annotations

from typing import Protocol

import torch
import torch.nn.functional as F
from torch import Tensor, nn

FIRST_SCALE = 4.0  # From 1 it would take long to become as large as it has to be.
FIRST_PROMPT_SCALE = 3.0  # A page is less like its prompt than like the page before.
DECAY = 0.6  # Neighbouring pages are most alike: with all earlier ones alike, the order of pages would hardly count.
RECENT = 16  # Steps: older ones, of a weight below .001, would only make long stories slow.


class Codebook(Protocol):
    """The vectors of the codes."""

    codebook: Tensor  # (K,d)


class Reader(Protocol):
    """A storyboard: its codebook, and what it makes of texts."""

    @property
    def quantizer(self) -> Codebook:
        """Where the codebook is."""

    def encode_texts(self, ids: Tensor, mask: Tensor) -> Tensor:
        """Return the slots (N,S,d) of texts (N,L)."""


class SlotCache(nn.Module):
    """A continuous cache (arXiv 1612.04426): codes become likelier that are like those that a slot has had, above all
    in its latest steps (`scale`), like those of the step's slots before it (`step_scale`), and like what the storyboard
    makes of the prompt, read as a page's text (`prompt_scale`).

    The likeness of two codes is the cosine of their vectors in the codebook: the encoder has learnt it, and a
    transformer would have to learn it anew, for which a few hundred stories are too few. They are also too few to learn
    what a prompt's words mean, which a pretrained text encoder knows.
    """

    def __init__(self, num_slots: int, storyboard: Reader | None) -> None:
        """`storyboard` stays another module's part. Raises ValueError without one."""
        super().__init__()
        if storyboard is None:
            raise ValueError("a prior with a cache needs the storyboard, whose codebook says which codes are alike")
        self.num_slots, self._storyboard = num_slots, (storyboard,)
        self.scale = nn.Parameter(torch.full((num_slots,), FIRST_SCALE))
        self.step_scale = nn.Parameter(torch.full((num_slots,), FIRST_SCALE))
        self.prompt_scale = nn.Parameter(torch.full((num_slots,), FIRST_PROMPT_SCALE))

    @torch.no_grad()
    def read(self, prompt_ids: Tensor, prompt_mask: Tensor) -> Tensor:
        """Return what is asked for by prompts (B,Lp) as unit vectors (B,S,d); zeros where one is hidden."""
        (storyboard,) = self._storyboard
        slots = storyboard.encode_texts(prompt_ids, prompt_mask).float()
        return F.normalize(slots, dim=-1) * prompt_mask.any(1)[:, None, None]

    def forward(self, codes: Tensor, asked: Tensor) -> Tensor:
        """Return what is added to the logits of codes (B,T,S) by those before them and by what the prompt asked for
        (B,S,d): (B,T,S,K).
        """
        vectors = F.embedding(codes, self._vectors())
        step = torch.arange(codes.shape[1], device=codes.device)
        slot = torch.arange(self.num_slots, device=codes.device)
        steps_before = torch.einsum("tu,busd->btsd", _recency(step[:, None] - 1 - step), vectors)
        slots_before = (vectors.cumsum(2) - vectors) / slot.clamp(min=1)[:, None]
        return self._bias(steps_before, slots_before, asked[:, None], slice(None))

    def next(self, flat: Tensor, asked: Tensor) -> Tensor:
        """Return what is added to the logits of the code after M flattened ones (B,M): (B,K)."""
        slot = flat.shape[1] % self.num_slots
        flat = flat[:, max(0, flat.shape[1] - slot - RECENT * self.num_slots) :]
        vectors = F.embedding(flat, self._vectors())
        past = vectors[:, slot :: self.num_slots]
        weights = _recency(torch.arange(past.shape[1] - 1, -1, -1, device=flat.device))
        slots_before = vectors[:, flat.shape[1] - slot :].sum(1) / max(slot, 1)
        return self._bias(weights @ past, slots_before, asked[:, slot], slot)

    def _vectors(self) -> Tensor:
        """Return the codebook as unit vectors (K,d)."""
        (storyboard,) = self._storyboard
        return F.normalize(storyboard.quantizer.codebook, dim=-1)

    def _bias(self, steps_before: Tensor, slots_before: Tensor, asked: Tensor, slot: int | slice) -> Tensor:
        """Return the scaled likeness of each code to vectors (...,d) of the three, as those of `slot`: (...,K)."""
        alike = (
            self.scale[slot, None] * steps_before
            + self.step_scale[slot, None] * slots_before
            + self.prompt_scale[slot, None] * asked
        )
        return F.linear(alike, self._vectors())


def _recency(age: Tensor) -> Tensor:
    """Return the weights (...,T) of steps of an age (...,T), 0 for the latest: they sum to 1, or to 0 without any."""
    weights = torch.where((age >= 0) & (age < RECENT), DECAY ** age.clamp(min=0), 0.0)
    return weights / weights.sum(-1, keepdim=True).clamp(min=1)
