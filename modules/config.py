"""The configuration of a model and of its training, read and written as JSON. Imports no torch."""

from __future__ import annotations

import dataclasses
import json
import typing
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from modules.common.errors import UserError
from modules.common.limits import DECAY, MIN_TOKENS, NOT_NEGATIVE, RATE, SHARE, SIZE, Limit, check_choices, check_limits
from modules.image_decoder.config import AutoencoderConfig, ImageDecoderConfig
from modules.prior.config import PredictorConfig, PriorConfig
from modules.storyboard.config import AidsConfig, StoryboardConfig
from modules.text_decoder.config import TextDecoderConfig

FORMAT_VERSION = 3
OLDER_VERSION = 2  # Its decoders read their own page alone.
PLANS = ("codes", "predicted", "prompt")
CONTEXTS = ("plan", "page")


@dataclass(frozen=True)
class LossWeights:
    """Weights of the terms of the training loss; 0 leaves a term out of the sum."""

    text_nll: float = 1.0
    prior_nll: float = 1.0
    commitment_loss: float = 1.0
    agreement_loss: float = 1.0
    diffusion_loss: float = 1.0
    bag_of_words_loss: float = 0.1  # Sums over the words of a text or the visual words of an image.
    bag_of_visual_words_loss: float = 0.005
    draft_loss: float = 0.5
    other_words_loss: float = 0.05
    other_visual_words_loss: float = 0.03
    contrastive_loss: float = 0.0  # Above 0, the slots of an image and of its text alone are matched within a batch.
    load_balancing_loss: float = 0.01  # Of a prior with experts.
    router_z_loss: float = 0.001

    def __post_init__(self) -> None:
        check_limits("loss_weights", self, {NOT_NEGATIVE: " ".join(field.name for field in dataclasses.fields(self))})


TRAINING_LIMITS = {
    SIZE: "max_steps batch_size num_stories",
    NOT_NEGATIVE: "autoencoder_ratio opening_ratio consolidation_ratio illustration_ratio planning_ratio weight_decay"
    " plan_stories_ratio",
    RATE: "learning_rate autoencoder_learning_rate consolidation_learning_rate max_grad_norm pretrained_rate gate_rate",
    SHARE: "warmup_ratio learning_rate_floor revive_until null_text null_image page_dropout own_codes",
    DECAY: "adam_betas ema_decay quantize_at",
    Limit(0, 0.5): "modality_dropout",  # The chance of text alone, and again that of the image alone.
}


@dataclass(frozen=True)
class TrainingConfig:
    """Schedule and optimizer of a preset.

    Lengths of phases are multiples of the joint phase's `max_steps`; a phase of ratio 0 is left out.
    """

    max_steps: int = 1600
    autoencoder_ratio: float = 1.125
    opening_ratio: float = 0.4
    consolidation_ratio: float = 0.35
    illustration_ratio: float = 1.4
    planning_ratio: float = 1.25
    batch_size: int = 12  # Stories.
    learning_rate: float = 1e-3
    autoencoder_learning_rate: float = 1e-3
    autoencoder_trains: str = "all"  # Or its "decoder" alone, which keeps the latents: with train --init_from.
    consolidation_learning_rate: float = 5e-4
    warmup_ratio: float = 0.08
    learning_rate_floor: float = 0.05
    adam_betas: tuple[float, float] = (0.9, 0.98)
    weight_decay: float = 0.01
    max_grad_norm: float = 1.0
    # Of everything that trains except the quantiser: less memory, about a third more time.
    gradient_checkpointing: bool = False
    ema_decay: float = 0.995
    quantize_at: float = 0.4  # The joint phase is continuous until then.
    revive_until: float = 0.85  # Dead codes are revived until then; afterwards codes keep their meaning.
    modality_dropout: float = 0.25
    null_text: float = 0.05
    null_image: float = 0.1
    page_dropout: float = 0.4  # The chance that a step's decoders see a random part of the plan only.
    # Scheduled sampling: the share of the prior's own codes among those it reads, at the end of a phase.
    own_codes: float = 0.0
    # Learning rates, as multiples of the others': of pretrained weights that train, and of the gates through which
    # codes enter them, which start at zero and would take long at the others' rate.
    pretrained_rate: float = 0.05
    gate_rate: float = 20.0
    num_stories: int = 8000  # Drawn from the story world, if that is the data.
    plan_stories_ratio: float = 5.0  # Of these, the stories that the planning phase reads: the prior overfits first.

    def __post_init__(self) -> None:
        check_choices("training", self, {"autoencoder_trains": ("all", "decoder")})
        check_limits("training", self, TRAINING_LIMITS)
        if len(self.adam_betas) != 2:
            raise UserError(f"training.adam_betas must be two numbers, got {list(self.adam_betas)}")

    def num_updates(self, phase: str) -> int:
        """Return the number of updates of a phase, by its name."""
        ratio = 1.0 if phase == "joint" else getattr(self, f"{phase}_ratio")
        return max(1, round(ratio * self.max_steps)) if ratio else 0

    def learning_rate_of(self, phase: str) -> float:
        """Return the peak learning rate of a phase, by its name."""
        if phase == "autoencoder":
            return self.autoencoder_learning_rate
        return self.learning_rate if phase in ("opening", "joint") else self.consolidation_learning_rate


@dataclass(frozen=True)
class StoryConfig:
    """The model's architecture and how it is trained."""

    preset: str = "storyworld"
    # What the decoders read; baselines: "predicted" from the prompt and past steps, or from the "prompt" alone.
    plan: str = "codes"
    context: str = "plan"  # What the decoders of a page read: the whole "plan", or the codes of their own "page".
    vocab_size: int = 1024  # Of the tokenizer trained with the model; a pretrained language model has its own.
    max_prompt_length: int = 64
    max_steps: int = 8  # Longer stories are cut into windows.
    storyboard: StoryboardConfig = field(default_factory=StoryboardConfig)
    prior: PriorConfig = field(default_factory=PriorConfig)
    predictor: PredictorConfig = field(default_factory=PredictorConfig)
    text_decoder: TextDecoderConfig = field(default_factory=TextDecoderConfig)
    image_decoder: ImageDecoderConfig = field(default_factory=ImageDecoderConfig)
    autoencoder: AutoencoderConfig = field(default_factory=AutoencoderConfig)
    aids: AidsConfig = field(default_factory=AidsConfig)
    loss_weights: LossWeights = field(default_factory=LossWeights)
    training: TrainingConfig = field(default_factory=TrainingConfig)

    def __post_init__(self) -> None:
        check_choices("", self, {"plan": PLANS, "context": CONTEXTS})
        check_limits("", self, {SIZE: "vocab_size max_steps", MIN_TOKENS: "max_prompt_length"})

    def to_json(self) -> str:
        """Return the config as JSON with its format version; `parse_config` reads it."""
        return json.dumps({"format_version": FORMAT_VERSION, **dataclasses.asdict(self)}, indent=2) + "\n"


def changes(before: Any, now: Any, name: str = "") -> Iterator[str]:
    """Yield the differences between two values read from JSON, each with its dotted name."""
    if isinstance(before, dict) and isinstance(now, dict):
        for key in {**before, **now}:
            yield from changes(before.get(key), now.get(key), f"{name}.{key}".lstrip("."))
    elif before != now:
        yield f"{name} ({before!r}, now {now!r})"


def load_config(path: Path) -> StoryConfig:
    """Read a config JSON, or the output of `train --dry_run`.

    Raises UserError on an unknown key, a wrong type, a value out of range or a newer format.
    """
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, json.JSONDecodeError) as error:
        raise UserError(f"{path} is not a readable config file: {error}") from error
    if isinstance(values, dict) and "config" in values:
        values = values["config"]
    return parse_config(values, str(path))


def parse_config(values: Any, where: str) -> StoryConfig:
    """Return the config that `to_json` wrote, decoded; missing settings have their defaults.

    Raises UserError as `load_config` does; `where` names the file.
    """
    settings = dict(values) if isinstance(values, dict) else {}
    version = settings.pop("format_version", None)
    if version is None:
        raise UserError(
            f"{where} is not a story model's config: give a model folder, or a file that train --dry_run wrote"
        )
    if version == OLDER_VERSION:
        settings.setdefault("context", "page")
    elif version != FORMAT_VERSION:
        raise UserError(
            f"{where} has format version {version!r}, this program reads {FORMAT_VERSION}: use the program that"
            " wrote it"
        )
    try:
        return config_from_dict(StoryConfig, settings, where)
    except UserError as error:  # A config that checks its own values does not know its file.
        raise UserError(str(error) if where in str(error) else f"{where}: {error}") from None


def config_from_dict(cls: type, values: Any, where: str) -> Any:
    """Build the frozen dataclass `cls` from nested dicts. Raises UserError on unknown names and wrong types."""
    if not isinstance(values, dict):
        raise UserError(f"{where}: expected an object with the fields of {cls.__name__}, got {values!r}")
    types = typing.get_type_hints(cls)
    unknown = sorted(set(values) - set(types))
    if unknown:
        raise UserError(f"{where}: unknown setting {unknown[0]!r} in {cls.__name__}; known are {', '.join(types)}")
    return cls(**{name: _convert(types[name], value, f"{where}: {name}") for name, value in values.items()})


def _convert(kind: Any, value: Any, where: str) -> Any:
    if isinstance(kind, type) and dataclasses.is_dataclass(kind):
        return config_from_dict(kind, value, where)
    if typing.get_origin(kind) is tuple:
        inner, *others = typing.get_args(kind)
        if not isinstance(value, list):
            raise UserError(f"{where}: expected a list, got {value!r}")
        if others != [...] and len(value) != 1 + len(others):
            raise UserError(f"{where}: expected {1 + len(others)} numbers, got {value!r}")
        return tuple(_convert(inner, item, where) for item in value)
    if kind is float and isinstance(value, int) and not isinstance(value, bool):
        return float(value)
    if type(value) is not kind:
        raise UserError(f"{where}: expected {kind.__name__}, got {value!r}")
    return value
