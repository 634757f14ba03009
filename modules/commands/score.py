"""`score`: what the pages of a story cost under the model, and how well they fit together."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from dataclasses import asdict
from itertools import zip_longest
from pathlib import Path
from typing import TYPE_CHECKING

from modules.commands.generating import one_line
from modules.commands.shared import check_json, json_flags, seed_flag, write_json
from modules.commands.steering import open_planned, story_argument
from modules.common.arguments import a_path
from modules.common.ownership import check_report

if TYPE_CHECKING:
    from modules.generation.scoring import PageScore, StoryScore
    from modules.steering.novelty import NearestPage
    from modules.steering.planned_story import PlannedStory


def add_flags(parser: argparse.ArgumentParser) -> None:
    story_argument(parser)
    seed_flag(parser, "of the other orders of the pages that the story's own is compared with")
    parser.add_argument(
        "--training_pages",
        type=a_path,
        metavar="FILE",
        help="show the training page that each page is nearest to by its codes: FILE is the training_pages.json of"
        " analyze",
    )
    parser.add_argument(
        "--mark_book", type=a_path, metavar="FILE", help="write the story as a book, each page with its scores, to FILE"
    )
    json_flags(parser, "all scores")


def run(args: argparse.Namespace) -> int:
    import torch

    from modules.steering.novelty import read_training_pages
    from modules.steering.score import score

    check_json(args)
    if args.mark_book:
        check_report(args.mark_book, args.overwrite)
    pipeline, story = open_planned(args)
    known = args.training_pages and read_training_pages(args.training_pages, pipeline)
    scores = score(pipeline, story, args.seed)
    nearest = known.nearest(pipeline, torch.tensor(story.plan.codes)) if known else []
    print_scores(story, scores)
    if known:
        print_nearest(nearest, len(known.lengths))
    if args.mark_book:
        write_marked_book(args.mark_book, story, scores, nearest)
        print(f"the book with all scores: {args.mark_book}", file=sys.stderr)
    pages = [{**asdict(page), "text": text} for page, text in zip(scores.pages, story.texts, strict=True)]
    if nearest:
        pages = [{**page, "nearest": asdict(near)} for page, near in zip(pages, nearest, strict=True)]
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


def print_nearest(nearest: Sequence[NearestPage], num_stories: int) -> None:
    """Print the training page that each page is nearest to."""
    print(f"nearest of the pages of {num_stories} training stories:")
    for number, near in enumerate(nearest, 1):
        print(f"{number:4}  {_describe(near)}")


def write_marked_book(file: Path, story: PlannedStory, scores: StoryScore, nearest: Sequence[NearestPage]) -> None:
    """Write a story as a book in which every page has its scores. Raises UserError if that fails."""
    from modules.common.files import write_whole
    from modules.presentation.story.book import BookPage, book_html

    marks = [_marks(page, near) for page, near in zip_longest(scores.pages, nearest)]
    rows = zip(story.images, story.texts, story.plan.codes, scores.pages, marks, strict=True)
    pages = [BookPage(image, text, list(codes), page.bits, marks=own) for image, text, codes, page, own in rows]
    totals = scores.totals()
    details = {name: round(value, 3) if isinstance(value, float) else value for name, value in totals.items()}
    write_whole(file, book_html(story.plan.prompt, pages, details).encode())


def _marks(page: PageScore, near: NearestPage | None) -> tuple[str, ...]:
    marks = [
        f"{abs(page.surprise):.1f} bits {'more' if page.surprise > 0 else 'fewer'} than the mean page",
        "bits of the codes: " + ", ".join(f"{bits:.1f}" for bits in page.code_bits),
        f"text {page.text_nats:.1f} nats; text and picture agree in {page.agreement:.0%} of the codes",
    ]
    return (*marks, *([] if near is None else [f"nearest: {_describe(near)}"]))


def _describe(near: NearestPage) -> str:
    text = "a page without text" if near.text is None else one_line(near.text)
    return (
        f"training story {near.story}, page {near.page}, cosine {near.similarity:.2f}, {near.same_codes:.0%} of the"
        f" codes the same: {text}"
    )
