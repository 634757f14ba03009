"""Small folders of stories, as people would write them by hand."""

from __future__ import annotations

import json
from pathlib import Path

from PIL import Image


def picture(colour=(200, 30, 40), size=(12, 8), mode="RGB") -> Image.Image:
    return Image.new("RGB", size, colour).convert(mode)


def record(id="a", pages=2, **more) -> dict:
    steps = [{"text": f"Page {page}.", "image_path": "images/p.png"} for page in range(pages)]
    return {"id": id, "prompt": "A fox", "steps": steps, **more}


def make_folder(folder: Path, lines: list) -> Path:
    (folder / "images").mkdir(parents=True, exist_ok=True)
    picture().save(folder / "images" / "p.png")
    data = b"\n".join(line if isinstance(line, bytes) else json.dumps(line).encode() for line in lines)
    (folder / "stories.jsonl").write_bytes(data)
    return folder


def page(**step) -> dict:
    return record(steps=[{"text": "One.", "image_path": "images/p.png"}, step])


def write_captioned_folder(folder: Path, num_stories: int) -> None:
    """Write a folder for each story, with pictures and a .txt beside each; no two pictures are the same."""
    for number in range(num_stories):
        story = folder / f"story_{number}"
        story.mkdir(parents=True)
        for page in (1, 2):
            picture((20 * number % 256, 90 * page, 40), (32, 32)).save(story / f"page_{page}.png")
            (story / f"page_{page}.txt").write_text(f"Page {page} of the story.")
