"""`storyworld`: write stories of the built-in story world to a data folder."""

from __future__ import annotations

import argparse

from modules.commands.data_shared import check_output, output_flags
from modules.common.arguments import integer
from modules.common.errors import UserError
from modules.common.folder_lock import FolderLock


def add_flags(parser: argparse.ArgumentParser) -> None:
    output_flags(parser)
    parser.add_argument(
        "--stories",
        type=integer(1, 10_000_000),
        default=2000,
        metavar="N",
        help="number of training stories (default 2000)",
    )
    parser.add_argument(
        "--val_stories",
        type=integer(1, 1_000_000),
        metavar="N",
        help="number of validation stories (default: a tenth of --stories)",
    )
    parser.add_argument(
        "--seed",
        type=integer(0, 2**31 - 1),
        default=0,
        metavar="N",
        help="random seed; the same seed makes the same stories (default 0)",
    )
    parser.add_argument(
        "--image_size",
        type=integer(16, 1024),
        default=96,
        metavar="PIXELS",
        help="side of the square pictures, in pixels (default 96)",
    )


def run(args: argparse.Namespace) -> int:
    """Write both splits, which share no story. Raises UserError if a file cannot be written."""
    counts = {"train": args.stories, "val": args.val_stories or max(1, args.stories // 10)}
    with FolderLock(args.output):
        check_output(args.output, list(counts), args.overwrite)
        _write(args, counts)
    for split, count in counts.items():
        print(f"{args.output / split}: {count:,} stories")
    return 0


def _write(args: argparse.Namespace, counts: dict[str, int]) -> None:
    from modules.common.files import fresh_staging, remove_staging, replace_folder
    from modules.common.progress import track
    from modules.common.sums import write_sums
    from modules.data.writing import write_stories
    from modules.storyworld import StoryWorld

    staging = args.output / ".storyworld.partial"
    try:
        fresh_staging(staging)
        for split, count in counts.items():
            world = StoryWorld(count, args.seed, split=split, image_size=args.image_size)
            write_stories(staging / split, (world[index] for index in track(f"{split} stories", range(count))))
            write_sums(staging / split)
        for split in counts:
            replace_folder(args.output / split, staging / split)
    except OSError as error:
        raise UserError(f"{args.output} cannot be written: {error}") from None
    finally:
        remove_staging(staging)
