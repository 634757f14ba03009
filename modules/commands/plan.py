"""`plan`: draw many plans of a story, rank them, and show the best."""

from __future__ import annotations

import argparse
import sys
import time
from dataclasses import asdict

from modules.commands.generating import device_flag, one_line, print_notes
from modules.commands.shared import check_json, checkpoint_flag, json_flags, write_json
from modules.commands.steering import load_codes_model, told_pages, told_pages_flags
from modules.common.arguments import add_dataclass_flags, from_flags, integer, positive_int
from modules.generation.settings import MAX_LONG_STORY, GenerationSettings, check_story


def add_flags(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--prompt", required=True, metavar="TEXT", help="what the story is about, in one line")
    parser.add_argument("--num_steps", type=positive_int, default=5, metavar="N", help="number of pages (default 5)")
    parser.add_argument(
        "--num_plans", type=integer(1, 100_000), default=64, metavar="N", help="plans to draw (default 64)"
    )
    parser.add_argument(
        "--beam",
        type=positive_int,
        default=0,
        metavar="N",
        help="draw the plans page by page, each page from the N likeliest beginnings (default: every plan as a whole)",
    )
    parser.add_argument("--keep", type=positive_int, default=5, metavar="N", help="plans to show (default 5)")
    parser.add_argument(
        "--must", action="append", default=[], metavar="WORD", help="a word that the texts must have; repeatable"
    )
    parser.add_argument(
        "--avoid", action="append", default=[], metavar="WORD", help="a word that no text may have; repeatable"
    )
    parser.add_argument(
        "--codes",
        action="append",
        default=[],
        metavar="PAGE.SLOT=CODE",
        help="a code that every plan must have, such as 3.5=117, with pages and slots from 1; repeatable",
    )
    told_pages_flags(parser)
    checkpoint_flag(parser)
    device_flag(parser)
    add_dataclass_flags(parser, GenerationSettings)
    json_flags(parser, "the plans")


def run(args: argparse.Namespace) -> int:
    from modules.steering.locks import parse_page_codes
    from modules.steering.search import Constraints, search
    from modules.story import StoryStep

    check_story(args.prompt, args.num_steps, MAX_LONG_STORY)
    settings, told = from_flags(GenerationSettings, args), told_pages(args)
    check_json(args)
    pipeline = load_codes_model(args)
    board = pipeline.config.storyboard
    codes = parse_page_codes(args.codes, args.num_steps, board.num_slots, board.codebook_size)
    constraints = Constraints(tuple(args.must), tuple(args.avoid), codes, told)
    print_notes(pipeline.notes(args.prompt, [StoryStep(text) for text in told.values()]))
    started = time.perf_counter()
    plans = search(
        pipeline, args.prompt, args.num_steps, args.num_plans, args.keep, constraints, settings, beam=args.beam
    )
    seconds = time.perf_counter() - started
    for number, ranked in enumerate(plans, 1):
        drafts = f"drafts fit {ranked.fit:.3f}, texts {ranked.text_nats:.1f} nats a page"
        print(f"{number}. score {ranked.score:.3f} ({drafts}), plan {ranked.bits:.1f} bits")
        for page, text in enumerate(ranked.texts, 1):
            print(f"   {page}. {one_line(text)}")
        print(f"   generate --from {ranked.plan.to_string()}")
    print(f"{len(plans)} of {args.num_plans} plans, ranked in {seconds:.2f} s", file=sys.stderr)
    rows = [{**asdict(ranked), "plan": ranked.plan.to_string(), "codes": ranked.plan.codes} for ranked in plans]
    write_json(args.json, {"prompt": args.prompt, "plans": rows})
    return 0
