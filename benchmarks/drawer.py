"""Stories of the story world as arrays, drawn and tokenised by all cores."""

from __future__ import annotations

import multiprocessing
import os
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from modules.config import StoryConfig, load_config
from modules.storyworld import StoryWorld
from modules.text_decoder.tokenizers import Vocabulary, load_vocabulary

CHUNK = 200  # Stories that one process draws at a time.


class Drawer:
    """Chunks of the story world, drawn and tokenised by other processes.

    They are forked here: do it before anything has been computed, by threads or on a GPU, which a fork does not copy.
    """

    def __init__(self, ckpt: Path, num_stories: int, split: str, processes: int, *, with_texts: bool = True) -> None:
        fast = "/dev/shm" if os.access("/dev/shm", os.W_OK) else None
        self.folder = tempfile.TemporaryDirectory(dir=fast)
        config = load_config(ckpt / "config.json")
        world = StoryWorld(num_stories, split=split, image_size=config.autoencoder.image_size)
        tokenizer = load_vocabulary(ckpt, config.text_decoder) if with_texts else None
        draw = _DrawChunk(world, config, self.folder.name, tokenizer)
        self.pool = multiprocessing.get_context("fork").Pool(processes, _prepare, (draw,))
        self.files = self.pool.imap(_draw, range(0, num_stories, CHUNK))

    def __iter__(self) -> Iterator[dict[str, Tensor]]:
        """Yield the chunks in order, once."""
        for path in self.files:
            files = {file.suffixes[-2][1:]: file for file in Path(path).parent.glob(f"{Path(path).name}.*")}
            yield {name: torch.from_numpy(np.load(file)) for name, file in files.items()}
            for file in files.values():
                file.unlink()
        self.pool.close()


@dataclass
class _DrawChunk:
    world: StoryWorld
    config: StoryConfig
    folder: str
    tokenizer: Vocabulary | None

    def __call__(self, first: int) -> str:
        """Write the arrays of the chunk that begins with story `first`, and return the start of their files' names."""
        stories = [self.world[index] for index in range(first, min(first + CHUNK, len(self.world)))]
        steps = [step for story in stories for step in story.steps]
        found = {
            "lengths": np.array([len(story.steps) for story in stories]),
            "pixels": np.stack([np.asarray(step.image) for step in steps]),
        }
        if self.tokenizer is not None:
            for name, texts, length in (
                ("prompt", [story.prompt for story in stories], self.config.max_prompt_length),
                ("text", [step.text or "" for step in steps], self.config.text_decoder.max_length),
            ):
                ids, mask = self.tokenizer.encode_batch(texts, length)
                found |= {f"{name}_ids": ids.numpy().astype(np.int16), f"{name}_mask": mask.numpy()}
        path = f"{self.folder}/{first:08d}"
        for name, values in found.items():
            np.save(f"{path}.{name}.npy", values)
        return path


def _prepare(draw: _DrawChunk) -> None:
    """Give a process what it draws with, which its tasks need not carry."""
    global _draw_chunk
    torch.set_num_threads(1)
    _draw_chunk = draw


def _draw(first: int) -> str:
    return _draw_chunk(first)
