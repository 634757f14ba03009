"""How a training is run, and what must stay the same when it is resumed."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from modules.common.errors import UserError
from modules.config import StoryConfig, changes, parse_config
from modules.story import StoryDataset

PHASE_NAMES = ("autoencoder", "opening", "joint", "consolidation", "illustration", "planning")
LOG_WITH = ("tensorboard", "wandb", "all")


@dataclass(frozen=True)
class TrainSettings:
    """How to run a training: nothing here changes the model but `seed`."""

    output_dir: Path
    mixed_precision: str = "no"
    gradient_accumulation_steps: int = 1
    save_every: int = 200
    log_every: int = 10
    sample_every: int = 200
    keep_last: int = 2
    seed: int = 0
    stages: tuple[str, ...] = PHASE_NAMES
    autoencoder: Path | None = None
    log_with: str = "tensorboard"
    cache: Path | None = None  # What `precompute` wrote.
    num_workers: int = 2  # Threads that read pictures ahead.
    offline: bool = False  # The Hub is not asked for pretrained parts.


def run_identity(config: StoryConfig, args: TrainSettings, source: StoryDataset, global_batch: int) -> dict[str, Any]:
    """What must not change between a run and its continuation."""
    return {
        "config": config.to_json(),
        "seed": args.seed,
        "data": source.fingerprint(),
        "global_batch": global_batch,
        "mixed_precision": args.mixed_precision,
    }


def check_same_run(checkpoint: Path, before: dict[str, Any], now: dict[str, Any]) -> None:
    """Raise UserError when the identity of the run that wrote `checkpoint` is not the one of now.

    A setting that is newer than that run had its default then.
    """
    config = json.loads(parse_config(json.loads(before["config"]), str(checkpoint)).to_json())
    for change in changes({**before, "config": config}, {**now, "config": json.loads(now["config"])}):
        raise UserError(
            f"{checkpoint} was trained with another {change}: give the same flags and data to go on, or another --output_dir to start anew"
        )


PRECISIONS = ("auto", "no", "bf16", "fp16")
