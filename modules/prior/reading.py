"""Plans that a prior reads and writes code after code, with the keys and values of what it has read."""

from __future__ import annotations

from typing import Protocol

import torch
from torch import Tensor

from modules.layers.prefix import prefix_attention
from modules.layers.sink_cache import SinkCache
from modules.layers.transformer import Transformer
from modules.prior.config import PriorConfig


class CodeTransformer(Protocol):
    """The parts of a `Prior` that `PlanReading` uses."""

    config: PriorConfig
    num_slots: int
    transformer: Transformer

    def code_inputs(self, flat: Tensor, num_steps: Tensor) -> Tensor: ...

    def code_input(self, previous: Tensor, index: Tensor, num_steps: Tensor) -> Tensor: ...

    def story_so_far(self, flat: Tensor) -> Tensor: ...


class PlanReading:
    """The plans of B stories after a prefix: given pages and prompt.

    Room in the cache is made at the beginning of a step, never within one: drawn and given steps are then read alike.
    """

    def __init__(
        self, prior: CodeTransformer, prefix: Tensor, prefix_mask: Tensor, lengths: Tensor, num_steps: int
    ) -> None:
        """`prefix` (B,Lp,D), its mask (B,Lp), the stories' lengths (B,), and the number of steps that will be read."""
        self.prior, self.prefix_mask, self.lengths = prior, prefix_mask, lengths
        self.slots, self._prefix = prior.num_slots, prefix
        self._so_far: Tensor | None = None
        config, prefix_length = prior.config, prefix.shape[1]
        capacity, window = prefix_length + num_steps * self.slots, config.attention_window
        num_sinks = prefix_length + 1 + config.num_sink_steps * self.slots  # BOS stands before the first code.
        # As many steps as the attention window leaves visible.
        self.cache = SinkCache(config.num_layers, min(capacity, num_sinks + window) if window else capacity, num_sinks)

    def read(self, flat: Tensor) -> Tensor:
        """Read the prefix, BOS and M flattened codes (B,M): (B,Lp+M+1,D); at once what fits, then step by step."""
        x = torch.cat([self._prefix, self.prior.code_inputs(flat, self.lengths)], dim=1)
        prefix_length = self._prefix.shape[1]
        fits = prefix_length + (self.cache.capacity - prefix_length) // self.slots * self.slots
        hidden = [self._read_on(x[:, :fits])]
        for start in range(fits, x.shape[1], self.slots):
            self.cache.make_room(self.slots)
            hidden.append(self._read_on(x[:, start : start + self.slots]))
        return torch.cat(hidden, dim=1)

    def repeat_interleave(self, count: int) -> None:
        """Go on with `count` plans of each story, one after the other."""
        self.cache.repeat_interleave(count)
        self.prefix_mask = self.prefix_mask.repeat_interleave(count, dim=0)
        self.lengths = self.lengths.repeat_interleave(count, dim=0)

    def read_next(self, flat: Tensor) -> Tensor:
        """Read the last of the codes (B,M), all others of which have been read: (B,1,D)."""
        index = flat.shape[1]
        if index % self.slots == 0:
            self.cache.make_room(self.slots)
        if self._so_far is None or index % self.slots == 0:
            self._so_far = self.prior.story_so_far(flat)[:, -1:]
        place = torch.tensor([index], device=flat.device)
        return self._read_on(self.prior.code_input(flat[:, -1:], place, self.lengths) + self._so_far)

    def _read_on(self, x: Tensor) -> Tensor:
        """Read the next inputs (B,M,D), for which there is room -> (B,M,D)."""
        mask, positions = prefix_attention(self.prefix_mask, self.cache.length + x.shape[1], queries=x.shape[1])
        return self.prior.transformer(x, mask, positions, self.cache)
