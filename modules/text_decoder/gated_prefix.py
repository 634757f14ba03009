"""What a pretrained language model reads of the plan: a prefix through gates that start at zero (LLaMA-Adapter, arXiv
2303.16199), and what a side reader adds to its last hidden states.

A zero vector at one more position would still take its share of every softmax. So text attends to text as if there
were no prefix, and its attention to the prefix is added, times the tanh of one gate a layer and head.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from transformers import AttentionInterface, DynamicCache, PretrainedConfig, PreTrainedModel
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import AttentionMaskInterface, sdpa_mask

from modules.text_decoder.side_reader import SideReader

ATTENTION = "gated_prefix"


class Prefix(NamedTuple):
    """Vectors (N,P,D) before the text, which of them may be read (N,P), and their positions (P,); and the page's
    codes (N,S,d) that a side reader reads, if there is one.
    """

    vectors: Tensor
    mask: Tensor
    positions: Tensor
    codes: Tensor | None = None


class GatedPrefix(NamedTuple):
    """`gate` (layers, heads) before tanh, and either the `length` P of a prefix at the start of the sequence, hidden by
    the attention mask, or the `keys_values` of each layer (N, P, 2, key-value heads, head_dim) of a prefix outside it.

    Vectors of the prefix where `mask` (N,P) is False are not read. The side `reader` reads the page's `codes` (N,S,d).
    """

    gate: Tensor
    length: int = 0
    keys_values: Sequence[Tensor] | None = None
    mask: Tensor | None = None
    codes: Tensor | None = None
    reader: SideReader | None = None

    def repeat_interleave(self, count: int) -> GatedPrefix:
        """Repeat each row of the prefix `count` times in a row."""
        mask, codes = (
            None if value is None else value.repeat_interleave(count, dim=0) for value in (self.mask, self.codes)
        )
        layers = self.keys_values and [layer.repeat_interleave(count, dim=0) for layer in self.keys_values]
        return self._replace(keys_values=layers, mask=mask, codes=codes)


class GatedPrefixCache(DynamicCache):
    """The cache of a text after a prefix: `generate` passes on a cache, but not its caller's other arguments."""

    def __init__(self, config: PretrainedConfig, prefix: GatedPrefix, num_beams: int = 1) -> None:
        super().__init__(config=config)
        self.prefix = prefix.repeat_interleave(num_beams)  # `generate` repeats the cache for its beams, not these.


def gated_prefix_attention(
    module: Any,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    gated_prefix: GatedPrefix | None = None,
    **kwargs: Any,
) -> tuple[Tensor, None]:
    """Attend with queries, keys and values (N, heads, L, head_dim); a function for transformers' AttentionInterface."""
    if gated_prefix is None:
        return sdpa_attention_forward(module, query, key, value, attention_mask, **kwargs)
    gate, length, keys_values, mask = gated_prefix[:4]
    if keys_values is None:
        prefix = key[:, :, :length], value[:, :, :length]
        key, value = key[:, :, length:], value[:, :, length:]
    else:
        both = keys_values[module.layer_idx].to(query.dtype)
        prefix = tuple(part.transpose(1, 2) for part in both.unbind(2))
    start = max(0, query.shape[2] - key.shape[2])  # The prefix has queries only in the first pass.
    if attention_mask is not None:
        attention_mask = attention_mask[..., start:, length:]
    text, _ = sdpa_attention_forward(module, query[:, :, start:], key, value, attention_mask, **kwargs)
    prefix_mask = None if mask is None else mask[:, None, None, :]
    read, _ = sdpa_attention_forward(module, query, *prefix, prefix_mask, **{**kwargs, "is_causal": False})
    scale = gate[module.layer_idx].tanh().to(text.dtype)[:, None]
    return torch.cat([read[:, :start], text + scale * read[:, start:]], dim=1), None


AttentionInterface.register(ATTENTION, gated_prefix_attention)


AttentionMaskInterface.register(ATTENTION, sdpa_mask)


def admit_gated_prefix(language_model: PreTrainedModel) -> None:
    """Let the model be called with `gated_prefix`, or with a GatedPrefixCache; its last hidden states get what the
    prefix's side reader adds to them. A copy of the model, as FSDP trains one, is called with the copy's reader.

    Raises ValueError where its attention cannot be replaced.
    """
    language_model.set_attn_implementation(ATTENTION)
    if language_model.config._attn_implementation != ATTENTION:
        raise ValueError(f"{type(language_model).__name__} does not let its attention be replaced")
    current: list[GatedPrefix | None] = [None]  # Of this pass: the head gets no arguments of the caller's.

    def take(_model: nn.Module, args: tuple, kwargs: dict[str, Any]) -> tuple[tuple, dict[str, Any]]:
        cache = kwargs.get("past_key_values")
        if isinstance(cache, GatedPrefixCache):
            kwargs = {**kwargs, "gated_prefix": cache.prefix}
        current[0] = kwargs.get("gated_prefix")
        return args, kwargs

    def add_what_is_read(_head: nn.Module, args: tuple[Tensor]) -> tuple[Tensor] | None:
        prefix = current[0]
        if prefix is None or prefix.reader is None or prefix.codes is None:
            return None
        return (args[0] + prefix.reader(args[0], prefix.codes),)

    language_model.register_forward_pre_hook(take, with_kwargs=True)
    language_model.get_output_embeddings().register_forward_pre_hook(add_what_is_read)
