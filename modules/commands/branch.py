"""`branch`: a story that forks, as a book in which the reader chooses."""

from __future__ import annotations

import argparse
import sys
import time

from modules.commands.generating import one_line, story_output
from modules.commands.shared import output_flag
from modules.commands.steering import open_planned, page_flag, page_index, story_argument
from modules.common.arguments import integer, seed_number


def add_flags(parser: argparse.ArgumentParser) -> None:
    story_argument(parser)
    page_flag(parser)
    parser.add_argument(
        "--num_branches", type=integer(2, 8), default=2, metavar="N", help="ways to go on at a fork (default 2)"
    )
    parser.add_argument(
        "--depth", type=integer(1, 6), default=1, metavar="N", help="pages in a row at which it forks (default 1)"
    )
    parser.add_argument(
        "--seed", type=seed_number, metavar="N", help="random seed of the new pages (default: derived from the story's)"
    )
    contents = "book.html, in which the reader chooses, story.twee for Twine, branches.json and the pages"
    output_flag(parser, "out_branches", contents)


def run(args: argparse.Namespace) -> int:
    from modules.presentation.story.branching import write_branches
    from modules.steering.branches import branch

    with story_output(args.output):
        pipeline, story = open_planned(args)
        page, started = page_index(story, args.page), time.perf_counter()
        branched = branch(pipeline, story, page, args.num_branches, args.depth, args.seed)
        files = write_branches(args.output, branched)
    for node in branched.pages.values():
        print(f"{node.id:>4} {one_line(node.text)}  -> {', '.join(node.next) or 'the end'}")
    seconds, names = time.perf_counter() - started, ", ".join(file.name for file in files[:3])
    count = f"{len(branched.pages)} pages, {len(branched.endings)} endings"
    print(f"{count} in {seconds:.1f} s, in the folder {args.output}: {names}", file=sys.stderr)
    return 0
