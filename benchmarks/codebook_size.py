"""How large a codebook pays for how many pages: what a plan costs and saves, on texts of held-out stories.

Stories of the story world without their pictures; half the default preset's width and fewer layers, the text decoder
reads the codes of its own page. Every size of data and of codebook is trained from scratch.
"""

from __future__ import annotations

import argparse
from dataclasses import replace
from typing import Any

from common import Goal, make_parser, print_table, start
from text_training import Texts, cell, train_texts, without_pictures

from modules.common.arguments import positive_int
from modules.config import StoryConfig
from modules.presets import PRESETS
from modules.storyworld import StoryWorld
from modules.training.codebook_size import fitting_size

PAGES_PER_STORY = 5.2  # On average, in the story world.
WIDTH, NUM_LAYERS = 128, 2
MAX_EPOCHS = 30  # The prior overfits little data.


def config_of(codebook_size: int, num_stories: int, args: argparse.Namespace) -> StoryConfig:
    """Return the small config with a codebook of this size."""
    config = without_pictures(PRESETS["storyworld"])
    epochs = MAX_EPOCHS * num_stories // args.batch_size
    small: dict[str, Any] = {"dim": WIDTH, "num_layers": NUM_LAYERS}
    return replace(
        config,
        context="page",
        storyboard=replace(config.storyboard, codebook_size=codebook_size, **small),
        prior=replace(config.prior, **small),
        text_decoder=replace(config.text_decoder, **small),
        training=replace(
            config.training,
            max_steps=max(1, min(args.num_updates, epochs)),
            batch_size=args.batch_size,
            modality_dropout=0.0,
        ),
    )


def run(num_pages: int, codebook_size: int, args: argparse.Namespace) -> dict[str, Any]:
    """Train on about `num_pages` pages with one size of the codebook; return what its codes cost and save."""
    num_stories = max(1, round(num_pages / PAGES_PER_STORY))
    counts = {"train": num_stories, "val": args.num_held_out}
    texts = [Texts(StoryWorld(count, args.seed, split), count) for split, count in counts.items()]
    return train_texts(config_of(codebook_size, num_stories, args), *texts, args.seed)


def measure(args: argparse.Namespace) -> tuple[dict[str, Any], list[Goal]]:
    """Return the results by numbers of pages and sizes of the codebook."""
    results: dict[str, Any] = {}
    header = ("codes", "text, nats a token", "null gap", "cost, nats a step", "net value")
    goals = []
    for num_pages in args.num_pages:
        chosen, found = fitting_size(num_pages), {}
        for size in sorted({*args.codebook_sizes, chosen}):
            found[size] = run(num_pages, size, args)["codes"]
            keys = ("own", "null_gap", "cost", "net")
            print(f"{num_pages:,} pages, {size} codes:", *(cell(found[size][key]) for key in keys), flush=True)
        print(f"\n{num_pages:,} pages ({chosen} codes are chosen)")
        print_table(header, [[str(size), *(cell(found[size][key]) for key in keys)] for size in found])
        best = max(found.values(), key=lambda row: row["net"]["value"])["net"]
        lost = best["value"] - found[chosen]["net"]["value"]
        goals.append(Goal(f"{num_pages:,} pages: net value lost to the best size, nats a step", lost, 2.0))
        results[str(num_pages)] = {"chosen": chosen, "sizes": {str(size): row for size, row in found.items()}}
    return {"pages": results}, goals


def main() -> None:
    parser = make_parser(__doc__, repeats=1)
    parser.add_argument("--num_pages", type=positive_int, nargs="+", default=[300, 3_000, 30_000])
    parser.add_argument("--codebook_sizes", type=positive_int, nargs="+", default=[16, 64, 256, 1024])
    parser.add_argument("--num_updates", type=positive_int, default=600, help="at most (default 600)")
    parser.add_argument("--batch_size", type=positive_int, default=8, help="stories (default 8)")
    parser.add_argument("--num_held_out", type=positive_int, default=60, help="stories (default 60)")
    parser.add_argument("--seed", type=int, default=0)
    start(measure, parser)


if __name__ == "__main__":
    main()
