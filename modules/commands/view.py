"""`view`: an HTML file that shows stories of a data folder."""

from __future__ import annotations

import argparse
from pathlib import Path

from modules.commands.data_shared import folder_argument
from modules.commands.shared import overwrite_flag
from modules.common.arguments import a_path, integer


def add_flags(parser: argparse.ArgumentParser) -> None:
    folder_argument(parser)
    parser.add_argument(
        "--output",
        type=a_path,
        default=Path("view.html"),
        metavar="FILE",
        help="HTML file to write, with the pictures inside (default view.html)",
    )
    parser.add_argument(
        "--stories",
        type=integer(1),
        default=24,
        metavar="N",
        help="number of stories per split, evenly spaced unless --seed is given (default 24)",
    )
    parser.add_argument(
        "--pages", type=integer(1), default=12, metavar="N", help="largest number of pages per story (default 12)"
    )
    parser.add_argument(
        "--seed", type=integer(0), metavar="N", help="choose the stories at random from this seed (default: not random)"
    )
    overwrite_flag(parser)


def run(args: argparse.Namespace) -> int:
    from modules.common.files import write_whole
    from modules.common.ownership import check_report
    from modules.presentation.dataset_sheet import dataset_sheet

    check_report(args.output, args.overwrite)
    page = dataset_sheet(args.folder, args.stories, args.seed, args.pages)
    print(write_whole(args.output, page.encode("utf-8")))
    return 0
