"""Stories and pictures a second: the story world, stories on disk, tokens, and pictures encoded for training."""

from __future__ import annotations

import argparse
import random
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from common import TIMING_HEADER, make_parser, print_table, start, summary, time_in_turns, timing_rows

from modules.common.arguments import positive_int
from modules.data.folder import StoryFolder
from modules.data.writing import write_stories
from modules.encoded.stories import EncodedStories
from modules.presets import PRESETS
from modules.story_model import StoryModel
from modules.storyworld import StoryWorld
from modules.storyworld.plots import make_plot
from modules.storyworld.scene import draw
from modules.text_decoder.tokenizers import StoryTokenizer


def make_works(args: argparse.Namespace, folder: Path) -> dict[str, tuple[Callable[[], object], dict[str, int]]]:
    """Each piece of work by name, with how many of what it goes through."""
    config = PRESETS[args.preset]
    size = config.autoencoder.image_size
    world = StoryWorld(args.num_stories, image_size=size)
    stories = [world[index] for index in range(len(world))]
    told, pages = (
        list(world.texts()),
        [page for index in range(len(world)) for page in make_plot(random.Random(index)).pages],
    )
    write_stories(folder, stories)
    on_disk = StoryFolder(folder)
    tokenizer = StoryTokenizer.train(told, config.vocab_size)
    texts = [step.text for story in stories for step in story.steps]
    _, mask = tokenizer.encode_batch(texts, config.text_decoder.max_length)
    torch.manual_seed(0)
    model = StoryModel(config).eval()
    encoded = EncodedStories(stories, model, tokenizer)
    batch = list(range(min(config.training.batch_size, len(stories))))
    whole = {"stories": len(stories), "pictures": len(texts)}
    return {
        "story world: texts": (lambda: list(world.texts()), {"stories": len(stories), "texts": len(told)}),
        "story world: pictures": (
            lambda: [draw(page, size) for page in pages],
            {"stories": len(stories), "pictures": len(pages)},
        ),
        "story world: both": (lambda: [world[index] for index in range(len(world))], whole),
        "folder: open and check": (lambda: StoryFolder(folder), whole),
        "folder: read": (lambda: [on_disk[index] for index in range(len(on_disk))], whole),
        "tokenise": (
            lambda: tokenizer.encode_batch(texts, config.text_decoder.max_length),
            {"texts": len(texts), "tokens": int(mask.sum())},
        ),
        "encode for training": (lambda: EncodedStories(stories, model, tokenizer), whole),
        "cut a batch": (
            lambda: encoded.batch(batch),
            {"stories": len(batch), "pictures": sum(encoded.lengths[i] for i in batch)},
        ),
    }


def measure(args: argparse.Namespace) -> tuple[dict[str, Any], list]:
    """Seconds and rates of every piece of work."""
    with tempfile.TemporaryDirectory() as folder:
        works = make_works(args, Path(folder))
        timings = time_in_turns({name: work for name, (work, _) in works.items()}, args.repeats, args.warmups)
    results, rows = {}, []
    for row, (name, (_, counts)) in zip(timing_rows(timings), works.items(), strict=True):
        figures = summary(timings[name])
        rates = {what: number / figures["median"] for what, number in counts.items()}
        results[name] = {"seconds": figures, "counts": counts, "a_second": rates}
        rows.append([*row, ", ".join(f"{rate:,.0f} {what}" for what, rate in rates.items())])
    print_table((*TIMING_HEADER, "a second"), rows)
    return {"works": results}, []


def make_flags() -> argparse.ArgumentParser:
    parser = make_parser(__doc__, repeats=7, warmups=1)
    parser.add_argument(
        "--preset", choices=sorted(PRESETS), default="storyworld", help="decides sizes; no weights are needed"
    )
    parser.add_argument("--num_stories", type=positive_int, default=60, help="stories to go through (default 60)")
    return parser


if __name__ == "__main__":
    start(measure, make_flags())
