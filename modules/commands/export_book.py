"""`export_book`: a finished story as a file to read, print, show or send."""

from __future__ import annotations

import argparse
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from modules.commands.generating import load_pipeline, print_notes
from modules.commands.steering import story_argument
from modules.common.arguments import a_path, positive_float

if TYPE_CHECKING:
    from modules.presentation.export.book import Book

FORMAT_HELP = (
    "the format, where the suffix does not say it: pdf, print (PDF with bleed for a print shop), epub, cbz, sheet (all"
    " pages on a PNG), gif, webp, mp4, html, twee, string (the plan as text) or qr (the plan as a QR code, PNG)"
)


def add_flags(parser: argparse.ArgumentParser) -> None:
    story_argument(parser)
    parser.add_argument(
        "--output",
        type=a_path,
        default=Path("book.pdf"),
        metavar="FILE",
        help="the file to write; its suffix decides on the format (default book.pdf)",
    )
    parser.add_argument("--format", metavar="NAME", help=FORMAT_HELP)
    parser.add_argument("--title", metavar="TEXT", help="title of the book (default: the story's prompt)")
    parser.add_argument("--author", default="", metavar="NAME", help="author, in the file's metadata")
    parser.add_argument(
        "--lang", default="en", metavar="CODE", help="language of the story, such as de or ar (default en)"
    )
    parser.add_argument(
        "--seconds",
        type=positive_float,
        default=4.0,
        metavar="N",
        help="how long gif, webp and mp4 show a page (default 4)",
    )
    parser.add_argument(
        "--font", type=a_path, metavar="FILE", help="a TrueType font for characters that the book's own fonts lack"
    )


def run(args: argparse.Namespace) -> int:
    from modules.presentation.export.formats import export_book, guess_format
    from modules.presentation.export.settings import ExportSettings

    kind = args.format or guess_format(args.output)
    started = time.perf_counter()
    book = open_book(args)
    print_notes(book.remarks)
    export_book(book, kind, args.output, ExportSettings(args.seconds, args.font))
    count = "1 page" if len(book.pages) == 1 else f"{len(book.pages)} pages"
    size = args.output.stat().st_size / 1e6
    print(f"{count} in {time.perf_counter() - started:.1f} s: {args.output}, {size:.1f} MB", file=sys.stderr)
    return 0


def open_book(args: argparse.Namespace) -> Book:
    """Read the story of the flags; one that is only a plan, as in a page's PNG or a PDF, is made again by the model."""
    from modules.presentation.export.book import planned_book, read_book
    from modules.presentation.story.embedded import CARRIERS
    from modules.presentation.story.files import read_plan
    from modules.steering.plan import Plan
    from modules.steering.planned_story import replay

    fields = {"author": args.author, "lang": args.lang}
    if args.story.suffix.lower() in CARRIERS:
        text, _ = read_plan(str(args.story))
        story = replay(load_pipeline(args), Plan.from_string(text))
        print_notes(story.notes)
        book = planned_book(story, sources=(args.story,), **fields)
    else:
        book = read_book(args.story, **fields)
    return book if args.title is None else replace(book, title=args.title)
