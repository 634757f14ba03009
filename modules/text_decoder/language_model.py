"""The causal language model of the text decoder: a GPT-2 from scratch or a pretrained one, with or without LoRA."""

from __future__ import annotations

from typing import cast

import torch
from torch import Tensor, nn
from transformers import GenerationConfig, PreTrainedModel, PreTrainedTokenizerBase
from transformers.pytorch_utils import Conv1D

from modules.common.errors import UserError
from modules.pretrained.libraries import GPT2Config
from modules.pretrained.lora import add_lora
from modules.pretrained.source import PretrainedSource
from modules.text_decoder.config import TextDecoderConfig

SpecialIds = tuple[int, int, int]  # <pad>, <bos>, <eos>


def scratch_config(config: TextDecoderConfig, vocab_size: int, num_slots: int, special_ids: SpecialIds) -> GPT2Config:
    """Return the config of the GPT-2 that is trained from scratch.

    It has no pad token: `generate` is given one, and GPT-2 would warn of padding that only follows <eos>.
    """
    _, bos_id, eos_id = special_ids
    return GPT2Config(
        vocab_size=vocab_size,
        n_positions=num_slots + config.max_length,
        n_embd=config.dim,
        n_layer=config.num_layers,
        n_head=config.num_heads,
        n_inner=3 * config.dim,
        resid_pdrop=0.0,
        embd_pdrop=0.0,
        attn_pdrop=0.0,
        bos_token_id=bos_id,
        eos_token_id=eos_id,
    )


def load_language_model(
    source: PretrainedSource, vocab_size: int, max_length: int, special_ids: SpecialIds
) -> PreTrainedModel:
    """Return the pretrained language model, with our settings for generation only.

    Raises:
        UserError: There is none, or its vocabulary or its longest text is too small.
    """
    from transformers import AutoModelForCausalLM

    architecture = source.config_for(AutoModelForCausalLM)
    for needed, name, limit in (
        (vocab_size, "vocabulary", architecture.vocab_size),
        (max_length, "longest text", getattr(architecture, "max_position_embeddings", max_length)),
    ):
        if needed > limit:
            raise UserError(f"{source.what}: the {name} of {source.id} is {limit} tokens, {needed} are needed")
    model = cast(PreTrainedModel, source.load(AutoModelForCausalLM))
    pad_id, bos_id, eos_id = special_ids
    model.generation_config = GenerationConfig(pad_token_id=pad_id, bos_token_id=bos_id, eos_token_id=eos_id)
    return model


def add_attention_lora(language_model: PreTrainedModel, config: TextDecoderConfig, name: str) -> None:
    """Freeze the model and add low-rank updates to all projections of its attention.

    Raises:
        UserError: No attention is found in the model, which the message calls `name`.
    """
    projections = {
        path: module for path, module in language_model.named_modules() if isinstance(module, nn.Linear | Conv1D)
    }
    paths = [path.split(".") for path in projections]
    targets = sorted(
        {".".join(path[-2:]) for path in paths if len(path) > 1 and ("attn" in path[-2] or "attention" in path[-2])}
    )
    if not targets:
        raise UserError(f"text_decoder.tuning: found no attention in {name} for LoRA: use full or frozen")
    add_lora(
        language_model,
        config.lora_rank,
        task_type="CAUSAL_LM",
        lora_alpha=config.lora_alpha,
        lora_dropout=config.lora_dropout,
        target_modules=targets,
        fan_in_fan_out=any(isinstance(module, Conv1D) for module in projections.values()),
    )


def special_ids_of(tokenizer: PreTrainedTokenizerBase) -> SpecialIds:
    """Return <pad>, <bos> and <eos> of a pretrained tokenizer; GPT-2 has one token for all three, told apart by masks.

    Raises:
        UserError: The tokenizer has no token for the end of a text.
    """
    eos_id = tokenizer.eos_token_id
    if eos_id is None:
        raise UserError(
            f"the tokenizer of {tokenizer.name_or_path} has no token for the end of a text:"
            " choose another language model"
        )
    pad_id, bos_id = tokenizer.pad_token_id, tokenizer.bos_token_id
    return eos_id if pad_id is None else pad_id, eos_id if bos_id is None else bos_id, eos_id


def vocabulary_of(source: PretrainedSource) -> int:
    """Return the number of token ids of a pretrained language model."""
    from transformers import AutoModelForCausalLM

    return source.config_for(AutoModelForCausalLM).vocab_size


def without_words(input_ids: Tensor, hidden: Tensor, pad_id: int) -> Tensor:
    """Return the ids (N,L) with padding in place of the hidden ones (N,L), except <bos>."""
    is_first = torch.arange(input_ids.shape[1], device=input_ids.device) == 0
    return input_ids.masked_fill(hidden & ~is_first, pad_id)
