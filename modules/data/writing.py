"""Write stories to disk as a folder of `stories.jsonl` and PNG pictures."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path
from typing import Any

from modules.common.errors import UserError
from modules.data.images import to_rgb
from modules.data.records import STORIES_FILE, STORY_KEYS, RecordError, parse_record
from modules.story import Story


def write_stories(folder: str | Path, stories: Iterable[Story]) -> int:
    """Write stories as `stories.jsonl` and `images/*.png`, and return their number.

    A step whose `image` is None gets no picture. `stories.jsonl` is moved into place last, so an interrupted run never
    leaves a file that names missing pictures.

    Raises:
        UserError: the folder cannot be written, or a story could not be read back (empty step, repeated id, not JSON).
    """
    folder = Path(folder)
    partial = folder / f"{STORIES_FILE}.partial"
    ids: set[str] = set()
    try:
        (folder / "images").mkdir(parents=True, exist_ok=True)
        with open(partial, "wb") as file:
            for index, story in enumerate(stories):
                if story.id in ids:
                    raise UserError(f'two stories have the id "{story.id}"')
                ids.add(story.id)
                file.write(_encode_record(_write_pictures(folder, index, story), folder))
        os.replace(partial, folder / STORIES_FILE)
    except OSError as error:
        raise UserError(f"stories cannot be written to {folder}: {error}") from None
    finally:
        with suppress(OSError):
            partial.unlink(missing_ok=True)
    return len(ids)


def _write_pictures(folder: Path, index: int, story: Story) -> dict[str, Any]:
    """Save a story's pictures and return its record.

    Files are named by the story's number, because an id may contain any character.
    """
    steps = []
    for number, step in enumerate(story.steps):
        record: dict[str, Any] = {"text": step.text, "image_path": None}
        if step.image is not None:
            record["image_path"] = f"images/{index:06d}_{number:02d}.png"
            to_rgb(step.image).save(folder / record["image_path"])
        if step.attributes is not None:
            record["attributes"] = dict(step.attributes)
        steps.append(record)
    if clash := sorted(story.extra.keys() & set(STORY_KEYS)):
        raise UserError(f'story "{story.id}": "{clash[0]}" cannot be a key of extra')
    return {"id": story.id, "prompt": story.prompt, **story.extra, "steps": steps}


def _encode_record(record: dict[str, Any], folder: Path) -> bytes:
    try:
        parse_record(record, record["id"], folder)
        return json.dumps(record, ensure_ascii=False, allow_nan=False).encode("utf-8") + b"\n"
    except (RecordError, TypeError, ValueError, RecursionError) as error:
        raise UserError(f'story "{record["id"]}" cannot be written: {error}') from None
