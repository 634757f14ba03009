"""The whole inputs that are damaged: a tiny model's story, its exports, and shards."""

from __future__ import annotations

from pathlib import Path

import download_data
import story_generative_model
from modules.data.writing import write_stories
from modules.storyworld import StoryWorld
from tests.damaged.model_inputs import Base

BOOKS = ("book.cbz", "book.epub", "book.gif", "book.webp", "book.txt")


def make_base(folder: Path, model: Path, run: Path) -> Base:
    """Return a tiny model's story, its exports and shards in `folder`, and a `run`, one of `support.runs`."""
    story = folder / "story"
    words = ["--prompt", "A fox", "--num_steps", "2", "--num_inference_steps", "1"]
    assert story_generative_model.main(["generate", *words, "--ckpt", str(model), "--output", str(story)]) == 0
    books = tuple(folder / name for name in BOOKS)
    for book in books:
        assert story_generative_model.main(["export_book", str(story), "--output", str(book)]) == 0
    for split in ("train", "val"):
        write_stories(folder / "data" / split, StoryWorld(4, split=split, image_size=32))
    assert download_data.main(["pack", str(folder / "data"), "--output", str(folder / "shards")]) == 0
    return Base(model, story, books, folder / "shards", run)
