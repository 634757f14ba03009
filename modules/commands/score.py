"""`score`: what the pages of a story cost under the model, and how well they fit together."""

from __future__ import annotations

import argparse
from dataclasses import asdict
from typing import TYPE_CHECKING

from modules.commands.shared import check_json, json_flags, seed_flag, write_json
from modules.commands.steering import open_planned, story_argument

if TYPE_CHECKING:
    from modules.generation.scoring import StoryScore
    from modules.steering.planned_story import PlannedStory


def add_flags(parser: argparse.ArgumentParser) -> None:
    story_argument(parser)
    seed_flag(parser, "of the other orders of the pages that the story's own is compared with")
    json_flags(parser, "all scores")


def run(args: argparse.Namespace) -> int:
    from modules.steering.score import score

    check_json(args)
    pipeline, story = open_planned(args)
    scores = score(pipeline, story, args.seed)
    print_scores(story, scores)
    pages = [{**asdict(page), "text": text} for page, text in zip(scores.pages, story.texts, strict=True)]
    write_json(args.json, {"prompt": story.plan.prompt, "story": scores.totals(), "pages": pages})
    return 0


def print_scores(story: PlannedStory, scores: StoryScore) -> None:
    """Print a row for every page, the bits of each of its codes last, and the totals."""
    num_slots = story.plan.num_slots
    slots = " ".join(f"{f'c{slot + 1}':>4}" for slot in range(num_slots))
    print(f"page   bits  surprise  text nats  a token  agree  in text  in picture  bits of the codes\n{'':72}{slots}")
    for number, page in enumerate(scores.pages, 1):
        codes = " ".join(f"{bits:4.1f}" for bits in page.code_bits)
        print(
            f"{number:4}{page.bits:7.1f}{page.surprise:+10.1f}{page.text_nats:11.2f}{page.text_nats_per_token:9.3f}"
            f"{page.agreement:7.2f}{page.from_text:9.2f}{page.from_picture:12.2f}   {codes}"
        )
    totals = scores.totals()
    order = "" if scores.order is None else f"; likelier than {scores.order:.0%} of {scores.num_orders} other orders"
    print(
        f"{totals['pages']} pages: {totals['bits']:.1f} bits, {totals['bits_per_page']:.1f} a page; texts"
        f" {totals['text_nats']:.1f} nats; text and picture agree in {totals['agreement']:.0%} of the codes{order}"
    )
