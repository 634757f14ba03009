"""Commands that write, each with its inputs, and what it writes on a sound machine."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

import pytest
from PIL import Image

from modules.data.writing import write_stories
from modules.storyworld import StoryWorld
from tests.faults.children import contents, in_child

OUT = "OUT"  # Stands for the output in a command's words.
NAMES = (
    "jsonl",
    "storyworld",
    "pack",
    "view",
    "stats",
    "generate",
    "edit",
    "export",
    "export_book",
    "precompute",
    "train",
)


@dataclass(frozen=True)
class Writing:
    """A command that writes, and what it writes."""

    words: tuple[str, ...]
    suffix: str
    whole: dict[str, bytes]

    def at(self, folder: Path) -> tuple[list[str], Path]:
        """Return the words of the command that writes into `folder`, and its output."""
        output = folder / f"out{self.suffix}"
        return [str(output) if word == OUT else word for word in self.words], output


def write_inputs(folder: Path, model: Path) -> dict[str, tuple[str, tuple[str, ...]]]:
    """Return for every command the ending of its output's name, and its words."""
    write_stories(folder / "data/train", StoryWorld(4, image_size=16))
    write_stories(folder / "data/val", StoryWorld(2, split="val", image_size=16))
    lines = [{"text": f"Page {page}.", "image": f"{page}.png"} for page in range(3)]
    for page in range(3):
        Image.effect_noise((40, 30), 60).save(folder / f"{page}.png")
    (folder / "t.jsonl").write_text("\n".join(map(json.dumps, lines)))
    story, ckpt = str(folder / "story"), ("--ckpt", str(model))
    few = ("--num_steps", "1", "--num_inference_steps", "1")
    assert in_child(["story", "generate", "--prompt", "A fox", *few, *ckpt, "--output", story]).code == 0
    tiny = ("--preset", "tiny", "--num_stories", "4", "--num_workers", "0")
    train = (
        "--max_steps",
        "1",
        "--batch_size",
        "1",
        "--save_every",
        "2",
        "--phases",
        "autoencoder",
        "--output_dir",
        OUT,
    )
    return {
        "jsonl": ("", ("data", "jsonl", str(folder / "t.jsonl"), "--output", OUT)),
        "storyworld": ("", ("data", "storyworld", "--stories", "3", "--image_size", "16", "--output", OUT)),
        "pack": ("", ("data", "pack", str(folder / "data"), "--output", OUT)),
        "view": (".html", ("data", "view", str(folder / "data"), "--output", OUT)),
        "stats": (".png", ("data", "stats", str(folder / "data"), "--output", OUT)),
        "generate": ("", ("story", "generate", "--prompt", "A fox", *few, *ckpt, "--output", OUT)),
        "edit": ("", ("story", "edit", story, "--page", "1", "--text", "A cat.", *ckpt, "--output", OUT)),
        "export": ("", ("story", "export", *ckpt, "--output", OUT)),
        "export_book": (".cbz", ("story", "export_book", story, "--output", OUT)),
        "precompute": ("", ("story", "precompute", *tiny, *ckpt, "--output", OUT)),
        "train": ("", ("story", "train", *tiny, *train, "--output_dir", OUT)),
    }


@pytest.fixture(scope="session")
def writings(tmp_path_factory: pytest.TempPathFactory, tiny_checkpoint: Path) -> dict[str, Writing]:
    """Every command of `NAMES` by its name."""
    found = {}
    folder = tmp_path_factory.mktemp("writings")
    for name, (suffix, words) in write_inputs(folder, tiny_checkpoint).items():
        command, output = Writing(words, suffix, {}).at(folder / name)
        output.parent.mkdir()
        ended = in_child(command)
        assert ended.code == 0, ended.error
        found[name] = Writing(words, suffix, contents(output))
    assert tuple(found) == NAMES
    return found
