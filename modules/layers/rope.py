"""Rotary position embedding (RoFormer, arXiv 2104.09864)."""

from __future__ import annotations

import torch
from torch import Tensor


def rotary_angles(
    positions: Tensor, head_dim: int, base: float = 10_000.0, dtype: torch.dtype = torch.float32
) -> tuple[Tensor, Tensor]:
    """Return cosines and sines, each (L, head_dim/2), of integer positions (L,), which may be negative.

    They are computed in float32, or in float64 for a `dtype` of that precision.
    """
    precise = torch.promote_types(dtype, torch.float32)
    frequencies = base ** (-torch.arange(0, head_dim, 2, device=positions.device, dtype=precise) / head_dim)
    angles = positions.to(precise)[:, None] * frequencies
    return angles.cos(), angles.sin()


def rotate(x: Tensor, angles: tuple[Tensor, Tensor]) -> Tensor:
    """Rotate queries or keys (B, heads, L, head_dim) by their positions' angles: scores depend on distances only."""
    cos, sin = (angle.to(x.dtype) for angle in angles)
    even, odd = x.chunk(2, dim=-1)
    return torch.cat([even * cos - odd * sin, even * sin + odd * cos], dim=-1)
