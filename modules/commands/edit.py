"""`edit`: change one page of a story and leave the others as they are."""

from __future__ import annotations

import argparse
import time
from typing import TYPE_CHECKING

from modules.commands.generating import print_story, story_output
from modules.commands.shared import output_flag
from modules.commands.steering import open_planned, page_flag, page_index, story_argument, write_planned
from modules.common.arguments import a_path, seed_number
from modules.common.errors import UserError

if TYPE_CHECKING:
    from modules.generation.pipeline import StoryPipeline
    from modules.steering.planned_story import PlannedStory

CHANGES = ("text", "image", "set", "rewrite", "redraw", "replan")


def add_flags(parser: argparse.ArgumentParser) -> None:
    story_argument(parser)
    page_flag(parser)
    parser.add_argument("--text", metavar="TEXT", help="new words; the picture is redrawn to match")
    parser.add_argument("--image", type=a_path, metavar="FILE", help="a new picture; the text is written anew to it")
    parser.add_argument(
        "--set",
        action="append",
        metavar="SLOT=CODE",
        help="replace one code of the page, such as 5=117, with slots from 1; repeat the flag for several codes",
    )
    parser.add_argument("--rewrite", action="store_true", help="write the text anew, in other words for the same codes")
    parser.add_argument("--redraw", action="store_true", help="draw the picture anew, from the same codes")
    parser.add_argument("--replan", action="store_true", help="plan the page anew, given the pages before it")
    parser.add_argument("--and_after", action="store_true", help="with --replan: all pages after it too")
    parser.add_argument(
        "--lock",
        action="append",
        default=[],
        metavar="WHAT",
        help="what must not change: a page (2), a part of it (2.text, 2.picture, 2.codes), one code of it (2.5), or a"
        " part of all pages (text, picture, codes); repeat the flag for several",
    )
    parser.add_argument(
        "--seed",
        type=seed_number,
        metavar="N",
        help="random seed of what is drawn anew (default: derived from the story's)",
    )
    output_flag(parser, "out", "the edited story, which may be the folder of the story itself")


def run(args: argparse.Namespace) -> int:
    from modules.data.images import load_image

    check_flags(args)
    image = None if args.image is None else load_image(args.image)
    with story_output(args.output):
        pipeline, story = open_planned(args)
        started = time.perf_counter()
        edited = apply(pipeline, story, args, image)
        files = write_planned(args.output, edited)
    changed = [page + 1 for page, stamp in enumerate(edited.stamps) if stamp != story.stamps[page]]
    texts = [text if page in changed else f"(kept) {text}" for page, text in enumerate(edited.texts, 1)]
    print_story(texts, files, time.perf_counter() - started)
    return 0


def check_flags(args: argparse.Namespace) -> None:
    """Raise UserError unless exactly one change is asked for."""
    wanted = [name for name in CHANGES if getattr(args, name) not in (None, False)]
    names = ", ".join(f"--{name}" for name in CHANGES)
    if len(wanted) != 1:
        raise UserError(f"exactly one change is made at a time: give one of {names}")
    if args.and_after and not args.replan:
        raise UserError("--and_after belongs to --replan: give both, or leave it out")


def apply(pipeline: StoryPipeline, story: PlannedStory, args: argparse.Namespace, image: object = None) -> PlannedStory:
    """Return the story after the change that the flags ask for."""
    from PIL import Image

    from modules.steering import edit
    from modules.steering.locks import parse_code, parse_locks

    plan, page = story.plan, page_index(story, args.page)
    locks = parse_locks(args.lock, plan.num_pages, plan.num_slots)
    if args.text is not None:
        return edit.set_text(pipeline, story, page, args.text, locks, args.seed)
    if isinstance(image, Image.Image):
        return edit.set_image(pipeline, story, page, image, locks, args.seed)
    if args.set:
        values = dict(parse_code(word, plan.num_slots, plan.codebook_size) for word in args.set)
        return edit.set_codes(pipeline, story, page, values, locks, args.seed)
    if args.rewrite:
        return edit.rewrite(pipeline, story, page, locks, args.seed)
    if args.redraw:
        return edit.redraw(pipeline, story, page, locks, args.seed)
    return edit.replan(pipeline, story, page, args.and_after, locks, args.seed)
