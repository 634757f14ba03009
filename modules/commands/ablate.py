"""`ablate`: a grid of inference settings, or models trained with different values of a setting."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from modules.commands.shared import (
    DATA_HELP,
    checkpoint_flag,
    clip_flags,
    judge_flag,
    load_clip,
    load_judge,
    open_held_out,
    open_source,
)
from modules.commands.train import resolve_config
from modules.common.arguments import a_path, positive_int, seed_number
from modules.common.files import check_writable
from modules.training.settings import PRECISIONS


def ablate_flags(parser: argparse.ArgumentParser) -> None:
    from modules.presets import PRESETS

    checkpoint_flag(parser)
    parser.add_argument("--data", default="storyworld", help=DATA_HELP)
    parser.add_argument("--steps", default="10,20,50", help="numbers of inference steps (default 10,20,50)")
    parser.add_argument(
        "--strength",
        default="0.02,0.05,0.1,1.0",
        help="how far from the page before, up to 1 (default 0.02,0.05,0.1,1.0)",
    )
    parser.add_argument("--cfg", default="1,3,5,7", help="guidance scales (default 1,3,5,7)")
    parser.add_argument("--num_examples", type=positive_int, default=8, help="held-out stories (default 8)")
    parser.add_argument(
        "--sweep", action="append", default=[], metavar="SETTING=A,B", help="train a model for each value of a setting"
    )
    parser.add_argument("--preset", choices=sorted(PRESETS), default="storyworld", help="what --sweep trains")
    parser.add_argument("--config", type=Path, help="a config JSON in place of a preset")
    for name in ("max_steps", "batch_size", "num_stories"):
        parser.add_argument(f"--{name}", type=positive_int, help="of each training of --sweep")
    parser.add_argument("--mixed_precision", choices=PRECISIONS, default="no", help="of each training of --sweep")
    parser.add_argument("--autoencoder", type=Path, help="a trained autoencoder for --sweep")
    parser.add_argument(
        "--num_evaluated", type=positive_int, default=40, help="held-out stories to score a swept model by (default 40)"
    )
    judge_flag(parser)
    clip_flags(parser)
    parser.add_argument("--seed", type=seed_number, default=0)
    parser.add_argument(
        "--output",
        type=a_path,
        default=Path("results"),
        help="folder for ablation.csv and ablation.png (default results)",
    )


def act_ablate(args: argparse.Namespace) -> int:
    if args.sweep:
        return act_sweep(args)
    from modules.evaluation.ablation import AblationGrid, run_ablation
    from modules.pipeline import StoryPipeline
    from modules.presentation.plots.heat_map import write_heat_map

    grid = AblationGrid.parse(args.steps, args.strength, args.cfg, args.num_examples)
    check_writable(args.output / "ablation.csv")
    scorer = load_clip(args) or load_judge(args)
    pipeline = StoryPipeline.from_pretrained(args.ckpt, offline=args.offline)
    source = open_source(args.data, "val", pipeline.config, args.seed, 4 * args.num_examples)
    table = args.output / "ablation.csv"
    run_ablation(pipeline, source, grid, scorer, table, args.seed)
    print(f"wrote {table}, {write_heat_map(table, table.with_suffix('.png'))}")
    return 0


def act_sweep(args: argparse.Namespace) -> int:
    from modules.common.interrupts import Interrupted
    from modules.evaluation.report import score_quickly
    from modules.evaluation.sweep import Sweep, run_sweep
    from modules.presentation.plots.heat_map import write_sweep_plot
    from modules.training.processes import resolve_precision
    from modules.training.trainer import TrainSettings

    args.learning_rate = None
    check_writable(args.output / "sweep.csv")
    config, sweeps = resolve_config(args), [Sweep.parse(text) for text in args.sweep]
    run_args = TrainSettings(
        args.output,
        mixed_precision=resolve_precision(args.mixed_precision),
        seed=args.seed,
        autoencoder=args.autoencoder,
        offline=args.offline,
    )

    def open_data(config):
        source = open_source(args.data, "train", config, args.seed, config.training.num_stories)
        return source, open_held_out(args.data, source, config, args.seed, "error")

    def score(pipeline):
        source = open_source(args.data, "val", pipeline.config, args.seed, args.num_evaluated)
        return score_quickly(pipeline, source, min(args.num_evaluated, len(source)), args.seed)

    table = args.output / "sweep.csv"
    try:
        run_sweep(sweeps, config, run_args, open_data, score, table, identity={"num_evaluated": args.num_evaluated})
    except Interrupted as stop:
        print(stop, file=sys.stderr)
        return stop.code
    print(f"wrote {table}, {write_sweep_plot(table, table.with_suffix('.png'), [sweep.setting for sweep in sweeps])}")
    return 0
