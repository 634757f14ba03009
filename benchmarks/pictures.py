"""Pictures of a trained model on held-out stories of the story world, by guidance, sampler, context and autoencoder.

    python benchmarks/pictures.py guidance --json results/guidance.json
    python benchmarks/pictures.py sampler --json results/sampler.json
    python benchmarks/pictures.py context --ckpt MODEL --ckpt OTHER_MODEL --json results/context.json
    python benchmarks/pictures.py autoencoder --ckpt MODEL --ckpt OTHER_MODEL --json results/autoencoder.json
    python benchmarks/pictures.py sheet --output results/sheet.png

All but the last print a Markdown table; intervals are 95 %, over stories. The stories are of the split "tune", not
those that `evaluate` reports, so that settings can be chosen by them. All rows have the same stories and the same
noise.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

from common import environment, settings
from picture_sheet import draw_sheet, sheet_flags
from picture_studies import (
    AUTOENCODER_COLUMNS,
    CONTEXT_COLUMNS,
    DRAWING_COLUMNS,
    Guidance,
    Rows,
    Sampler,
    study_autoencoder,
    study_context,
    study_drawing,
)

from modules.commands.cli import execute
from modules.commands.shared import judge_flag, num_stories_flag, seed_flag, shipped_path, write_json
from modules.common.arguments import Parser, a_path, add_dataclass_flags, normalise_flag
from modules.common.errors import UserError
from modules.common.files import check_writable
from modules.common.shipped import WEIGHTS
from modules.evaluation.metrics.statistics import to_dicts
from modules.evaluation.tables import markdown_table
from modules.generation.settings import GenerationSettings

SAMPLERS = (
    "ddim:20",
    "ddim:10",
    "ddim:6",
    "dpmsolver++:12",
    "dpmsolver++:8",
    "dpmsolver++:6",
    "dpmsolver++:4",
    "unipc:8",
    "unipc:4",
)
GRID = ("2", "4", "2:0.5:1", "3:0.5:1", "4:0.5:1", "6:0.5:1", "4:0.3:0.95", "4:0.1:0.9", "4:0.7:1")


class Study(NamedTuple):
    """A study, the first heading of its table and the headings of the metrics shown, by name."""

    measure: Callable[[argparse.Namespace], Rows]
    title: str
    columns: Mapping[str, str]


STUDIES = {
    "guidance": Study(study_drawing, "guidance", DRAWING_COLUMNS),
    "sampler": Study(study_drawing, "scheduler and steps", DRAWING_COLUMNS),
    "context": Study(study_context, "the decoders read", CONTEXT_COLUMNS),
    "autoencoder": Study(study_autoencoder, "autoencoder", AUTOENCODER_COLUMNS),
}


def run_study(args: argparse.Namespace) -> int:
    """Measure row after row, write each to the JSON file as soon as it is known, and print the table."""
    study, rows = STUDIES[args.study], dict[str, dict[str, Any]]()
    if args.json:
        check_writable(args.json)
    report = {"study": args.study, "environment": environment(), "settings": settings(args), "rows": rows}
    for name, metrics in study.measure(args):
        rows[name] = to_dicts(metrics)
        write_json(args.json, report)
    print(markdown_table(study.title, rows, study.columns))
    return 0


def run_sheet(args: argparse.Namespace) -> int:
    """Draw the contact sheet of one model and write it."""
    check_writable(args.output)
    if len(args.ckpt or ()) > 1:
        raise UserError("a sheet is of one model: give --ckpt once")
    print(f"wrote {draw_sheet(args)}")
    return 0


def make_flags() -> argparse.ArgumentParser:
    parser = Parser(description=__doc__.splitlines()[0])
    commands = parser.add_subparsers(dest="study", required=True, metavar="STUDY")
    guidance = add_study(commands, "guidance", "compare guidance scales, and intervals in which guidance applies")
    grid_flag(guidance, Guidance.parse, GRID, "SCALE[:LOW:HIGH]", "scales, everywhere or within shares of the noise")
    add_dataclass_flags(guidance, GenerationSettings, only=("num_inference_steps", "scheduler", "precision"))
    sampler = add_study(commands, "sampler", "compare schedulers and numbers of denoising steps")
    grid_flag(sampler, Sampler.parse, SAMPLERS, "SCHEDULER:STEPS", "schedulers with their steps")
    add_dataclass_flags(sampler, GenerationSettings, only=("guidance_scale", "guidance_interval", "precision"))
    context = add_study(commands, "context", "compare what the decoders read of the plan, in one or several models", 40)
    sampling_flags(context)
    add_study(commands, "autoencoder", "measure the reconstructions of one or several models", 100)
    sheet = commands.add_parser("sheet", help="draw a contact sheet of pages, to look at")
    shared_flags(sheet, 25, run_sheet)
    sampling_flags(sheet)
    sheet_flags(sheet)
    return parser


def add_study(commands: Any, name: str, summary: str, num_stories: int = 25) -> argparse.ArgumentParser:
    """Add the parser of a study that prints a table."""
    parser = commands.add_parser(name, help=summary)
    shared_flags(parser, num_stories, run_study)
    judge_flag(parser)
    parser.add_argument("--json", type=a_path, metavar="FILE", help="write all metrics to this file")
    return parser


def grid_flag(
    parser: argparse.ArgumentParser, parse: Callable[[str], Any], default: Sequence[str], form: str, what: str
) -> None:
    """Add the rows of a study of the sampler's settings."""
    shown = " ".join(default)
    parser.add_argument(
        "--grid",
        type=parse,
        nargs="+",
        default=[parse(text) for text in default],
        metavar=form,
        help=f"{what} to compare (default {shown})",
    )
    parser.add_argument("--whole_stories", action="store_true", help="grade also whole stories from their prompts")


def shared_flags(parser: argparse.ArgumentParser, num_stories: int, run: Callable[[argparse.Namespace], int]) -> None:
    """Add the flags that all commands have."""
    parser.add_argument(
        "--ckpt",
        type=shipped_path,
        action="append",
        metavar="PATH",
        help=f"the trained model; repeat it to compare several (default {WEIGHTS})",
    )
    parser.add_argument("--split", default="tune", help="split of the story world (default tune; evaluate reports val)")
    num_stories_flag(parser, num_stories, "number of held-out stories")
    seed_flag(parser, "of the stories, of all sampling and of the intervals")
    parser.set_defaults(run=run)


def sampling_flags(parser: argparse.ArgumentParser) -> None:
    """Add the settings of the image sampler."""
    names = ("guidance_scale", "guidance_interval", "num_inference_steps", "precision")
    add_dataclass_flags(parser, GenerationSettings, only=names)


def main(words: list[str] | None = None) -> int:
    args = make_flags().parse_args([normalise_flag(word) for word in (sys.argv[1:] if words is None else words)])
    args.ckpt = args.ckpt or [shipped_path(WEIGHTS)]
    return execute(args.run, args)


if __name__ == "__main__":
    sys.exit(main())
