"""Keys and values of the tokens read so far, one pair of buffers a layer."""

from __future__ import annotations

import torch
from torch import Tensor

from modules.layers.rope import rotary_angles, rotate


class LayerCache:
    """Preallocated keys and values (B, heads, capacity, head_dim) of one attention layer.

    Keys are stored rotated: rotating all of them at every step took two fifths of the time of many plans. Rotations
    add up, so a sliding window rotates the keys that it keeps once, by the distance.
    """

    def __init__(self, capacity: int) -> None:
        self.capacity, self.length = capacity, 0
        self.keys: Tensor | None = None
        self.values: Tensor | None = None

    def append(self, keys: Tensor, values: Tensor) -> tuple[Tensor, Tensor]:
        """Add keys and values (B, heads, L, head_dim) and return all that are cached.

        Raises ValueError where they exceed the capacity.
        """
        start, end = self.length, self.length + keys.shape[2]
        if end > self.capacity:
            raise ValueError(f"the cache has room for {self.capacity} tokens, got {end}")
        if self.keys is None or self.values is None:
            shape = (keys.shape[0], keys.shape[1], self.capacity, keys.shape[3])
            self.keys, self.values = keys.new_empty(shape), values.new_empty(shape)
        self.keys[:, :, start:end], self.values[:, :, start:end] = keys, values
        self.length = end
        return self.keys[:, :, :end], self.values[:, :, :end]

    def forget(self, start: int, count: int) -> None:
        """Drop `count` tokens from `start` on; later tokens move up and get the positions of their new places."""
        assert self.keys is not None and self.values is not None, "the cache is empty"
        end, kept = self.length - count, slice(start + count, self.length)
        back = rotary_angles(torch.tensor([-count], device=self.keys.device), self.keys.shape[-1])
        self.keys[:, :, start:end] = rotate(self.keys[:, :, kept], back)
        self.values[:, :, start:end] = self.values[:, :, kept].clone()  # They overlap.
        self.length = end

    def repeat_interleave(self, count: int) -> None:
        """Repeat the contents of each story `count` times in a row."""
        assert self.keys is not None and self.values is not None, "the cache is empty"
        self.keys = self.keys.repeat_interleave(count, dim=0)
        self.values = self.values.repeat_interleave(count, dim=0)


class KVCache:
    """One `LayerCache` a layer."""

    def __init__(self, num_layers: int, capacity: int) -> None:
        self.layers = [LayerCache(capacity) for _ in range(num_layers)]

    @property
    def length(self) -> int:
        """The number of cached tokens."""
        return self.layers[0].length

    def repeat_interleave(self, count: int) -> None:
        """Repeat the contents of each story `count` times in a row."""
        for layer in self.layers:
            layer.repeat_interleave(count)
