"""`evaluate` and `train_judge`: figures, and who reads pictures."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING, Any

from modules.commands.shared import (
    DATA_HELP,
    checkpoint_flag,
    clip_flags,
    judge_flag,
    load_clip,
    load_judge,
    open_source,
    write_json,
)
from modules.common.arguments import a_path, positive_int, seed_number, whole_number
from modules.common.errors import UserError
from modules.common.files import check_writable

if TYPE_CHECKING:
    from modules.evaluation.metrics.inception import Inception
    from modules.pipeline import StoryPipeline
    from modules.story import StoryDataset


def evaluate_flags(parser: argparse.ArgumentParser) -> None:
    checkpoint_flag(parser)
    parser.add_argument("--data", default="storyworld", help=DATA_HELP)
    parser.add_argument("--num_stories", type=positive_int, default=200, help="held-out stories to score (default 200)")
    parser.add_argument(
        "--num_drawn", type=whole_number, default=50, help="of these, stories to draw; 0 for none (default 50)"
    )
    judge_flag(parser)
    clip_flags(parser)
    parser.add_argument(
        "--baselines", type=Path, help="a folder of trained models to set beside --ckpt, as ablate --sweep leaves it"
    )
    parser.add_argument(
        "--inception", type=Path, help="the file inception-2015-12-05.pt: distances of its features are FID"
    )
    parser.add_argument(
        "--generated", type=Path, help="compare the pictures of this folder with those of --reference, and stop"
    )
    parser.add_argument("--reference", type=Path)
    parser.add_argument(
        "--card", action="store_true", help="write the model card, README.md and samples.png, into --ckpt"
    )
    parser.add_argument("--json", type=a_path, help="where to write all figures")
    parser.add_argument("--seed", type=seed_number, default=0)
    parser.add_argument("--on_bad_record", choices=("error", "skip"), default="error")


def act_evaluate(args: argparse.Namespace) -> None:
    check_outputs(args)
    from modules.evaluation.report import Graders, evaluate
    from modules.evaluation.tables import print_report
    from modules.pipeline import StoryPipeline

    if args.generated or args.reference:
        return act_compare_folders(args)
    if args.card and not (args.num_drawn and args.data == "storyworld"):
        raise UserError("--card tells of pages drawn from the story world: leave --data and --num_drawn as they are")
    graders = None
    if args.num_drawn:
        judge = load_judge(args)
        graders = Graders(judge, load_extractor(args) or judge, load_clip(args) or judge)
    pipeline = StoryPipeline.from_pretrained(args.ckpt, offline=args.offline)
    if args.card and pipeline.model.prior is None:
        raise UserError("--card tells of codes, and this model has no storyboard: leave --card out")
    baselines = load_baselines(args.baselines, args.offline) if args.baselines else {}

    def held_out(pipeline: StoryPipeline) -> StoryDataset:
        return open_source(args.data, "val", pipeline.config, args.seed, args.num_stories, args.on_bad_record)

    def measure(pipeline: StoryPipeline) -> dict[str, Any]:
        source = held_out(pipeline)
        return evaluate(pipeline, source, min(args.num_stories, len(source)), args.seed, args.num_drawn, graders)

    report = measure(pipeline)
    if baselines:
        report["baselines"] = {name: measure(baseline) for name, baseline in baselines.items()}
    print_report(report)
    write_json(args.json, report)
    if args.card:
        from modules.presentation.model_card import write_card

        print(f"wrote {', '.join(str(path) for path in write_card(args.ckpt, pipeline, held_out(pipeline), report))}")


def check_outputs(args: argparse.Namespace) -> None:
    """Raise UserError where what is found out could not be written."""
    if args.json:
        check_writable(args.json)
    if args.card:
        check_writable(args.ckpt / "README.md")


def load_baselines(folder: Path, offline: bool) -> dict[str, StoryPipeline]:
    """The trained models in a folder, by name: all are read before anything is measured.

    Raises UserError where there is none.
    """
    from modules.pipeline import StoryPipeline

    folders = [path for path in sorted(folder.glob("*")) if (path / "model").is_dir()]
    models = {path.name: StoryPipeline.from_pretrained(path, offline=offline) for path in folders}
    if not models:
        raise UserError(
            f"--baselines {folder} holds no trained model: train some with ablate --sweep plan=predicted,prompt --output {folder}"
        )
    return models


def act_compare_folders(args: argparse.Namespace) -> None:
    from modules.evaluation.folders import compare_folders
    from modules.evaluation.tables import print_metrics

    if not (args.generated and args.reference):
        raise UserError("--generated and --reference go together: give both folders")
    figures = compare_folders(args.generated, args.reference, load_extractor(args) or load_judge(args), args.seed)
    print_metrics(f"{args.generated} against {args.reference}", figures)
    write_json(args.json, figures)


def load_extractor(args: argparse.Namespace) -> Inception | None:
    from modules.evaluation.metrics.inception import load_inception

    return load_inception(args.inception) if args.inception else None
