"""Runs of download_data.py, and what they leave behind."""

from __future__ import annotations

from pathlib import Path

from PIL import Image

import download_data
from modules.data.folder import open_split


def paint(path: Path, colour: int | str, size: tuple[int, int] = (30, 20), **options) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    colour = colour if isinstance(colour, str) else (colour * 37 % 256, colour * 91 % 256, colour % 256)
    Image.new("RGB", size, colour).save(path, **options)
    return path


def run(*words) -> int:
    try:
        return download_data.main([str(word) for word in words])
    except SystemExit as exit:
        return exit.code


def collected(output: Path, *words) -> dict:
    """All stories that a command makes, by id."""
    assert run(*words, "--output", output) == 0
    splits = [split for split in ("train", "val") if (output / split).exists()]
    return {story.id: story for split in splits for story in open_split(output, split)}


def texts(story) -> list:
    return [step.text for step in story.steps]


def files(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}
