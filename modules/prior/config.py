"""Settings of the prior and of the predictor baseline. Imports no torch."""

from __future__ import annotations

from dataclasses import dataclass, field


@dataclass(frozen=True)
class PredictorConfig:
    dim: int = 256
    num_layers: int = 4
    num_heads: int = 4
    dropout: float = 0.1
    max_steps: int = 32  # Counts of steps left beyond this share one embedding.


@dataclass(frozen=True)
class ExpertsConfig:
    """A mixture of experts in the place of each feed-forward layer: the settings of `layers.moe.MixtureOfExperts`."""

    num_experts: int = 0  # 0: dense layers.
    top_k: int = 2
    num_shared_experts: int = 0
    mult: float = 1.0  # With two experts a token, as many active weights as a dense layer.
    bias_rate: float = 0.0


@dataclass(frozen=True)
class PriorConfig:
    dim: int = 256
    code_dim: int = 64  # Of the vector by which a code is read and written.
    num_layers: int = 4
    num_heads: int = 4
    dropout: float = 0.1
    max_steps: int = 32  # Counts of steps left beyond this share one embedding.
    num_kv_heads: int = 0  # Heads of keys and values, shared by groups of query heads; 0: as many as num_heads.
    attention_window: int = (
        0  # Codes: plans see prompt, first steps and this many latest codes; 0: all that came before.
    )
    num_sink_steps: int = 1  # The first steps, which stay in sight however long the story is.
    experts: ExpertsConfig = field(default_factory=ExpertsConfig)
    temporal_layers: int = (
        0  # Of a transformer over whole steps, whose outputs condition every code of the step that follows.
    )
