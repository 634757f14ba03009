"""Settings of the prior and of the predictor baseline. Imports no torch."""

from __future__ import annotations

from dataclasses import dataclass, field

from modules.common.limits import COUNT, DECAY, LAYERS, MULTIPLE, SHARE, SIZE, WEIGHT, Limit, check_settings, limited


@dataclass(frozen=True)
class PredictorConfig:
    """Settings of the baselines' predictor."""

    dim: int = limited(256, SIZE)
    num_layers: int = limited(4, LAYERS)
    num_heads: int = limited(4, SIZE)
    dropout: float = limited(0.1, DECAY)
    max_steps: int = limited(32, SIZE)  # Higher counts of steps left share one embedding.

    def __post_init__(self) -> None:
        check_settings(self, "predictor")


@dataclass(frozen=True)
class ExpertsConfig:
    """A mixture of experts in place of each feed-forward layer: the settings of `layers.moe.MixtureOfExperts`."""

    num_experts: int = limited(0, COUNT)  # 0: dense layers.
    top_k: int = limited(2, SIZE)
    num_shared_experts: int = limited(0, COUNT)
    mult: float = limited(1.0, MULTIPLE)  # With two experts a token, as many active weights as a dense layer.
    bias_rate: float = limited(0.0, WEIGHT)

    def __post_init__(self) -> None:
        check_settings(self, "prior.experts")


@dataclass(frozen=True)
class PriorConfig:
    """Settings of the prior."""

    dim: int = limited(256, SIZE)
    code_dim: int = limited(64, SIZE)  # Of the vector that a code is read and written by.
    num_layers: int = limited(4, LAYERS)
    num_heads: int = limited(4, SIZE)
    dropout: float = limited(0.1, DECAY)
    max_steps: int = limited(32, SIZE)  # Higher counts of steps left share one embedding.
    # Heads of keys and values, shared by groups of query heads; 0: as many as num_heads.
    num_kv_heads: int = limited(0, COUNT)
    # Codes: a position sees the prompt, the first steps and this many latest codes; 0: everything before it.
    attention_window: int = limited(0, COUNT)
    num_sink_steps: int = limited(1, COUNT)  # First steps that stay visible in stories of any length.
    experts: ExpertsConfig = field(default_factory=ExpertsConfig)
    # Of a transformer over whole steps, whose outputs condition every code of the next step.
    temporal_layers: int = limited(0, Limit(0, 1024))
    # Whether codes become likelier that are like those before, of the same slot or the same step, and like the prompt
    # read as a step's text: a transformer does not learn that from a few hundred stories.
    cache: bool = False
    # The share of the stories in training whose prior sees some pages before it writes; above 0 it can infill.
    given_share: float = limited(0.0, SHARE)
    # The share of the stories in training whose prompt the prior does not see; above 0 its plans can be guided.
    null_prompt: float = limited(0.0, SHARE)

    def __post_init__(self) -> None:
        check_settings(self, "prior")


def check_heads(dim: int, num_heads: int) -> None:
    """Raise ValueError unless every head has an even width, which rotary positions need."""
    if dim % (2 * num_heads):
        raise ValueError(
            f"rotary positions need heads of an even width: dim {dim} is not a multiple of 2 x {num_heads}"
        )
