"""`train`: train a model on a folder of stories or on the built-in story world."""

from __future__ import annotations

import argparse
import dataclasses
import json
import os
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, TextIO

from modules.commands.shared import bad_record_flag, data_flag, open_dataset, open_held_out
from modules.common.arguments import a_path, add_dataclass_flags, from_flags, positive_float, positive_int
from modules.training.settings import TrainSettings

if TYPE_CHECKING:
    from modules.config import StoryConfig
    from modules.story import StoryDataset

SCHEDULE = ("max_steps", "batch_size", "learning_rate", "num_stories")  # Flags that replace values of the config.


def config_flags(parser: argparse._ActionsContainer, purpose: str = "the model and its training, by name") -> None:
    """Add --preset and --config."""
    from modules.presets import PRESETS

    parser.add_argument(
        "--preset", choices=sorted(PRESETS), default="storyworld", help=f"{purpose} (default storyworld)"
    )
    parser.add_argument(
        "--config",
        type=a_path,
        metavar="FILE",
        help="a config JSON instead of a preset; train --dry_run prints one to start from",
    )


def add_flags(parser: argparse.ArgumentParser) -> None:
    config_flags(parser)
    data_flag(parser)
    parser.add_argument(
        "--max_steps",
        type=positive_int,
        metavar="N",
        help="updates of the joint phase; the other phases scale with it (default: the preset's)",
    )
    parser.add_argument(
        "--batch_size",
        type=positive_int,
        metavar="N",
        help="stories in a micro-batch of one process (default: the preset's)",
    )
    parser.add_argument(
        "--learning_rate",
        type=positive_float,
        metavar="X",
        help="peak learning rate of the joint phase (default: the preset's)",
    )
    parser.add_argument(
        "--num_stories",
        type=positive_int,
        metavar="N",
        help="stories to draw if --data is storyworld (default: the preset's)",
    )
    add_dataclass_flags(parser, TrainSettings, output_dir=Path("checkpoints/run"), mixed_precision=None)
    bad_record_flag(parser)
    parser.add_argument(
        "--dry_run", action="store_true", help="print the resolved config, parameters and memory, and stop"
    )


def run(args: argparse.Namespace) -> int:
    started = time.monotonic()  # Before the libraries are imported, which takes seconds.
    from modules.common.interrupts import Interrupted
    from modules.common.precision import resolve_precision
    from modules.training.codebook_size import with_codebook_size
    from modules.training.dry_run import plan
    from modules.training.run import train

    precision = args.mixed_precision or os.environ.get("ACCELERATE_MIXED_PRECISION", "no")
    settings = from_flags(TrainSettings, args, mixed_precision=resolve_precision(precision))
    config = resolve_config(args)
    if args.dry_run and config.storyboard.codebook_size:
        print(json.dumps(plan(config, settings), indent=2, default=str))
        return 0
    dataset = open_dataset(args.data, "train", config, args.seed, config.training.num_stories, args.on_bad_record)
    if args.dry_run:
        print(json.dumps(plan(with_codebook_size(config, settings, dataset), settings), indent=2, default=str))
        return 0
    held_out = open_held_out(args.data, dataset, config, args.seed, args.on_bad_record)
    try:
        more = open_plan_stories(args, config, settings)
        folder = train(config, settings, dataset, held_out, more, started)
    except Interrupted as stop:
        _print_once(str(stop), file=sys.stderr)
        return stop.code
    _print_once(f"trained; generate with --ckpt {folder.parent}")
    return 0


def open_plan_stories(args: argparse.Namespace, config: StoryConfig, settings: TrainSettings) -> StoryDataset | None:
    """Return the stories of the planning phase if they are more than those of the other phases, else None."""
    from modules.training.plan import trained_phases
    from modules.training.plan_stories import num_plan_stories

    if args.data != "storyworld" or settings.cache is not None:
        return None
    if "planning" not in settings.phases or "planning" not in trained_phases(config):
        return None
    count = num_plan_stories(config, config.training.batch_size * settings.gradient_accumulation_steps)
    if count <= config.training.num_stories:
        return None
    return open_dataset(args.data, "train", config, args.seed, count, args.on_bad_record)


def _print_once(text: str, file: TextIO | None = None) -> None:
    """Print on the first process, after a training: a PartialState made before it would fix the processes."""
    from accelerate import PartialState

    PartialState().on_main_process(print)(text, file=file)


def resolve_config(args: argparse.Namespace) -> StoryConfig:
    """Return the preset or the config file, with the values of the flags.

    A preset that goes on from weights of the same preset has their architecture, which may be newer or older, and a
    model with the autoencoder of another one has that one's.
    """
    from modules.config import load_config
    from modules.presets import PRESETS
    from modules.saving.warm_start import donor_config, with_autoencoder_of

    config = load_config(args.config) if args.config else PRESETS[args.preset]
    init_from = getattr(args, "init_from", None)
    if init_from is not None and not args.config:
        donor = donor_config(init_from, offline=args.offline)
        if donor.preset == config.preset:
            config = dataclasses.replace(donor, training=config.training, loss_weights=config.loss_weights)
    if getattr(args, "autoencoder", None) is not None:
        config = with_autoencoder_of(config, args.autoencoder, offline=getattr(args, "offline", False))
    given = {name: value for name in SCHEDULE if (value := getattr(args, name, None)) is not None}
    return dataclasses.replace(config, training=dataclasses.replace(config.training, **given))
