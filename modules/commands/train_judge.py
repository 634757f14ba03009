"""`train_judge`: train the judge, an attribute classifier for story-world pictures."""

from __future__ import annotations

import argparse

from modules.commands.shared import num_stories_flag, output_flag, seed_flag
from modules.common.arguments import positive_int
from modules.common.folder_lock import FolderLock
from modules.common.ownership import OwnFiles
from modules.common.shipped import JUDGE


def add_flags(parser: argparse.ArgumentParser) -> None:
    output_flag(parser, JUDGE, "the judge; the same command resumes a stopped training")
    num_stories_flag(parser, 4000, "number of story-world stories to train on")
    parser.add_argument(
        "--max_steps",
        type=positive_int,
        default=2000,
        metavar="N",
        help="number of updates, on 128 pictures each (default 2000)",
    )
    parser.add_argument(
        "--mixed_precision",
        choices=("auto", "no", "bf16"),
        default="auto",
        help="no: float32; bf16: bfloat16; auto: bfloat16 where this machine computes it fast (default auto)",
    )
    seed_flag(parser, "of the stories, the initial weights and the order of the pictures")


def run(args: argparse.Namespace) -> int:
    from modules.common.precision import resolve_precision
    from modules.evaluation.judge.judge import JudgeConfig
    from modules.evaluation.judge.train_judge import score_judge, train_judge
    from modules.evaluation.tables import print_metrics

    bf16, unfinished = resolve_precision(args.mixed_precision) == "bf16", args.output / "unfinished.safetensors"
    with FolderLock(args.output):
        OwnFiles(args.output).check(("config.json", "model.safetensors"))
        judge = train_judge(JudgeConfig(), args.num_stories, args.max_steps, args.seed, bf16, unfinished)
        judge.save(args.output)
    print_metrics("the judge on 200 held-out stories' true pictures", score_judge(judge))
    return 0
