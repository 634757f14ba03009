"""`ablate`: compare sampling settings on one model, or models trained with different values of a setting."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING

from modules.commands.shared import (
    checkpoint_flag,
    clip_flags,
    data_flag,
    judge_flag,
    load_clip,
    load_judge,
    open_dataset,
    open_held_out,
    output_flag,
    overwrite_flag,
    seed_flag,
)
from modules.commands.train import config_flags, resolve_config
from modules.common.arguments import add_dataclass_flags, from_flags, positive_int
from modules.common.files import check_writable
from modules.common.ownership import check_report
from modules.training.settings import TrainSettings

if TYPE_CHECKING:
    from modules.config import StoryConfig
    from modules.generation.pipeline import StoryPipeline
    from modules.story import StoryDataset


def add_flags(parser: argparse.ArgumentParser) -> None:
    checkpoint_flag(parser)
    data_flag(parser)
    grid_flags(parser)
    sweep_flags(parser)
    judge_flag(parser)
    clip_flags(parser)
    seed_flag(parser, "of the story world's stories, of sampling and of --sweep's trainings")
    output_flag(parser, "results", "ablation.csv and ablation.png, or for sweep.csv, sweep.png and trained models")
    overwrite_flag(parser)


def grid_flags(parser: argparse.ArgumentParser) -> None:
    """Add the sampling settings to compare; all combinations are scored."""
    parser.add_argument(
        "--steps", default="10,20,50", metavar="N,N", help="numbers of denoising steps to compare (default 10,20,50)"
    )
    parser.add_argument(
        "--strength",
        default="0.02,0.05,0.1,1.0",
        metavar="X,X",
        help="shares of the denoising steps to run, starting from the page before, above 0 and up to 1 (default"
        " 0.02,0.05,0.1,1.0)",
    )
    parser.add_argument(
        "--cfg", default="1,3,5,7", metavar="X,X", help="classifier-free guidance scales to compare (default 1,3,5,7)"
    )
    parser.add_argument(
        "--num_examples",
        type=positive_int,
        default=8,
        metavar="N",
        help="number of held-out stories, of which one page each is drawn in every combination (default 8)",
    )


def sweep_flags(parser: argparse.ArgumentParser) -> None:
    """Add the flags of trainings with different values of a setting."""
    group = parser.add_argument_group("trainings of --sweep")
    group.add_argument(
        "--sweep",
        action="append",
        default=[],
        metavar="SETTING=A,B",
        help="train and score a model for each value of a setting of the config, such as"
        " storyboard.codebook_size=256,512, instead of comparing sampling settings; repeat it for all combinations",
    )
    config_flags(group, "the model to vary")
    for name, meaning in (
        ("max_steps", "updates of the joint phase"),
        ("batch_size", "stories per batch"),
        ("num_stories", "training stories to draw if --data is storyworld"),
    ):
        group.add_argument(
            f"--{name}", type=positive_int, metavar="N", help=f"{meaning}, in each training (default: the preset's)"
        )
    add_dataclass_flags(group, TrainSettings, only=("mixed_precision", "autoencoder"))
    group.add_argument(
        "--num_evaluated",
        type=positive_int,
        default=40,
        metavar="N",
        help="number of held-out stories to score each model on (default 40)",
    )


def run(args: argparse.Namespace) -> int:
    return sweep_trainings(args) if args.sweep else compare_sampling(args)


def compare_sampling(args: argparse.Namespace) -> int:
    """Draw and score the next page with every combination of the sampling settings."""
    from modules.evaluation.ablation import AblationGrid, run_ablation
    from modules.generation.pipeline import StoryPipeline
    from modules.presentation.plots.heat_map import write_heat_map

    grid = AblationGrid.parse(args.steps, args.strength, args.cfg, args.num_examples)
    table = args.output / "ablation.csv"
    check_writable(table)
    check_report(table.with_suffix(".png"), args.overwrite)
    scorer = load_clip(args) or load_judge(args)
    pipeline = StoryPipeline.from_pretrained(args.ckpt, offline=args.offline)
    dataset = open_dataset(args.data, "val", pipeline.config, args.seed, 4 * args.num_examples)
    run_ablation(pipeline, dataset, grid, scorer, table, args.seed)
    print(f"wrote {table}, {write_heat_map(table, table.with_suffix('.png'))}")
    return 0


def sweep_trainings(args: argparse.Namespace) -> int:
    """Train and score a model for every combination of the values of `--sweep`."""
    from modules.common.precision import resolve_precision
    from modules.evaluation.report import score_quickly
    from modules.evaluation.sweep import Sweep, run_sweep
    from modules.presentation.plots.heat_map import write_sweep_plot
    from modules.training.codebook_size import with_codebook_size

    table = args.output / "sweep.csv"
    check_writable(table)
    check_report(table.with_suffix(".png"), args.overwrite)
    config, sweeps = resolve_config(args), [Sweep.parse(text) for text in args.sweep]
    precision = resolve_precision(args.mixed_precision)
    settings = from_flags(TrainSettings, args, output_dir=args.output, mixed_precision=precision)

    def open_data(config: StoryConfig) -> tuple[StoryDataset, StoryDataset]:
        dataset = open_dataset(args.data, "train", config, args.seed, config.training.num_stories)
        return dataset, open_held_out(args.data, dataset, config, args.seed, "error")

    def score(pipeline: StoryPipeline) -> dict[str, float | None]:
        dataset = open_dataset(args.data, "val", pipeline.config, args.seed, args.num_evaluated)
        return score_quickly(pipeline, dataset, min(args.num_evaluated, len(dataset)), args.seed)

    open_dataset(args.data, "val", config, args.seed, args.num_evaluated)  # Before hours of training.
    config = with_codebook_size(config, settings, open_data(config)[0])
    run_sweep(sweeps, config, settings, open_data, score, table, identity={"num_evaluated": args.num_evaluated})
    print(f"wrote {table}, {write_sweep_plot(table, table.with_suffix('.png'), [sweep.setting for sweep in sweeps])}")
    return 0
