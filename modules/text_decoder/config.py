"""Settings of the text decoder. Imports no torch."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from modules.common.limits import COUNT, DECAY, LAYERS, MULTIPLE, SIZE, TOKENS, check_settings, choice, limited

Decoding = Literal["greedy", "beam", "top_p"]
TUNINGS = ("full", "lora", "frozen")
PREFIXES = ("embeds", "key_values")


@dataclass(frozen=True)
class TextDecoderConfig:
    # Of the GPT-2 from scratch, as are num_layers and num_heads: a pretrained model has its own.
    dim: int = limited(256, SIZE)
    num_layers: int = limited(4, LAYERS)
    num_heads: int = limited(4, SIZE)
    plan_dim: int = limited(256, SIZE)  # Of the layer that reads the whole plan, if the model's context is "plan".
    max_length: int = limited(40, TOKENS)  # Tokens of a step's text, <bos> and <eos> included.
    source: str = ""  # A causal language model: Hub id, folder, GGUF file or package:NAME; none: a GPT-2 from scratch.
    # What of the language model trains: all, low-rank updates of its attention ("lora"), nothing ("frozen").
    tuning: str = choice("full", TUNINGS)
    prefix: str = choice("embeds", PREFIXES)  # Or "key_values": a prefix for each layer.
    lora_rank: int = limited(8, SIZE)
    lora_alpha: float = limited(16.0, MULTIPLE)
    lora_dropout: float = limited(0.0, DECAY)
    gradient_checkpointing: bool = False
    # No text contains an n-gram of so many tokens twice (arXiv 1705.04304); 0: it may. A language model that is tuned
    # little loops.
    no_repeat_ngram_size: int = limited(0, COUNT)

    def __post_init__(self) -> None:
        check_settings(self, "text_decoder")

    @property
    def is_gated(self) -> bool:
        return bool(self.source) or self.prefix == "key_values"
