"""A cache of constant size: attention sinks and a window (StreamingLLM, arXiv 2309.17453; for stories, arXiv
2407.08683).
"""

from __future__ import annotations

from modules.layers.kv_cache import KVCache


class SinkCache(KVCache):
    """Keeps the first `num_sinks` tokens and the latest ones; for attention with rotary positions.

    Positions are counted within the cache, so distances never exceed its capacity, however long the sequence.
    """

    def __init__(self, num_layers: int, capacity: int, num_sinks: int) -> None:
        super().__init__(num_layers, capacity)
        self.capacity, self.num_sinks = capacity, num_sinks

    def make_room(self, num_tokens: int) -> None:
        """Drop the oldest tokens after the sinks until `num_tokens` more fit; call it before they are added.

        Raises ValueError where they can never fit.
        """
        surplus = self.length + num_tokens - self.capacity
        if surplus <= 0:
            return
        if surplus > self.length - self.num_sinks:
            raise ValueError(
                f"{num_tokens} tokens do not fit after {self.num_sinks} sinks in a cache of {self.capacity}"
            )
        for layer in self.layers:
            layer.forget(self.num_sinks, surplus)
