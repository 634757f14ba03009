"""`alternatives`: what other codes at one place of a story would write and draw."""

from __future__ import annotations

import argparse
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING

from modules.commands.generating import one_line, story_output
from modules.commands.shared import output_flag
from modules.commands.steering import open_planned, page_flag, page_index, story_argument
from modules.common.arguments import integer, positive_int
from modules.common.ownership import OwnFiles

if TYPE_CHECKING:
    from modules.steering.alternatives import Alternative

FILES = ("alternatives.png", "alternatives.json")


def add_flags(parser: argparse.ArgumentParser) -> None:
    story_argument(parser)
    page_flag(parser)
    parser.add_argument("--slot", type=positive_int, required=True, metavar="N", help="slot of the page, from 1")
    parser.add_argument(
        "--count", type=integer(1, 64), default=8, metavar="N", help="how many other codes to show (default 8)"
    )
    output_flag(
        parser, "out_alternatives", "alternatives.png, a sheet of the page with every code, and alternatives.json"
    )


def run(args: argparse.Namespace) -> int:
    from modules.steering.alternatives import alternatives

    with story_output(args.output):
        pipeline, story = open_planned(args)
        page, started = page_index(story, args.page), time.perf_counter()
        found = alternatives(pipeline, story, page, args.slot - 1, args.count)
        print("  code  probability  text")
        for index, other in enumerate(found):
            print(f"{'*' if index == 0 else ' '}{other.code:5}{other.probability:13.4f}  {one_line(other.text)}")
        sheet = write_alternatives(args, found)
        seconds = time.perf_counter() - started
    print(f"* is the present code; {len(found)} pages in {seconds:.1f} s: {sheet}", file=sys.stderr)
    return 0


def write_alternatives(args: argparse.Namespace, found: list[Alternative]) -> Path:
    """Write alternatives.png and alternatives.json, and return the former. Raises UserError if one is not ours."""
    from modules.commands.shared import write_json
    from modules.presentation.images import write_png
    from modules.presentation.story.book import BookPage
    from modules.presentation.story.sheet import contact_sheet

    own = OwnFiles(args.output)
    own.start(FILES)
    cards = [BookPage(other.image, f"{other.code} ({other.probability:.1%}): {other.text}") for other in found]
    title = f"Page {args.page}, slot {args.slot}: other codes"
    sheet = write_png(args.output / FILES[0], contact_sheet(cards, title))
    rows = [{"code": other.code, "probability": other.probability, "text": other.text} for other in found]
    write_json(args.output / FILES[1], {"page": args.page, "slot": args.slot, "alternatives": rows})
    own.finish(FILES)
    return sheet
