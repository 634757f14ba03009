"""Settings of the text decoder. Imports no torch."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from modules.common.limits import DECAY, MIN_TOKENS, RATE, SIZE, check_choices, check_limits

Decoding = Literal["greedy", "beam", "top_p"]
TUNINGS = ("full", "lora", "frozen")
PREFIXES = ("embeds", "key_values")


@dataclass(frozen=True)
class TextDecoderConfig:
    dim: int = 256  # Of the GPT-2 from scratch, as are num_layers and num_heads: a pretrained model has its own.
    num_layers: int = 4
    num_heads: int = 4
    plan_dim: int = 256  # Of the layer that reads the whole plan, if the model's context is "plan".
    max_length: int = 40  # Tokens of a step's text, <bos> and <eos> included.
    source: str = ""  # A causal language model's Hub id or folder; none: a GPT-2 from scratch.
    # What of the language model trains: all, low-rank updates of its attention ("lora"), nothing ("frozen").
    tuning: str = "full"
    prefix: str = "embeds"  # Or "key_values": a prefix for each layer.
    lora_rank: int = 8
    lora_alpha: float = 16.0
    lora_dropout: float = 0.0
    gradient_checkpointing: bool = False

    def __post_init__(self) -> None:
        check_choices("text_decoder", self, {"tuning": TUNINGS, "prefix": PREFIXES})
        limits = {SIZE: "dim num_layers num_heads plan_dim lora_rank", MIN_TOKENS: "max_length", RATE: "lora_alpha"}
        check_limits("text_decoder", self, limits | {DECAY: "lora_dropout"})

    @property
    def is_gated(self) -> bool:
        return bool(self.source) or self.prefix == "key_values"
