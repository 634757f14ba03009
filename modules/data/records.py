"""Parse and check the lines of a stories.jsonl file; pictures are not loaded."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path, PureWindowsPath
from typing import Any

from modules.story import Story, StoryStep

SPLITS = ("train", "val")
STORIES_FILE = "stories.jsonl"
MANIFEST = "shards.json"  # Lists the shards of packed stories.
MAX_LINE_BYTES = 10_000_000
STORY_KEYS = ("id", "prompt", "steps")
OLD_STORY_KEYS = ("id", "prompt", "story", "image_path")


class RecordError(Exception):
    """A fault of one record; the caller adds the file and the line."""


def read_lines(path: Path) -> Iterator[tuple[int, bytes]]:
    """Yield (line number from 1, bytes) of every line that is not blank.

    Of a line longer than `MAX_LINE_BYTES` only the beginning is kept in memory, which `parse_line` then refuses.
    """
    with open(path, "rb") as file:
        number = 0
        while line := file.readline(MAX_LINE_BYTES + 1):
            number += 1
            rest = line
            while len(rest) > MAX_LINE_BYTES and not rest.endswith(b"\n"):
                rest = file.readline(MAX_LINE_BYTES + 1)
            if number == 1:
                line = line.removeprefix(b"\xef\xbb\xbf")  # The byte order mark that some editors write.
            if line.strip():
                yield number, line.rstrip(b"\r\n")


def parse_line(line: bytes, number: int, folder: Path) -> Story:
    """Parse one line.

    Args:
        line: one record as JSON.
        number: the line number, which names an older record that has no id.
        folder: the folder that picture paths are relative to.

    Raises:
        RecordError: as `decode_line` and `parse_record`.
    """
    return parse_record(decode_line(line), f"line{number}", folder)


def decode_line(line: bytes) -> Any:
    """Decode the JSON of one record.

    Raises:
        RecordError: the line is too long, not UTF-8 or not JSON.
    """
    if len(line) > MAX_LINE_BYTES:
        raise RecordError(f"the line is longer than {MAX_LINE_BYTES // 1_000_000} MB")
    try:
        return json.loads(line.decode("utf-8"), parse_constant=_refuse_constant)
    except UnicodeDecodeError as error:
        raise RecordError(f"not UTF-8 (byte {error.start + 1} of the line)") from None
    except RecursionError:
        raise RecordError("nested too deeply") from None
    except ValueError as error:
        raise RecordError(f"not valid JSON ({error})") from None


def parse_record(record: Any, default_id: str, folder: Path) -> Story:
    """Turn a decoded record of either form into a `Story` whose steps have an `image_path` but no picture yet.

    Raises:
        RecordError: a wrong type, no steps, an empty step, or a picture's path that leaves `folder`.
    """
    if not isinstance(record, dict):
        raise RecordError(f"a story must be an object, got {_kind(record)}")
    if "steps" not in record and "story" in record:
        steps = [{"text": record["story"], "image_path": record.get("image_path")}]
        record = {
            "id": default_id,
            **{key: value for key, value in record.items() if key not in OLD_STORY_KEYS[2:]},
            "steps": steps,
        }
    try:
        json.dumps(record, ensure_ascii=False).encode("utf-8")
    except UnicodeEncodeError:  # JSON's \ud800 escapes can spell half a character, which no file can store.
        raise RecordError("it contains half of a surrogate pair") from None
    except (TypeError, ValueError, RecursionError) as error:
        raise RecordError(f"it cannot be written as JSON ({error})") from None
    for key in STORY_KEYS:
        if key not in record:
            raise RecordError(f'the key "{key}" is missing')
    if not _text(record["id"], '"id"'):
        raise RecordError('"id" is empty')
    steps = record["steps"]
    if not isinstance(steps, list):
        raise RecordError(f'"steps" must be a list, got {_kind(steps)}')
    if not steps:
        raise RecordError("the story has no steps")
    return Story(
        id=record["id"],
        prompt=_text(record["prompt"], '"prompt"'),
        steps=tuple(_parse_step(step, f"step {number}", folder) for number, step in enumerate(steps, start=1)),
        extra={key: value for key, value in record.items() if key not in STORY_KEYS},
    )


def _parse_step(step: Any, where: str, folder: Path) -> StoryStep:
    if not isinstance(step, dict):
        raise RecordError(f"{where}: must be an object, got {_kind(step)}")
    text, image_path, attributes = step.get("text"), step.get("image_path"), step.get("attributes")
    if text is not None and not _text(text, f'{where}: "text"').strip():
        text = None
    if attributes is not None and not isinstance(attributes, dict):
        raise RecordError(f'{where}: "attributes" must be an object, got {_kind(attributes)}')
    if text is None and image_path is None:
        raise RecordError(f"{where}: has neither a text nor a picture")
    path = None if image_path is None else _path_inside(folder, _text(image_path, f'{where}: "image_path"'), where)
    return StoryStep(text=text, attributes=attributes, image_path=path)


def _path_inside(folder: Path, image_path: str, where: str) -> Path:
    # A Windows path accepts both kinds of separators, so data is checked the same on every system.
    parts = PureWindowsPath(image_path)
    if not image_path or parts.drive or parts.root or ".." in parts.parts:
        raise RecordError(f'{where}: "image_path" must be a path inside the folder of its file, got {image_path!r}')
    path = folder / image_path
    try:
        inside = path.resolve().is_relative_to(folder.resolve())
    except (OSError, RuntimeError, ValueError) as error:  # A loop of links, a null byte, a name too long.
        raise RecordError(f'{where}: "image_path" is not a usable path ({error})') from None
    if not inside:
        raise RecordError(f"{where}: the picture {image_path} is a link that leaves the folder")
    return path


def _text(value: Any, key: str) -> str:
    if not isinstance(value, str):
        raise RecordError(f"{key} must be a text, got {_kind(value)}")
    return value


def _refuse_constant(name: str) -> None:
    raise ValueError(f"{name} is not a JSON number")


def _kind(value: Any) -> str:
    kinds = {
        type(None): "null",
        bool: "a boolean",
        int: "a number",
        float: "a number",
        str: "a text",
        list: "a list",
        dict: "an object",
    }
    return kinds.get(type(value), type(value).__name__)
