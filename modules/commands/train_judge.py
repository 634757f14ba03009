"""`train_judge`: train the attribute classifier of the story world."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from modules.common.arguments import a_path, positive_int, seed_number

if TYPE_CHECKING:
    pass


def train_judge_flags(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--output",
        type=a_path,
        default=Path("checkpoints/judge"),
        help="the judge's folder (default checkpoints/judge)",
    )
    parser.add_argument("--num_stories", type=positive_int, default=4000, help="stories it learns from (default 4000)")
    parser.add_argument("--max_steps", type=positive_int, default=2000, help="updates of 128 pages (default 2000)")
    parser.add_argument("--mixed_precision", choices=("auto", "no", "bf16"), default="auto")
    parser.add_argument("--seed", type=seed_number, default=0)


def act_train_judge(args: argparse.Namespace) -> int:
    from modules.common.interrupts import Interrupted
    from modules.evaluation.judge.judge import JudgeConfig
    from modules.evaluation.judge.train_judge import score_judge, train_judge
    from modules.evaluation.tables import print_metrics
    from modules.training.processes import resolve_precision

    bf16, unfinished = resolve_precision(args.mixed_precision) == "bf16", args.output / "unfinished.safetensors"
    try:
        judge = train_judge(JudgeConfig(), args.num_stories, args.max_steps, args.seed, bf16, unfinished)
    except Interrupted as stop:
        print(stop, file=sys.stderr)
        return stop.code
    judge.save(args.output)
    print_metrics("the judge on 200 held-out stories' real renders", score_judge(judge))
    return 0
