"""Other ways from a step's vectors to S slots: a Q-Former that reads them, and their mean."""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn

from modules.layers.prefix import at_least_one
from modules.layers.qformer import QFormer
from modules.storyboard import Storyboard, StoryboardConfig


class QFormerStoryboard(Storyboard):
    """The vectors of a step see each other first; then learned queries, one a slot, read them by cross-attention alone."""

    def __init__(self, config: StoryboardConfig, *args: Any, **options: Any) -> None:
        super().__init__(config, *args, **options)
        self.queries = None  # The Q-Former has its own.
        self.qformer = QFormer(
            config.dim, config.dim, config.num_slots, config.qformer_layers, config.num_heads, num_groups=config.qformer_groups
        )

    def encode(self, *inputs: Tensor, **more: Tensor) -> Tensor:
        """What `sequence` takes -> slots (N,S,d)."""
        vectors, mask = self.sequence(*inputs, **more)
        return self.to_slots(self.qformer(self.fusion(vectors, at_least_one(mask)[:, None, None, :]), mask))


class MeanStoryboard(Storyboard):
    """Every slot is a linear view of one vector, the mean of the step's vectors: the baseline of learned queries."""

    def __init__(self, config: StoryboardConfig, *args: Any, **options: Any) -> None:
        super().__init__(config, *args, **options)
        self.queries = None
        self.to_slots = nn.Linear(config.dim, config.num_slots * config.codebook_dim)

    def encode(self, *inputs: Tensor, **more: Tensor) -> Tensor:
        """What `sequence` takes -> slots (N,S,d)."""
        vectors, mask = self.sequence(*inputs, **more)
        mask = at_least_one(mask)
        weights = mask[..., None].to(vectors.dtype)
        mean = (self.fusion(vectors, mask[:, None, None, :]) * weights).sum(1) / weights.sum(1)
        return self.to_slots(mean).unflatten(-1, (self.config.num_slots, -1))
