"""`train`: a model on a folder of stories or on the built-in story world."""

from __future__ import annotations

import argparse
import dataclasses
import json
import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from modules.commands.shared import DATA_HELP, open_held_out, open_source
from modules.common.arguments import a_path, positive_float, positive_int, seed_number, whole_number
from modules.common.errors import UserError
from modules.training.settings import PRECISIONS

if TYPE_CHECKING:
    from modules.config import StoryConfig


def add_flags(parser: argparse.ArgumentParser) -> None:
    from modules.presets import PRESETS
    from modules.training.settings import LOG_WITH

    parser.add_argument(
        "--preset", choices=sorted(PRESETS), default="storyworld", help="which model (default storyworld)"
    )
    parser.add_argument(
        "--config", type=Path, help="a config JSON in place of a preset; --dry_run prints one to start from"
    )
    parser.add_argument("--data", default="storyworld", help=DATA_HELP)
    parser.add_argument(
        "--output_dir",
        type=a_path,
        default=Path("checkpoints/run"),
        help="the run's folder; the same command resumes it",
    )
    stages = "autoencoder,opening,joint,consolidation,illustration,planning"
    parser.add_argument("--stages", default=stages, help="which phases to run, in order (default all)")
    parser.add_argument(
        "--autoencoder", type=Path, help="a checkpoint whose trained autoencoder is used in place of training one"
    )
    parser.add_argument(
        "--max_steps", type=positive_int, help="updates of the joint phase; the other phases scale with it"
    )
    parser.add_argument("--batch_size", type=positive_int, help="stories a process and a micro-batch")
    parser.add_argument(
        "--gradient_accumulation_steps", type=positive_int, default=1, help="micro-batches an update (default 1)"
    )
    parser.add_argument("--learning_rate", type=positive_float, help="peak learning rate of the joint phase")
    parser.add_argument(
        "--mixed_precision",
        choices=PRECISIONS,
        help="auto: bf16 where this machine computes it fast, else no (default no, or what the configuration of accelerate launch says)",
    )
    parser.add_argument("--num_stories", type=positive_int, help="stories drawn when --data is storyworld")
    parser.add_argument(
        "--save_every", type=positive_int, default=200, help="updates between checkpoints (default 200)"
    )
    parser.add_argument(
        "--sample_every", type=positive_int, default=200, help="updates between samples in TensorBoard (default 200)"
    )
    parser.add_argument(
        "--log_every", type=positive_int, default=10, help="updates between lines in TensorBoard (default 10)"
    )
    parser.add_argument(
        "--log_with", choices=LOG_WITH, default="tensorboard", help="where curves go (default tensorboard)"
    )
    parser.add_argument("--keep_last", type=whole_number, default=2, help="checkpoints to keep, 0 for all (default 2)")
    parser.add_argument(
        "--cache", type=Path, help="what precompute wrote for these stories, this preset and this autoencoder"
    )
    parser.add_argument(
        "--num_workers", type=whole_number, default=2, help="threads that read pictures ahead (default 2)"
    )
    parser.add_argument(
        "--on_bad_record", choices=("error", "skip"), default="error", help="what to do with a broken story"
    )
    parser.add_argument("--offline", action="store_true", help="take Hub ids from the local cache only")
    parser.add_argument("--seed", type=seed_number, default=0, help="random seed (default 0)")
    parser.add_argument(
        "--dry_run", action="store_true", help="print the resolved config, parameters and memory, and stop"
    )


def run(args: argparse.Namespace) -> int:
    from accelerate import PartialState

    from modules.common.interrupts import Interrupted
    from modules.training.dry_run import plan
    from modules.training.processes import resolve_precision
    from modules.training.trainer import PHASE_NAMES, TrainSettings, train

    stages = tuple(name.strip() for name in args.stages.split(",") if name.strip())
    if not stages or [name for name in PHASE_NAMES if name in stages] != list(stages):
        raise UserError(f"--stages must be some of {','.join(PHASE_NAMES)}, in this order, got {args.stages!r}")
    config = resolve_config(args)
    precision = resolve_precision(args.mixed_precision or os.environ.get("ACCELERATE_MIXED_PRECISION", "no"))
    run_args = TrainSettings(
        output_dir=args.output_dir,
        mixed_precision=precision,
        gradient_accumulation_steps=args.gradient_accumulation_steps,
        save_every=args.save_every,
        log_every=args.log_every,
        sample_every=args.sample_every,
        keep_last=args.keep_last,
        seed=args.seed,
        stages=stages,
        autoencoder=args.autoencoder,
        log_with=args.log_with,
        num_workers=args.num_workers,
        cache=args.cache,
        offline=args.offline,
    )
    if args.dry_run:
        print(json.dumps(plan(config, run_args), indent=2, default=str))
        return 0
    source = open_source(args.data, "train", config, args.seed, config.training.num_stories, args.on_bad_record)
    held_out = open_held_out(args.data, source, config, args.seed, args.on_bad_record)
    try:
        folder = train(config, run_args, source, held_out)
    except Interrupted as stop:
        PartialState().on_main_process(print)(stop, file=sys.stderr)
        return stop.code
    PartialState().on_main_process(print)(f"trained; generate with --ckpt {folder.parent}")
    return 0


def resolve_config(args: argparse.Namespace) -> StoryConfig:
    """The preset or config file, with the flags' values in it."""
    from modules.config import load_config
    from modules.presets import PRESETS

    config = load_config(args.config) if args.config else PRESETS[args.preset]
    names = ("max_steps", "batch_size", "learning_rate", "num_stories")
    given = {name: getattr(args, name) for name in names if getattr(args, name) is not None}
    return dataclasses.replace(config, training=dataclasses.replace(config.training, **given))
