"""`infill`: write new pages between those of a story."""

from __future__ import annotations

import argparse
import time

from modules.commands.generating import print_story, story_output
from modules.commands.shared import output_flag
from modules.commands.steering import open_planned, story_argument, write_planned
from modules.common.arguments import positive_int, seed_number, whole_number
from modules.common.errors import UserError
from modules.generation.settings import MAX_LONG_STORY


def add_flags(parser: argparse.ArgumentParser) -> None:
    story_argument(parser)
    parser.add_argument(
        "--after",
        type=whole_number,
        required=True,
        metavar="N",
        help="number of the page that the new ones follow; 0 for a new beginning",
    )
    parser.add_argument(
        "--num_steps", type=positive_int, default=1, metavar="N", help="number of new pages (default 1)"
    )
    parser.add_argument("--seed", type=seed_number, metavar="N", help="random seed (default: one of the story's own)")
    output_flag(parser, "out", "the longer story, which may be the folder of the story itself")


def run(args: argparse.Namespace) -> int:
    from modules.steering.arrange import insert

    with story_output(args.output):
        pipeline, story = open_planned(args)
        count = story.plan.num_pages
        if args.after > count:
            raise UserError(f"--after {args.after} is not in the story, which has {count} pages")
        if count + args.num_steps > MAX_LONG_STORY:
            raise UserError(
                f"the story would have {count + args.num_steps} pages: at most {MAX_LONG_STORY} are possible"
            )
        started = time.perf_counter()
        longer = insert(pipeline, story, args.after, args.seed, args.num_steps)
        files = write_planned(args.output, longer)
    is_new = range(args.after, args.after + args.num_steps)
    texts = [text if page in is_new else f"(kept) {text}" for page, text in enumerate(longer.texts)]
    print_story(texts, files, time.perf_counter() - started)
    return 0
