"""Loss functions: masked mean, cosine distance, weighted sum, nats of tokens."""

from __future__ import annotations

from collections.abc import Mapping
from typing import cast

import torch.nn.functional as F
from torch import Tensor


def masked_mean(values: Tensor, mask: Tensor, count: Tensor | None = None) -> Tensor:
    """Return the sum of `values` where `mask` (same leading axes) is True, divided by `count`.

    `count` is by default the number of those values, at least 1.
    """
    mask = mask.view(*mask.shape, *[1] * (values.ndim - mask.ndim)).expand_as(values)
    total = values.float().masked_fill(~mask, 0).sum()
    return total / (mask.sum() if count is None else count).clamp(min=1)


def cosine_distance(a: Tensor, b: Tensor) -> Tensor:
    """Return 1 minus the cosine of the angle between vectors (..., d): (...), from 0 to 2, in float32."""
    return 1 - F.cosine_similarity(a.float(), b.float(), dim=-1)


def weighted_sum(losses: Mapping[str, Tensor], weights: Mapping[str, float]) -> Tensor:
    """Return sum_i weight_i * loss_i over the losses that are present. Raises KeyError for a loss without a weight."""
    return cast(Tensor, sum(weights[name] * value for name, value in losses.items()))


def token_nats(logits: Tensor, targets: Tensor) -> Tensor:
    """Return the cross-entropy (...) of logits (...,V) for targets (...), in nats, computed in float32."""
    return F.cross_entropy(logits.flatten(0, -2).float(), targets.flatten(), reduction="none").view(targets.shape)
