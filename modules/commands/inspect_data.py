"""The commands of download_data.py that look at a folder of stories: is it whole, what is in it, what does it look like."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from modules.arguments import positive_int, whole_number

MAX_SHOWN = 20


def folder_flags(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("folder", type=Path, metavar="DIR", help="holds train/ and val/, or stories.jsonl itself")


def act_validate(args: argparse.Namespace) -> int:
    """Check every record and every picture of a folder. The exit code is 1 where there are faults."""
    from modules.dataset_report import faults, read_splits, remarks

    splits = read_splits(args.folder)
    for split in splits:
        print(f"{split.folder}: {len(split.stories):,} stories of {split.steps:,} steps, {len(split.pictures):,} pictures")
    for remark in remarks(splits):
        print(f"note: {remark}")
    found = faults(splits)
    for fault in found if args.all else found[:MAX_SHOWN]:
        print(f"fault: {fault}", file=sys.stderr)
    if len(found) > MAX_SHOWN and not args.all:
        print(f"and {len(found) - MAX_SHOWN:,} more: --all names them", file=sys.stderr)
    print(f"{len(found):,} faults" if found else "no fault")
    return 1 if found else 0


def validate_flags(parser: argparse.ArgumentParser) -> None:
    folder_flags(parser)
    parser.add_argument("--all", action="store_true", help=f"name all faults, not the first {MAX_SHOWN}")


def act_stats(args: argparse.Namespace) -> int:
    """Count stories, steps, words and near-duplicates of a folder, and draw histograms. Faults are left out of the count."""
    from modules.dataset_report import describe, draw_histograms, measure, read_splits
    from modules.files import write_whole

    splits = read_splits(args.folder)
    statistics = measure(splits)
    print("\n".join(describe(statistics)))
    for one, other in statistics.near_pictures[: args.pairs]:
        print(f"  {one} and {other}")
    if problems := sum(len(split.problems) for split in splits):
        print(f"note: {problems:,} faults, which validate names", file=sys.stderr)
    print(f"histograms: {write_whole(args.output, draw_histograms(statistics))}")
    return 0


def stats_flags(parser: argparse.ArgumentParser) -> None:
    folder_flags(parser)
    parser.add_argument("--output", type=Path, default=Path("stats.png"), metavar="FILE", help="where the histograms go (stats.png)")
    parser.add_argument("--pairs", type=whole_number, default=5, metavar="N", help="how many pairs of like pictures to name (5)")


def act_view(args: argparse.Namespace) -> int:
    """Write a page of a folder's stories to look at, one HTML file that works anywhere."""
    from modules.files import write_whole
    from modules.presentation.dataset_sheet import dataset_sheet

    page = dataset_sheet(args.folder, args.stories, args.seed, args.pages)
    print(write_whole(args.output, page.encode("utf-8")))
    return 0


def view_flags(parser: argparse.ArgumentParser) -> None:
    folder_flags(parser)
    parser.add_argument("--output", type=Path, default=Path("view.html"), metavar="FILE", help="where the page goes (view.html)")
    parser.add_argument("--stories", type=positive_int, default=24, metavar="N", help="stories of each split, spread over it (24)")
    parser.add_argument("--pages", type=positive_int, default=12, metavar="N", help="steps of a story at most (12)")
    parser.add_argument("--seed", type=whole_number, metavar="S", help="draw the stories at random from this seed")


COMMANDS = {"validate": (validate_flags, act_validate), "stats": (stats_flags, act_stats), "view": (view_flags, act_view)}
