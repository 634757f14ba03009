"""Command line of download_data.py: the table of its commands; every source in `modules.downloads` is one as well."""

from __future__ import annotations

import argparse
import importlib
import inspect
import re
import sys
from collections.abc import Sequence
from pathlib import Path

from modules.common.arguments import Parser, normalise_flag
from modules.common.errors import UserError, one_line
from modules.common.faults import fault_of
from modules.common.interrupts import exit_code, sigterm_as_ctrl_c

PROGRAM = "download_data.py"
DEFAULT_SOURCE = "m3it"
DESCRIPTION = f"""\
Make data/train and data/val, folders of stories.jsonl and pictures, from a source ({DEFAULT_SOURCE} if none is named);
check, show and pack such folders.
"""
# Name, which is also its module in this folder, and summary; the sources' own summaries are their docstrings.
COMMANDS = {
    "storyworld": "make stories of the built-in story world (no network)",
    "validate": "check every record and every picture of a data folder; the exit code is 1 if there are faults",
    "stats": "count stories, steps, words and near-duplicates of a data folder, and draw histograms",
    "view": "write an HTML file that shows stories of a data folder",
    "pack": "pack a data folder into Parquet shards with the pictures inside, for train --data or the datasets library",
}


def build_parser(program: str = PROGRAM) -> argparse.ArgumentParser:
    """Return the parser: a sub-command for every source, and the commands of the table."""
    from modules.commands import download
    from modules.downloads import SOURCES

    parser = Parser(prog=program, description=DESCRIPTION, epilog=f"Flags and details: {program} COMMAND --help")
    subparsers = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    for name, summary in COMMANDS.items():
        command = importlib.import_module(f"modules.commands.{name}")
        own = subparsers.add_parser(name, help=summary, description=f"{summary[0].upper()}{summary[1:]}.")
        command.add_flags(own)
        own.set_defaults(act=command.run)
    for name, source in SOURCES.items():
        about = inspect.getdoc(source) or name
        own = subparsers.add_parser(
            name,
            help=re.split("[.:]", about)[0],
            description=about,
            formatter_class=argparse.RawDescriptionHelpFormatter,
        )
        source.add_flags(own)
        download.add_flags(own)
        own.set_defaults(act=download.run, source_class=source)
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command and return the exit code: 0, 1 for damaged data, 2 on bad input, 128 + the signal's number.

    Without `argv` the program's own arguments are used. Dashes and underscores in flags are the same.
    """
    program = PROGRAM if argv is not None else Path(sys.argv[0]).name
    words = [normalise_flag(word) for word in (sys.argv[1:] if argv is None else argv)]
    if not words or (words[0].startswith("--") and words[0] != "--help"):
        words = [DEFAULT_SOURCE, *words]
    args = build_parser(program).parse_args(words)
    try:
        with sigterm_as_ctrl_c():
            return args.act(args)
    except UserError as error:
        print(f"{program}: {one_line(error)}", file=sys.stderr)
        return 2
    except Exception as error:
        if (fault := fault_of(error)) is None:
            raise
        print(f"{program}: {one_line(fault)}", file=sys.stderr)
        return 2
    except KeyboardInterrupt as interrupt:
        staging = getattr(args, "staging", None)
        state = (
            f"the finished work stays in {staging}, and the same command goes on from there"
            if staging and staging.exists()
            else "nothing was changed"
        )
        print(f"{program}: interrupted; {state}", file=sys.stderr)
        return exit_code(interrupt)
