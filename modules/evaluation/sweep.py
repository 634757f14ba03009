"""Sweeps: one model trained for every combination of settings, all scored with the same metrics."""

from __future__ import annotations

import hashlib
import itertools
import json
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch

from modules.common.errors import UserError, shown
from modules.common.progress import announce, hidden_progress
from modules.config import StoryConfig, config_from_dict
from modules.evaluation.resumable_csv import ResumableCsv
from modules.generation.pipeline import StoryPipeline
from modules.story import StoryDataset
from modules.story_model.story_model import build_model
from modules.training.forecast import forecast_trainings
from modules.training.run import train
from modules.training.settings import TrainSettings


@dataclass(frozen=True)
class Sweep:
    """A setting's dotted name, as in a config file, and its values.

    Raises UserError on no value or equal values.
    """

    setting: str
    values: tuple[Any, ...]

    def __post_init__(self) -> None:
        texts = [_text(value) for value in self.values]
        if not texts or len(set(texts)) < len(texts):
            raise UserError(
                f"--sweep {self.setting} needs one or more different values, got {','.join(texts) or 'none'}"
            )

    @classmethod
    def parse(cls, text: str) -> Sweep:
        """Parse `storyboard.codebook_size=128,256`: JSON values separated by commas; words need no quotes."""
        setting, equals, values = text.partition("=")
        if not (setting and equals and values):
            raise UserError(
                f"--sweep must be a setting and its values, such as storyboard.codebook_size=128,256, got {text!r}"
            )
        try:
            return cls(setting, tuple(json.loads(f"[{values}]")))
        except RecursionError:
            raise UserError(f"--sweep {shown(setting)}: a value is nested too deeply") from None
        except ValueError:  # Words, or a number of thousands of digits, which is refused as a word.
            return cls(setting, tuple(values.split(",")))


def with_setting(config: StoryConfig, setting: str, value: Any) -> StoryConfig:
    """Return the config with another value of one setting, given by its dotted name.

    Raises UserError on an unknown name or a wrong type.
    """
    values = json.loads(config.to_json())
    del values["format_version"]
    *sections, name = setting.split(".")
    section = values
    for part in sections:
        section = section.setdefault(part, {})
        if not isinstance(section, dict):
            raise UserError(f"--sweep {setting}: {part} is no section but a setting of its own")
    section[name] = value
    return config_from_dict(StoryConfig, values, f"--sweep {setting}")


def run_sweep(
    sweeps: Sequence[Sweep],
    config: StoryConfig,
    args: TrainSettings,
    open_data: Callable[[StoryConfig], tuple[StoryDataset, StoryDataset]],
    score: Callable[[StoryPipeline], Mapping[str, float | None]],
    output: Path,
    identity: Mapping[str, Any] | None = None,
    say: Callable[[str], None] = print,
) -> None:
    """Train `config` with every combination of the sweeps' values, and write the `score` of each into the CSV `output`.

    Every model has its own folder beside the CSV, `<setting>=<value>`, from which a stopped training is resumed; the
    folder of `args` is not used. Rows that exist are kept. `open_data` returns a config's training and held-out
    stories; `identity` names everything else that the scores depend on. Raises UserError if a config cannot be built,
    before the first training, and if the CSV is of other settings; Interrupted on a signal.
    """
    configs = _combinations(sweeps, config, args.offline)
    table = ResumableCsv(
        output, [key for key, _ in configs], {"run": _fingerprint(config, args, open_data(config), identity or {})}
    )
    left = [changed for key, changed in configs if key not in table]
    if left:
        with hidden_progress():
            seconds = forecast_trainings(left, args, *open_data(left[0]))
        announce(seconds, f" for {len(left)} trainings, without their scores")
    for key, changed in configs:
        if key in table:
            continue
        folder = table.path.parent / re.sub(r"[^\w.=,+\-\[\]]", "_", _join(key, ","))
        model = train(changed, replace(args, output_dir=folder), *open_data(changed))
        scores = score(StoryPipeline.from_pretrained(model, offline=args.offline))
        table.add(key, scores)
        shown = [f"{name}={'-' if value is None else format(value, '.4f')}" for name, value in scores.items()]
        say(f"[sweep] {_join(key, ' ')} | {' '.join(shown)}")


def _combinations(
    sweeps: Sequence[Sweep], config: StoryConfig, offline: bool
) -> list[tuple[dict[str, str], StoryConfig]]:
    """Return every combination of values, as texts by setting, with its config; check that all can be built."""
    names = [sweep.setting for sweep in sweeps]
    if not names or len(set(names)) < len(names):
        raise UserError(f"--sweep needs one or more different settings, got {', '.join(names) or 'none'}")
    configs = []
    for values in itertools.product(*(sweep.values for sweep in sweeps)):
        changed, key = config, dict(zip(names, map(_text, values), strict=True))
        for name, value in zip(names, values, strict=True):
            changed = with_setting(changed, name, value)
        with torch.device("meta"):
            build_model(changed, f"--sweep {_join(key, ' ')}", offline=offline, random=True)
        configs.append((key, changed))
    return configs


def _text(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value, separators=(",", ":"))


def _join(key: Mapping[str, str], separator: str) -> str:
    return separator.join(f"{name}={value}" for name, value in key.items())


def _fingerprint(
    config: StoryConfig, args: TrainSettings, data: Sequence[StoryDataset], identity: Mapping[str, Any]
) -> str:
    """Return a short hash of everything that all models of a sweep share."""
    run = {
        "seed": args.seed,
        "mixed_precision": args.mixed_precision,
        "gradient_accumulation_steps": args.gradient_accumulation_steps,
        "stages": args.phases,  # The phases' older name: sweeps that were begun with it can be resumed.
        "autoencoder": args.autoencoder,
    }
    common = [config.to_json(), run, [dataset.fingerprint() for dataset in data], dict(identity)]
    return hashlib.sha256(json.dumps(common, default=str).encode()).hexdigest()[:16]
