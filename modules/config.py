"""The configuration of a model and of its training, read and written as JSON. Imports no torch."""

from __future__ import annotations

import dataclasses
import json
import typing
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from modules.common.errors import UserError, shown
from modules.common.files import read_json
from modules.common.limits import (
    DECAY,
    ENTRIES,
    MULTIPLE,
    RATE,
    RATIO,
    SHARE,
    SIZE,
    TOKENS,
    UPDATES,
    WEIGHT,
    Limit,
    check_settings,
    choice,
    limited,
    quoted,
)
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

    text_nll: float = limited(1.0, WEIGHT)
    prior_nll: float = limited(1.0, WEIGHT)
    commitment_loss: float = limited(1.0, WEIGHT)
    agreement_loss: float = limited(1.0, WEIGHT)
    diffusion_loss: float = limited(1.0, WEIGHT)
    bag_of_words_loss: float = limited(0.1, WEIGHT)  # Sums over the words of a text or the visual words of an image.
    bag_of_visual_words_loss: float = limited(0.005, WEIGHT)
    draft_loss: float = limited(0.5, WEIGHT)
    other_words_loss: float = limited(0.05, WEIGHT)
    other_visual_words_loss: float = limited(0.03, WEIGHT)
    # Above 0, the slots of an image and of its text alone are matched within a batch.
    contrastive_loss: float = limited(0.0, WEIGHT)
    load_balancing_loss: float = limited(0.01, WEIGHT)  # Of a prior with experts.
    router_z_loss: float = limited(0.001, WEIGHT)

    def __post_init__(self) -> None:
        check_settings(self, "loss_weights")


@dataclass(frozen=True)
class TrainingConfig:
    """Schedule and optimizer of a preset.

    Lengths of phases are multiples of the joint phase's `max_steps`; a phase of ratio 0 is left out.
    """

    max_steps: int = limited(1600, UPDATES)
    autoencoder_ratio: float = limited(1.125, RATIO)
    opening_ratio: float = limited(0.4, RATIO)
    consolidation_ratio: float = limited(0.35, RATIO)
    writing_ratio: float = limited(0.0, RATIO)
    illustration_ratio: float = limited(1.4, RATIO)
    planning_ratio: float = limited(1.25, RATIO)
    batch_size: int = limited(12, SIZE)  # Stories.
    learning_rate: float = limited(1e-3, RATE)
    autoencoder_learning_rate: float = limited(1e-3, RATE)
    # Or its "decoder" alone, which keeps the latents: with train --init_from.
    autoencoder_trains: str = choice("all", ("all", "decoder"))
    consolidation_learning_rate: float = limited(5e-4, RATE)
    warmup_ratio: float = limited(0.08, SHARE)
    learning_rate_floor: float = limited(0.05, SHARE)
    adam_betas: tuple[float, float] = limited((0.9, 0.98), DECAY)
    weight_decay: float = limited(0.01, WEIGHT)
    max_grad_norm: float = limited(1.0, MULTIPLE)
    # Of everything that trains except the quantiser: less memory, about a third more time.
    gradient_checkpointing: bool = False
    ema_decay: float = limited(0.995, DECAY)
    quantize_at: float = limited(0.4, DECAY)  # The joint phase is continuous until then.
    # Dead codes are revived until then; afterwards codes keep their meaning.
    revive_until: float = limited(0.85, SHARE)
    # The chance of text alone, and again that of the image alone.
    modality_dropout: float = limited(0.25, Limit(0, 0.5))
    null_text: float = limited(0.05, SHARE)
    null_image: float = limited(0.1, SHARE)
    page_dropout: float = limited(0.4, SHARE)  # The chance that a step's decoders see a random part of the plan only.
    # The chance that the text decoder does not see a token before the one that it predicts: then it needs the codes.
    word_dropout: float = limited(0.0, SHARE)
    # Scheduled sampling: the share of the prior's own codes among those it reads, at the end of a phase.
    own_codes: float = limited(0.0, SHARE)
    # Learning rates, as multiples of the others': of pretrained weights that train, and of the gates through which
    # codes enter them, which start at zero and would take long at the others' rate.
    pretrained_rate: float = limited(0.05, MULTIPLE)
    gate_rate: float = limited(20.0, MULTIPLE)
    # The phase in which a pretrained language model begins to train: until then its side reader alone reads the plan.
    language_model_from: str = choice("joint", ("joint", "consolidation"))
    # The phase in which the image decoder begins to train: without it a joint update is much cheaper, and pictures
    # reach the codes by the auxiliary losses alone.
    image_decoder_from: str = choice("joint", ("joint", "consolidation"))
    num_stories: int = limited(8000, UPDATES)  # Drawn from the story world, if that is the data.
    # Of these, the stories that the planning phase reads: the prior overfits first.
    plan_stories_ratio: float = limited(5.0, RATIO)

    def __post_init__(self) -> None:
        check_settings(self, "training")

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
    plan: str = choice("codes", PLANS)
    # What the decoders of a page read: the whole "plan", or the codes of their own "page".
    context: str = choice("plan", CONTEXTS)
    # Of the tokenizer trained with the model; a pretrained language model has its own.
    vocab_size: int = limited(1024, ENTRIES)
    max_prompt_length: int = limited(64, TOKENS)
    max_steps: int = limited(8, SIZE)  # Longer stories are cut into windows.
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
        check_settings(self)

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
    values = read_json(path, "config file")
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
            f"{where} has format version {quoted(version)}, this program reads {FORMAT_VERSION}: use the program that"
            " wrote it"
        )
    try:
        return config_from_dict(StoryConfig, settings, where)
    except UserError as error:  # A config that checks its own values does not know its file.
        raise UserError(str(error) if where in str(error) else f"{where}: {error}") from None


def config_from_dict(cls: type, values: Any, where: str) -> Any:
    """Build the frozen dataclass `cls` from nested dicts. Raises UserError on unknown names and wrong types."""
    if not isinstance(values, dict):
        raise UserError(f"{where}: expected an object with the fields of {cls.__name__}, got {quoted(values)}")
    types = typing.get_type_hints(cls)
    unknown = sorted(set(values) - set(types))
    if unknown:
        raise UserError(
            f"{where}: unknown setting {shown(unknown[0])!r} in {cls.__name__}; known are {', '.join(types)}"
        )
    return cls(**{name: _convert(types[name], value, f"{where}: {name}") for name, value in values.items()})


def _convert(kind: Any, value: Any, where: str) -> Any:
    """Return a decoded value as a field of the annotation `kind` has it; whether it fits is checked by the field."""
    if isinstance(kind, type) and dataclasses.is_dataclass(kind):
        return config_from_dict(kind, value, where)
    if typing.get_origin(kind) is tuple:
        inner, *_ = typing.get_args(kind)
        return tuple(_convert(inner, item, where) for item in value) if isinstance(value, list) else value
    if kind is float and type(value) is int and abs(value) < 2**53:
        return float(value)
    return value
