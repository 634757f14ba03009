"""`stats`: count and plot stories, steps, words and near-duplicates of a data folder."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from modules.commands.data_shared import folder_argument, print_cut_texts
from modules.commands.shared import overwrite_flag
from modules.common.arguments import a_path, integer
from modules.common.errors import one_line


def add_flags(parser: argparse.ArgumentParser) -> None:
    folder_argument(parser)
    parser.add_argument(
        "--output",
        type=a_path,
        default=Path("stats.png"),
        metavar="FILE",
        help="PNG file for the histograms (default stats.png)",
    )
    parser.add_argument(
        "--pairs",
        type=integer(0),
        default=5,
        metavar="N",
        help="number of pairs of nearly equal pictures to list (default 5)",
    )
    overwrite_flag(parser)


def run(args: argparse.Namespace) -> int:
    """Print the statistics and write the histograms; damaged records are left out."""
    from modules.common.files import write_whole
    from modules.common.ownership import check_report
    from modules.data.report import describe, draw_histograms, measure, read_splits

    check_report(args.output, args.overwrite)
    splits = read_splits(args.folder)
    statistics = measure(splits)
    print("\n".join(map(one_line, describe(statistics))))
    print_cut_texts(splits)
    for one, other in statistics.near_pictures[: args.pairs]:
        print(f"  {one_line(one)} and {one_line(other)}")
    if problems := sum(len(split.problems) for split in splits):
        print(f"note: {problems:,} faults, which validate lists", file=sys.stderr)
    print(f"histograms: {write_whole(args.output, draw_histograms(statistics))}")
    return 0
