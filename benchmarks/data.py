"""Stories and pictures a second: the story world, a folder of stories, tokenising, and encoding for training."""

from __future__ import annotations

import argparse
import random
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from common import TIMING_HEADER, make_parser, print_table, start, summary, time_in_turns, timing_rows

from modules.common.arguments import positive_int
from modules.config import StoryConfig
from modules.data.folder import StoryFolder
from modules.data.writing import write_stories
from modules.encoded.stories import EncodedStories
from modules.presets import PRESETS
from modules.story import Story
from modules.story_model.story_model import StoryModel
from modules.storyworld import StoryWorld
from modules.storyworld.plots import make_plot
from modules.storyworld.scene import draw
from modules.text_decoder.tokenizers import StoryTokenizer

Works = dict[str, tuple[Callable[[], object], dict[str, int]]]  # By name: the work, and the items it processes.


def make_works(args: argparse.Namespace, folder: Path) -> Works:
    """Return all pieces of work: making, reading and encoding stories."""
    config = PRESETS[args.preset]
    world = StoryWorld(args.num_stories, image_size=config.autoencoder.image_size)
    stories = [world[index] for index in range(len(world))]
    write_stories(folder, stories)
    return world_works(world) | folder_works(folder, len(stories)) | encoding_works(config, world, stories)


def world_works(world: StoryWorld) -> Works:
    """Return the work of the story world: texts, pictures, and both."""
    count, texts = len(world), list(world.texts())
    pages = [page for index in range(count) for page in make_plot(random.Random(index)).pages]
    return {
        "story world: texts": (lambda: list(world.texts()), {"stories": count, "texts": len(texts)}),
        "story world: pictures": (
            lambda: [draw(page, world.image_size) for page in pages],
            {"stories": count, "pictures": len(pages)},
        ),
        "story world: both": (
            lambda: [world[index] for index in range(count)],
            {"stories": count, "pictures": sum(world.lengths)},
        ),
    }


def folder_works(folder: Path, count: int) -> Works:
    """Return the work of a folder of `count` stories: opening and reading."""
    dataset = StoryFolder(folder)
    items = {"stories": count, "pictures": sum(dataset.lengths)}
    return {
        "folder: open and check": (lambda: StoryFolder(folder), items),
        "folder: read": (lambda: [dataset[index] for index in range(count)], items),
    }


def encoding_works(config: StoryConfig, world: StoryWorld, stories: Sequence[Story]) -> Works:
    """Return the work before training: tokenising, encoding, and making a batch."""
    tokenizer = StoryTokenizer.train(list(world.texts()), config.vocab_size)
    texts, length = [step.text for story in stories for step in story.steps], config.text_decoder.max_length
    _, mask = tokenizer.encode_batch(texts, length)
    torch.manual_seed(0)
    model = StoryModel(config).eval()
    encoded = EncodedStories(stories, model, tokenizer)
    batch = list(range(min(config.training.batch_size, len(stories))))
    return {
        "tokenise": (lambda: tokenizer.encode_batch(texts, length), {"texts": len(texts), "tokens": int(mask.sum())}),
        "encode for training": (
            lambda: EncodedStories(stories, model, tokenizer),
            {"stories": len(stories), "pictures": len(texts)},
        ),
        "make a batch": (
            lambda: encoded.batch(batch),
            {"stories": len(batch), "pictures": sum(encoded.lengths[index] for index in batch)},
        ),
    }


def measure(args: argparse.Namespace) -> tuple[dict[str, Any], list]:
    """Time every piece of work; return seconds and rates."""
    with tempfile.TemporaryDirectory() as folder:
        works = make_works(args, Path(folder))
        timings = time_in_turns({name: work for name, (work, _) in works.items()}, args.repeats, args.warmups)
    results, rows = {}, []
    for row, (name, (_, counts)) in zip(timing_rows(timings), works.items(), strict=True):
        seconds = summary(timings[name])
        rates = {item: number / seconds["median"] for item, number in counts.items()}
        results[name] = {"seconds": seconds, "counts": counts, "a_second": rates}
        rows.append([*row, ", ".join(f"{rate:,.0f} {item}" for item, rate in rates.items())])
    print_table((*TIMING_HEADER, "a second"), rows)
    return {"works": results}, []


def make_flags() -> argparse.ArgumentParser:
    parser = make_parser(__doc__, repeats=7, warmups=1)
    parser.add_argument(
        "--preset", choices=sorted(PRESETS), default="storyworld", help="the sizes; no weights are needed"
    )
    parser.add_argument("--num_stories", type=positive_int, default=60, help="stories to process (default 60)")
    return parser


if __name__ == "__main__":
    start(measure, make_flags())
