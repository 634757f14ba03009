"""The commands of download_data.py on a folder of stories: is it whole, what is in it, what does it look like; pack it
into shards.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from modules.common.arguments import positive_int, whole_number

MAX_SHOWN, MIB = 20, 1 << 20


def folder_flags(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("folder", type=Path, metavar="DIR", help="holds train/ and val/, or stories.jsonl itself")


def act_validate(args: argparse.Namespace) -> int:
    """Check every record and every picture of a folder. The exit code is 1 where there are faults."""
    from modules.data.report import faults, read_splits, remarks

    splits = read_splits(args.folder)
    for split in splits:
        print(
            f"{split.folder}: {len(split.stories):,} stories of {split.steps:,} steps, {len(split.pictures):,} pictures"
        )
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
    """Count stories, steps, words and near-duplicates of a folder, and draw histograms.

    Faults are left out of the count.
    """
    from modules.common.files import write_whole
    from modules.data.report import describe, draw_histograms, measure, read_splits

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
    parser.add_argument(
        "--output", type=Path, default=Path("stats.png"), metavar="FILE", help="where the histograms go (stats.png)"
    )
    parser.add_argument(
        "--pairs", type=whole_number, default=5, metavar="N", help="how many pairs of like pictures to name (5)"
    )


def act_view(args: argparse.Namespace) -> int:
    """Write a page of a folder's stories to look at, one HTML file that works anywhere."""
    from modules.common.files import write_whole
    from modules.presentation.dataset_sheet import dataset_sheet

    page = dataset_sheet(args.folder, args.stories, args.seed, args.pages)
    print(write_whole(args.output, page.encode("utf-8")))
    return 0


def view_flags(parser: argparse.ArgumentParser) -> None:
    folder_flags(parser)
    parser.add_argument(
        "--output", type=Path, default=Path("view.html"), metavar="FILE", help="where the page goes (view.html)"
    )
    parser.add_argument(
        "--stories", type=positive_int, default=24, metavar="N", help="stories of each split, spread over it (24)"
    )
    parser.add_argument("--pages", type=positive_int, default=12, metavar="N", help="steps of a story at most (12)")
    parser.add_argument("--seed", type=whole_number, metavar="S", help="draw the stories at random from this seed")


def act_pack(args: argparse.Namespace) -> int:
    """Pack a folder into Parquet shards with the pictures inside. `train --data` and the datasets library read them."""
    from modules.data.pack import pack, staging_folder

    output = args.output or args.folder.resolve().with_name(f"{args.folder.resolve().name}-shards")
    args.staging = staging_folder(output.resolve())
    for split, names in pack(args.folder, output, args.shard_size * MIB, args.overwrite).items():
        print(f"{output}: {split}, {sum(shard.stories for shard in names):,} stories in {len(names):,} shards")
    return 0


def pack_flags(parser: argparse.ArgumentParser) -> None:
    folder_flags(parser)
    parser.add_argument("--output", type=Path, metavar="FOLDER", help="where the shards go (DIR-shards)")
    parser.add_argument(
        "--shard_size", type=positive_int, default=256, metavar="MB", help="about how large a shard is (256)"
    )
    parser.add_argument("--overwrite", action="store_true", help="replace the output if it is there")


COMMANDS = {
    "validate": (validate_flags, act_validate),
    "stats": (stats_flags, act_stats),
    "view": (view_flags, act_view),
    "pack": (pack_flags, act_pack),
}
