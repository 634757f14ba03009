"""`evaluate`: measure a model on held-out stories."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from modules.commands.shared import (
    bad_record_flag,
    check_json,
    checkpoint_flag,
    clip_flags,
    data_flag,
    json_flags,
    judge_flag,
    load_clip,
    load_judge,
    num_stories_flag,
    open_dataset,
    seed_flag,
    write_json,
)
from modules.common.arguments import a_path, whole_number
from modules.common.errors import UserError

if TYPE_CHECKING:
    from modules.evaluation.metrics.inception import Inception
    from modules.evaluation.metrics.pages import Graders
    from modules.generation.pipeline import StoryPipeline
    from modules.story import StoryDataset


def add_flags(parser: argparse.ArgumentParser) -> None:
    checkpoint_flag(parser)
    data_flag(parser)
    num_stories_flag(parser, 200, "number of held-out stories")
    parser.add_argument(
        "--num_drawn",
        type=whole_number,
        default=50,
        metavar="N",
        help="of these, how many to generate pictures for, the slow part; 0 for none (default 50)",
    )
    parser.add_argument(
        "--num_steered",
        type=whole_number,
        default=0,
        metavar="N",
        help="of these, for how many to edit, replay, branch and search for a story of the prompt (default 0)",
    )
    judge_flag(parser)
    clip_flags(parser)
    parser.add_argument(
        "--baselines",
        type=a_path,
        metavar="FOLDER",
        help="a folder of trained models to measure and report beside --ckpt, as written by ablate --sweep",
    )
    json_flags(parser, "all results")
    parser.add_argument(
        "--card", action="store_true", help="write the model card, README.md and samples.png, into the folder --ckpt"
    )
    comparison_flags(parser)
    seed_flag(parser, "of the story world's stories, of all sampling and of the confidence intervals")
    bad_record_flag(parser)


def comparison_flags(parser: argparse.ArgumentParser) -> None:
    """Add the flags that compare two folders of pictures."""
    parser.add_argument(
        "--inception",
        type=a_path,
        metavar="FILE",
        help="the Inception network's file, inception-2015-12-05.pt, to report FID; without it picture distances"
        " use the judge's features",
    )
    parser.add_argument(
        "--generated",
        type=a_path,
        metavar="FOLDER",
        help="only compare two folders of pictures: this one with --reference, by FD and KID; no story model is loaded",
    )
    parser.add_argument(
        "--reference", type=a_path, metavar="FOLDER", help="the true pictures to compare --generated with"
    )


def run(args: argparse.Namespace) -> int:
    if args.generated or args.reference:
        return compare_pictures(args)
    check_outputs(args)
    from modules.evaluation.metrics.pages import Graders
    from modules.evaluation.tables import print_report
    from modules.generation.pipeline import StoryPipeline

    graders = None
    if args.num_drawn or args.num_steered:
        judge = load_judge(args)
        graders = Graders(judge, load_extractor(args) or judge, load_clip(args) or judge)
    pipeline = StoryPipeline.from_pretrained(args.ckpt, offline=args.offline)
    if args.card and not pipeline.model.has_codes:
        raise UserError("--card describes the codebook, and this model has no storyboard: leave --card out")
    baselines = load_baselines(args.baselines, args.offline) if args.baselines else {}
    report: dict[str, Any] = {}
    with kept_if_stopped(report, args.json):
        measure(pipeline, args, graders, report, num_models=1 + len(baselines))
        if baselines:
            report["baselines"] = {name: measure(baseline, args, graders, {}) for name, baseline in baselines.items()}
    print_report(report)
    write_json(args.json, report)
    if args.card:
        from modules.presentation.model_card import write_card

        files = write_card(args.ckpt, pipeline, open_held_out(pipeline, args), report)
        print(f"wrote {', '.join(str(path) for path in files)}")
    return 0


@contextmanager
def kept_if_stopped(report: dict[str, Any], path: Path | None) -> Iterator[None]:
    """If the measuring inside is stopped, print and write what `report` has by then, marked as unfinished."""
    from modules.evaluation.tables import print_report

    try:
        yield
    except KeyboardInterrupt:
        if "bound" in report:
            report["unfinished"] = True
            print_report(report)
            write_json(path, report)
            kept = f" and in {path}" if path else ""
            print(f"note: stopped; what was measured by then is above{kept}", file=sys.stderr)
        raise


def measure(
    pipeline: StoryPipeline,
    args: argparse.Namespace,
    graders: Graders | None,
    report: dict[str, Any],
    num_models: int = 0,
) -> dict[str, Any]:
    """Evaluate one model on the held-out stories, and fill `report` part by part.

    With `num_models`, it is said before how long so many of them will take.
    """
    from modules.common.progress import announce
    from modules.evaluation.forecast import forecast_evaluation
    from modules.evaluation.report import evaluate

    dataset = open_held_out(pipeline, args)
    count = min(args.num_stories, len(dataset))
    if num_models and (seconds := forecast_evaluation(pipeline, dataset, count, args.num_drawn, args.seed)):
        announce(num_models * seconds, ", not counting --num_steered" if args.num_steered else "")
    return evaluate(pipeline, dataset, count, args.seed, args.num_drawn, graders, args.num_steered, report)


def open_held_out(pipeline: StoryPipeline, args: argparse.Namespace) -> StoryDataset:
    """Open the held-out stories, with pictures of the model's size."""
    return open_dataset(args.data, "val", pipeline.config, args.seed, args.num_stories, args.on_bad_record)


def check_outputs(args: argparse.Namespace) -> None:
    """Raise UserError if the results could not be written, or if --card lacks what it shows."""
    if args.card and not (args.num_drawn and args.data == "storyworld"):
        raise UserError("--card requires pages drawn from the story world: leave --data and --num_drawn as they are")
    check_json(args)
    if args.card:
        from modules.presentation.model_card import check_card

        check_card(args.ckpt)


def load_baselines(folder: Path, offline: bool) -> dict[str, StoryPipeline]:
    """Load the trained models in a folder, by name.

    Raises UserError if there are none.
    """
    from modules.generation.pipeline import StoryPipeline

    folders = [path for path in sorted(folder.glob("*")) if (path / "model").is_dir()]
    models = {path.name: StoryPipeline.from_pretrained(path, offline=offline) for path in folders}
    if not models:
        raise UserError(
            f"--baselines {folder} contains no trained model: train some with"
            f" ablate --sweep plan=predicted,prompt --output {folder}"
        )
    return models


def compare_pictures(args: argparse.Namespace) -> int:
    """Compare the pictures of `--generated` with those of `--reference`."""
    from modules.evaluation.folders import compare_folders
    from modules.evaluation.tables import print_metrics

    if not (args.generated and args.reference):
        raise UserError("--generated and --reference belong together: give both folders")
    if args.card or args.baselines:
        raise UserError(f"--generated compares pictures alone: leave out {'--card' if args.card else '--baselines'}")
    check_json(args)
    results = compare_folders(args.generated, args.reference, load_extractor(args) or load_judge(args), args.seed)
    print_metrics(f"{args.generated} against {args.reference}", results)
    write_json(args.json, results)
    return 0


def load_extractor(args: argparse.Namespace) -> Inception | None:
    """Load the network that `--inception` names, if any."""
    from modules.evaluation.metrics.inception import load_inception

    return load_inception(args.inception) if args.inception else None
