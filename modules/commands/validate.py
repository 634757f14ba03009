"""`validate`: check every record and every picture of a data folder."""

from __future__ import annotations

import argparse
import sys

from modules.commands.data_shared import folder_argument, print_cut_texts
from modules.common.errors import one_line

MAX_SHOWN = 20


def add_flags(parser: argparse.ArgumentParser) -> None:
    folder_argument(parser)
    parser.add_argument("--all", action="store_true", help=f"list every fault, not only the first {MAX_SHOWN}")


def run(args: argparse.Namespace) -> int:
    """Print the faults; the exit code is 1 if there are any."""
    from modules.data.report import faults, read_splits, remarks

    splits = read_splits(args.folder)
    for split in splits:
        print(
            f"{split.folder}: {len(split.stories):,} stories of {split.steps:,} steps, {len(split.pictures):,} pictures"
        )
    for remark in remarks(splits):
        print(f"note: {one_line(remark)}")
    print_cut_texts(splits)
    found = faults(splits)
    for fault in found if args.all else found[:MAX_SHOWN]:
        print(f"fault: {one_line(fault)}", file=sys.stderr)
    if len(found) > MAX_SHOWN and not args.all:
        print(f"and {len(found) - MAX_SHOWN:,} more: --all lists them", file=sys.stderr)
    print(f"{len(found):,} faults" if found else "no fault")
    return 1 if found else 0
