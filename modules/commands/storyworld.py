"""`storyworld`: write stories of the built-in story world to a data folder."""

from __future__ import annotations

import argparse
import json
from pathlib import Path

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
        staging = args.output / ".storyworld.partial"
        if not _is_written(staging, args):
            check_output(args.output, list(counts), args.overwrite)
            _write(staging, args, counts)
        _place(staging, args.output, counts)
    for split, count in counts.items():
        print(f"{args.output / split}: {count:,} stories")
    return 0


def _settings(args: argparse.Namespace) -> bytes:
    return json.dumps([args.stories, args.val_stories, args.seed, args.image_size]).encode()


def _is_written(staging: Path, args: argparse.Namespace) -> bool:
    """Return whether a killed run of the same command had written both splits, and they are still to be placed."""
    from modules.common.files import STAGING

    return (staging / STAGING).is_file() and (staging / STAGING).read_bytes() == _settings(args)


def _write(staging: Path, args: argparse.Namespace, counts: dict[str, int]) -> None:
    """Write both splits into the staging folder, and mark it as whole."""
    from modules.common.files import STAGING, fresh_staging, remove_staging, write_whole
    from modules.common.progress import track
    from modules.common.sums import write_sums
    from modules.data.writing import write_stories
    from modules.storyworld import StoryWorld

    try:
        fresh_staging(staging)
        for split, count in counts.items():
            world = StoryWorld(count, args.seed, split=split, image_size=args.image_size)
            write_stories(staging / split, (world[index] for index in track(f"{split} stories", range(count))))
            write_sums(staging / split)
        write_whole(staging / STAGING, _settings(args))
    except BaseException as error:
        remove_staging(staging)
        if isinstance(error, OSError):
            raise UserError(f"{args.output} cannot be written: {error}") from None
        raise


def _place(staging: Path, output: Path, counts: dict[str, int]) -> None:
    """Move the splits out of the staging folder; the same command goes on with it if it is killed."""
    from modules.common.files import disk_errors, remove_staging, replace_folder

    with disk_errors(output):
        for split in counts:
            if (staging / split).is_dir():
                replace_folder(output / split, staging / split)
    remove_staging(staging)
