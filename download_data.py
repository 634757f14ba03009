"""Make `data/train` and `data/val`, folders of `stories.jsonl` and pictures, from a named source; check, show and pack
such folders.

    python download_data.py                                    M3IT's image paragraphs, from the Hub
    python download_data.py storyworld --stories 2000 --seed 0
    python download_data.py SOURCE --help                      what it is, its licence, its flags
    python download_data.py validate data
    python download_data.py pack data

A command table, nothing else: heavy imports happen inside the commands, so that --help answers at once.
"""

from __future__ import annotations

import argparse
import inspect
import re
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

from modules.commands import download, inspect_data
from modules.common.arguments import Parser, normalise_flag
from modules.common.errors import UserError
from modules.common.interrupts import exit_code, sigterm_as_ctrl_c
from modules.downloads import SOURCES

DEFAULT_SOURCE = "m3it"


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


def add_storyworld(commands: argparse._SubParsersAction, common: argparse.ArgumentParser) -> None:
    """Add the built-in picture-story world, which needs no network."""
    parser = commands.add_parser("storyworld", parents=[common], help="the built-in picture-story world (no network)")
    parser.add_argument(
        "--stories", type=integer(1, 10_000_000), default=2000, metavar="N", help="training stories (2000)"
    )
    parser.add_argument(
        "--val_stories", type=integer(1, 1_000_000), metavar="M", help="validation stories (a tenth of --stories)"
    )
    parser.add_argument(
        "--seed", type=integer(0, 2**31 - 1), default=0, metavar="S", help="the same seed makes the same stories (0)"
    )
    parser.add_argument(
        "--image_size", type=integer(16, 1024), default=96, metavar="PIXELS", help="side of the square pictures (96)"
    )
    parser.set_defaults(act=download.act_storyworld)


def build_parser() -> argparse.ArgumentParser:
    """Return the command line: a sub-command for every source, and four for folders that are there."""
    common = Parser(add_help=False)
    common.add_argument(
        "--output", type=Path, default=Path("data"), metavar="FOLDER", help="where train/ and val/ go (data)"
    )
    common.add_argument("--overwrite", action="store_true", help="replace train/ and val/ if they are there")
    parser = Parser(
        prog="download_data.py",
        description=f"Make data/train and data/val from a named source ({DEFAULT_SOURCE} if none is named).",
    )
    commands = parser.add_subparsers(dest="command", required=True, metavar="SOURCE")
    add_storyworld(commands, common)
    for name, source in SOURCES.items():
        about = inspect.getdoc(source)
        layout = argparse.RawDescriptionHelpFormatter
        own = commands.add_parser(
            name, parents=[common], help=re.split("[.:]", about)[0], description=about, formatter_class=layout
        )
        source.add_flags(own)
        download.collect_flags(own)
        own.set_defaults(act=download.act_collect, source_class=source)
    for name, (add_flags, act) in inspect_data.COMMANDS.items():
        own = commands.add_parser(name, help=act.__doc__.partition(".")[0])
        add_flags(own)
        own.set_defaults(act=act)
    return parser


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line and return its exit code: 0, 1 for data with faults, 2 for what the user can mend, 128 + the
    signal's number.
    """
    words = [normalise_flag(word) for word in (sys.argv[1:] if arguments is None else arguments)]
    if not words or (words[0].startswith("--") and words[0] != "--help"):
        words = [DEFAULT_SOURCE, *words]
    args = build_parser().parse_args(words)
    try:
        with sigterm_as_ctrl_c():
            return args.act(args)
    except UserError as error:
        print(f"download_data.py: {' '.join(str(error).splitlines())}", file=sys.stderr)
        return 2
    except KeyboardInterrupt as interrupt:
        kept = getattr(args, "staging", None)
        told = (
            f"what is done stays in {kept}, and the same command goes on from there"
            if kept and kept.exists()
            else "nothing was changed"
        )
        print(f"download_data.py: interrupted; {told}", file=sys.stderr)
        return exit_code(interrupt)


if __name__ == "__main__":
    sys.exit(main())
