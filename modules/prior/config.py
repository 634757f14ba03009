"""Settings of the prior and of the predictor baseline. Imports no torch."""

from __future__ import annotations

from dataclasses import dataclass, field

from modules.common.limits import DECAY, NOT_NEGATIVE, RATE, SIZE, check_limits


@dataclass(frozen=True)
class PredictorConfig:
    """Settings of the baselines' predictor."""

    dim: int = 256
    num_layers: int = 4
    num_heads: int = 4
    dropout: float = 0.1
    max_steps: int = 32  # Higher counts of steps left share one embedding.

    def __post_init__(self) -> None:
        check_limits("predictor", self, {SIZE: "dim num_layers num_heads max_steps", DECAY: "dropout"})


@dataclass(frozen=True)
class ExpertsConfig:
    """A mixture of experts in place of each feed-forward layer: the settings of `layers.moe.MixtureOfExperts`."""

    num_experts: int = 0  # 0: dense layers.
    top_k: int = 2
    num_shared_experts: int = 0
    mult: float = 1.0  # With two experts a token, as many active weights as a dense layer.
    bias_rate: float = 0.0

    def __post_init__(self) -> None:
        limits = {NOT_NEGATIVE: "num_experts num_shared_experts bias_rate", SIZE: "top_k", RATE: "mult"}
        check_limits("prior.experts", self, limits)


@dataclass(frozen=True)
class PriorConfig:
    """Settings of the prior."""

    dim: int = 256
    code_dim: int = 64  # Of the vector that a code is read and written by.
    num_layers: int = 4
    num_heads: int = 4
    dropout: float = 0.1
    max_steps: int = 32  # Higher counts of steps left share one embedding.
    num_kv_heads: int = 0  # Heads of keys and values, shared by groups of query heads; 0: as many as num_heads.
    # Codes: a position sees the prompt, the first steps and this many latest codes; 0: everything before it.
    attention_window: int = 0
    num_sink_steps: int = 1  # First steps that stay visible in stories of any length.
    experts: ExpertsConfig = field(default_factory=ExpertsConfig)
    # Of a transformer over whole steps, whose outputs condition every code of the next step.
    temporal_layers: int = 0

    def __post_init__(self) -> None:
        sizes, counts = "dim code_dim num_layers num_heads max_steps", "num_kv_heads attention_window num_sink_steps"
        check_limits("prior", self, {SIZE: sizes, NOT_NEGATIVE: f"{counts} temporal_layers", DECAY: "dropout"})


def check_heads(dim: int, num_heads: int) -> None:
    """Raise ValueError unless every head has an even width, which rotary positions need."""
    if dim % (2 * num_heads):
        raise ValueError(
            f"rotary positions need heads of an even width: dim {dim} is not a multiple of 2 x {num_heads}"
        )
