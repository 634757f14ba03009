"""Small language models in folders in the Hub's layout, and text decoders on them."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from transformers import GPT2Config, GPT2LMHeadModel, LlamaConfig, LlamaForCausalLM

from modules.text_decoder.config import TextDecoderConfig
from modules.text_decoder.text_decoder import TextDecoder

VOCABULARY, SLOTS, CODE_DIM, LENGTH = 40, 3, 4, 12


def write_language_models(make_folder: Callable[[str], Path]) -> dict[str, str]:
    """Write a GPT-2 with its dropout and one special token, and a LLaMA with grouped queries; return their folders.

    Weights are larger than at the start, as if trained.
    """
    torch.manual_seed(0)
    ids = {"bos_token_id": 0, "eos_token_id": 0}
    gpt2 = GPT2LMHeadModel(GPT2Config(vocab_size=VOCABULARY, n_positions=16, n_embd=16, n_layer=2, n_head=2, **ids))
    sizes = {
        "hidden_size": 16,
        "intermediate_size": 24,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
    }
    llama = LlamaForCausalLM(LlamaConfig(vocab_size=VOCABULARY, max_position_embeddings=32, **sizes))
    paths = {}
    for name, model in (("gpt2", gpt2), ("llama", llama)):
        enlarge(model)
        paths[name] = str(make_folder(name))
        model.save_pretrained(paths[name])
    return paths


@torch.no_grad()
def enlarge(model: torch.nn.Module) -> None:
    """Make all matrices of a fresh model larger, as if it were trained."""
    for parameter in model.parameters():
        parameter.mul_(6 if parameter.ndim == 2 else 1)


def build_decoder(
    folders: dict[str, str],
    family: str = "gpt2",
    prefix: str = "embeds",
    gate: float = 0.0,
    reads_plan: bool = False,
    **settings: Any,
) -> TextDecoder:
    """Return a text decoder on the language model of a family, with gates of that size, and a side reader that adds
    something where they are not 0; "scratch" is our own GPT-2.
    """
    torch.manual_seed(1)
    own = {"dim": 16, "num_layers": 2, "num_heads": 2} if family == "scratch" else {"source": folders[family]}
    config = TextDecoderConfig(prefix=prefix, max_length=LENGTH, plan_dim=16, **own, **settings)
    ids = (0, 0, 0) if family == "gpt2" else (0, 1, 2)
    decoder = TextDecoder(config, VOCABULARY, SLOTS, CODE_DIM, ids, reads_plan=reads_plan).eval()
    if family == "scratch":
        enlarge(decoder.language_model)
    with torch.no_grad():
        if config.is_gated:
            decoder.prefix_gate.fill_(gate)
            decoder.side_reader.to_hidden.weight.normal_(std=gate)
        decoder.null_codes.normal_()
        if prefix == "key_values":
            decoder.slot_embeds.normal_()
    return decoder


def text_batch(rows: int = 4) -> dict[str, Tensor]:
    """Texts of several lengths, one of them none at all; what is masked is noise."""
    generator = torch.Generator().manual_seed(2)
    mask = torch.arange(LENGTH) < torch.tensor([LENGTH, 5, 0, 8])[:rows, None]
    ids = torch.randint(3, VOCABULARY, mask.shape, generator=generator)
    return {"code_embeds": torch.randn(rows, SLOTS, CODE_DIM, generator=generator), "input_ids": ids, "text_mask": mask}


def rows_of(ids: Tensor, eos_id: int) -> list[list[int]]:
    """The tokens of each row up to and with <eos>."""
    rows = ids.tolist()
    return [row[: row.index(eos_id) + 1] if eos_id in row else row for row in rows]
