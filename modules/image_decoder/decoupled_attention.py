"""Attention to two contexts, each with its own keys and values (decoupled cross-attention, IP-Adapter, arXiv
2308.06721).
"""

from __future__ import annotations

from typing import Any, cast

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor, nn

from modules.pretrained.libraries import Attention, UNet2DConditionModel


class DecoupledAttention(nn.Module):
    """A processor for diffusers' `Attention` that attends apart to what follows `num_usual` vectors of the context.

    The result is added through a gate a channel, which starts at zero: a pretrained network starts unchanged. The extra
    keys and values start as copies of the layer's own projections.
    """

    def __init__(self, attention: Attention, num_usual: int) -> None:
        super().__init__()
        self.num_usual = num_usual
        inner, width = attention.to_k.weight.shape
        self.to_k_extra, self.to_v_extra = (nn.Linear(width, inner, bias=False) for _ in range(2))
        self.gate = nn.Parameter(torch.zeros(inner))
        with torch.no_grad():
            self.to_k_extra.weight.copy_(attention.to_k.weight)
            self.to_v_extra.weight.copy_(attention.to_v.weight)

    def forward(
        self,
        attention: Attention,
        hidden_states: Tensor,
        encoder_hidden_states: Tensor,
        attention_mask: Tensor | None = None,
        **_: None,
    ) -> Tensor:
        """Attend from hidden_states (N,P,D) to encoder_hidden_states (N,L,W): (N,P,D).

        `attention_mask` (N,1,L) is added to the attention to the extra vectors. As in Stable Diffusion the usual ones
        are never masked.
        """
        usual, extra = encoder_hidden_states.tensor_split([self.num_usual], dim=1)
        mask = None if attention_mask is None else attention_mask[:, None, :, self.num_usual :]
        query = attention.to_q(hidden_states)
        attended = _attend(query, attention.to_k(usual), attention.to_v(usual), attention.heads)
        added = _attend(query, self.to_k_extra(extra), self.to_v_extra(extra), attention.heads, mask)
        project, dropout = attention.to_out
        return dropout(project(attended + self.gate * added))


def _attend(query: Tensor, key: Tensor, value: Tensor, num_heads: int, mask: Tensor | None = None) -> Tensor:
    query, key, value = (rearrange(vectors, "n l (h d) -> n h l d", h=num_heads) for vectors in (query, key, value))
    mask = None if mask is None else mask.to(query.dtype)
    return rearrange(F.scaled_dot_product_attention(query, key, value, attn_mask=mask), "n h l d -> n l (h d)")


def is_decoupled(name: str) -> bool:
    """Return whether a UNet's parameter of this name was added by `decouple_cross_attention`."""
    return ".processor." in name


def is_gate(name: str) -> bool:
    """Return whether a UNet's parameter of this name is the gate of a `DecoupledAttention`."""
    return name.endswith(".processor.gate")


def decouple_cross_attention(unet: UNet2DConditionModel, num_usual: int) -> None:
    """Make every cross-attention of a UNet read what follows `num_usual` vectors of its context separately."""
    for module in unet.modules():
        if isinstance(module, Attention) and module.is_cross_attention:
            module.set_processor(cast(Any, DecoupledAttention(module, num_usual)))
