"""Make `data/train` and `data/val`, folders of `stories.jsonl` and pictures, from a named source.

    python download_data.py storyworld --stories 2000 --seed 0

Every source is a sub-command: a function that adds its flags, and one that opens its splits. Heavy imports happen inside
the latter, so that --help answers at once.
"""

from __future__ import annotations

import argparse
import shutil
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from modules.arguments import Parser, normalise_flag
from modules.story import UserError

if TYPE_CHECKING:
    from rich.progress import Progress

    from modules.story import StorySource

INTERRUPTED = 130


def integer(lowest: int, highest: int) -> Callable[[str], int]:
    """Return an argparse type for whole numbers of `lowest` to `highest`."""

    def parse(text: str) -> int:
        try:
            value = int(text)
        except ValueError:
            raise argparse.ArgumentTypeError(f"must be a whole number, got {text!r}") from None
        if not lowest <= value <= highest:
            raise argparse.ArgumentTypeError(f"must be from {lowest:,} to {highest:,}, got {value:,}")
        return value

    return parse


def add_storyworld(sources: argparse._SubParsersAction, common: argparse.ArgumentParser) -> None:
    """Add the built-in picture-story world, which needs no network."""
    parser = sources.add_parser("storyworld", parents=[common], help="the built-in picture-story world (no network)")
    parser.add_argument("--stories", type=integer(1, 10_000_000), default=2000, metavar="N", help="training stories (2000)")
    parser.add_argument("--val_stories", type=integer(1, 1_000_000), metavar="M", help="validation stories (a tenth of --stories)")
    parser.add_argument("--seed", type=integer(0, 2**31 - 1), default=0, metavar="S", help="the same seed makes the same stories (0)")
    parser.add_argument("--image_size", type=integer(16, 1024), default=96, metavar="PIXELS", help="side of the square pictures (96)")
    parser.set_defaults(open_splits=open_storyworld)


def open_storyworld(args: argparse.Namespace) -> dict[str, StorySource]:
    """Return the world's two splits, which share no story."""
    from modules.storyworld import StoryWorld

    counts = {"train": args.stories, "val": args.val_stories or max(1, args.stories // 10)}
    return {split: StoryWorld(count, args.seed, split=split, image_size=args.image_size) for split, count in counts.items()}


def build_parser() -> argparse.ArgumentParser:
    """Return the command line with a sub-command for every source."""
    common = Parser(add_help=False)
    common.add_argument("--output", type=Path, default=Path("data"), metavar="FOLDER", help="where train/ and val/ go (data)")
    common.add_argument("--overwrite", action="store_true", help="replace train/ and val/ if they are there")
    parser = Parser(prog="download_data.py", description="Make data/train and data/val from a named source.")
    sources = parser.add_subparsers(dest="source", required=True, metavar="SOURCE")
    add_storyworld(sources, common)
    return parser


def check_output(output: Path, splits: Sequence[str], overwrite: bool) -> None:
    """Refuse to replace what is there before any work is done.

    Raises:
        UserError: a split is there and not empty, or a file is in the way.
    """
    for folder in (output, *(output / split for split in splits)):
        if folder.exists() and not folder.is_dir():
            raise UserError(f"{folder} is a file; choose another --output")
    for split in splits:
        if not overwrite and (output / split).is_dir() and any((output / split).iterdir()):
            raise UserError(f"{output / split} is not empty; add --overwrite to replace it, or choose another --output")


def progress_bar() -> Progress:
    """Return a bar with the count and the time left, on stderr."""
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TextColumn("left"), TimeRemainingColumn())
    return Progress(*columns, console=Console(stderr=True))


def write_splits(output: Path, sources: Mapping[str, StorySource], overwrite: bool) -> None:
    """Write every split beside its place and move all of them there at the end: an interrupted run changes nothing.

    Raises:
        UserError: as `check_output`, or the output cannot be written.
    """
    from modules.data import write_stories

    check_output(output, list(sources), overwrite)
    staging = output / ".partial"
    try:
        shutil.rmtree(staging, ignore_errors=True)  # What a killed run left.
        with progress_bar() as progress:
            for split, source in sources.items():
                indices = progress.track(range(len(source)), description=f"{split} stories")
                write_stories(staging / split, (source[index] for index in indices))
        for split in sources:
            replace_folder(output / split, staging / split)
    except OSError as error:
        raise UserError(f"{output} cannot be written: {error}") from None
    finally:
        shutil.rmtree(staging, ignore_errors=True)


def replace_folder(folder: Path, new: Path) -> None:
    """Move `new` to `folder`; what was there ends up beside `new` with the ending .old, or stays if the move fails."""
    old = new.with_suffix(".old")
    if folder.exists():
        folder.rename(old)
    try:
        new.rename(folder)
    except BaseException:
        if old.exists():
            old.rename(folder)
        raise


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line and return its exit code: 0, 2 for what the user can mend, 130 for Ctrl-C."""
    words = sys.argv[1:] if arguments is None else arguments
    args = build_parser().parse_args([normalise_flag(word) for word in words])
    try:
        sources = args.open_splits(args)
        write_splits(args.output, sources, args.overwrite)
    except UserError as error:
        print(f"download_data.py: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("download_data.py: interrupted; nothing was changed", file=sys.stderr)
        return INTERRUPTED
    for split, source in sources.items():
        print(f"{args.output / split}: {len(source):,} stories")
    return 0


if __name__ == "__main__":
    sys.exit(main())
