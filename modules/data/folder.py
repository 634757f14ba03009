"""Stories on disk: a folder of `stories.jsonl` and pictures, checked whole when it is opened, and the batches of an
epoch.
"""

from __future__ import annotations

import hashlib
import json
import os
import warnings
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

from PIL import Image

from modules.common.errors import UserError
from modules.data.images import check_image, fit_image, load_image, to_rgb
from modules.data.order import epoch_batches
from modules.data.records import STORY_KEYS, RecordError, parse_line, parse_record, read_lines
from modules.story import Story

__all__ = ["StoryFolder", "cut_story", "epoch_batches", "fit_image", "hash_records", "open_split", "write_stories"]
STORIES_FILE = "stories.jsonl"
MANIFEST = "shards.json"  # Of stories that are packed.
SPLITS = ("train", "val")
MAX_NAMED_PROBLEMS = 5
MAX_SKIPPED_SHARE = 0.1


@dataclass(frozen=True)
class _Entry:
    line: int
    story: Story  # Without pictures.
    digest: str  # Of the line's bytes.


class StoryFolder:
    """A `StoryDataset` over `folder/stories.jsonl`; every record and every picture is checked at construction, none is
    kept open.

    One line is one story: `{"id", "prompt", "steps": [{"text", "image_path", "attributes"}, ...]}`; `image_path` is
    relative to the folder, a step may lack its text or its picture but not both (a blank text counts as none), other
    keys of a story go to `Story.extra`. The older one-step form `{"prompt", "story", "image_path"}` is read too.

    Args:
        folder: where `stories.jsonl` is; `digests` holds the SHA-256 of every record kept, and of its pictures.
        on_bad_record: "error" refuses the folder and names what is wrong; "skip" drops the whole record and counts it.
        max_steps: longer stories are cut into consecutive windows, as even as possible, with ids "id#0", "id#1", ...

    Raises:
        UserError: no such file, no stories in it, a bad record ("error"), or more than a tenth of the records bad
        ("skip").
    """

    def __init__(
        self, folder: str | Path, on_bad_record: Literal["error", "skip"] = "error", max_steps: int | None = None
    ):
        if on_bad_record not in ("error", "skip"):
            raise UserError(f'on_bad_record must be "error" or "skip", got {on_bad_record!r}')
        if max_steps is not None and max_steps < 1:
            raise UserError(f"max_steps must be at least 1, got {max_steps}")
        self.folder = Path(folder)
        self.name = str(folder)
        path = self.folder / STORIES_FILE
        entries, problems = _read_entries(path)
        digests, picture_problems = _check_pictures(entries)
        problems.update(picture_problems)
        entries = [entry for entry in entries if entry.line not in problems]
        self._stories, duplicates = _cut_and_compare(entries, max_steps)
        problems.update(duplicates)
        self.skipped = [f"{path} line {line}: {problems[line]}" for line in sorted(problems)]
        kept = [entry for entry in entries if entry.line not in duplicates]
        self._records = len(kept) + len(problems)
        _refuse_bad(self.skipped, self._records, on_bad_record)
        self.digests = [
            (entry.digest, *(digests.get(step.image_path, "") for step in entry.story.steps)) for entry in kept
        ]
        self._fingerprint = hash_records(self.digests, max_steps)

    def __len__(self) -> int:
        return len(self._stories)

    def __getitem__(self, index: int) -> Story:
        """Return one story with its pictures decoded (RGB, any size)."""
        story = self._stories[index]
        steps = (
            step if step.image_path is None else replace(step, image=load_image(step.image_path))
            for step in story.steps
        )
        return replace(story, steps=tuple(steps))

    @property
    def lengths(self) -> list[int]:
        """The number of steps of every story: what `epoch_batches` takes."""
        return [len(story.steps) for story in self._stories]

    def texts(self) -> Iterator[str]:
        """Yield every prompt and every step's text, without opening a picture."""
        for story in self._stories:
            yield story.prompt
            yield from (step.text for step in story.steps if step.text is not None)

    def outline(self, index: int) -> Story:
        """Return one story without opening its pictures."""
        return self._stories[index]

    def fingerprint(self) -> str:
        """Return a short hash of the records kept, of their pictures' bytes and of the windows; not of where the folder
        lies.
        """
        return self._fingerprint

    def report(self) -> str:
        """Say in one line what was read and what was left out."""
        read = self._records - len(self.skipped)
        line = f"{self.name}: {len(self):,} stories of {sum(self.lengths):,} steps from {read:,} of {self._records:,} records"
        if self.skipped:
            line += f"; {len(self.skipped):,} skipped, the first: {self.skipped[0]}"
        return line


class MissingSplit(UserError):
    """There is no such part of the data: one can do without it, as one cannot with a damaged one."""


def split_folders(folder: Path) -> dict[str, Path]:
    """The parts that a data folder has, by name; stories of no part are "train".

    Raises UserError where there are none.
    """
    if (folder / STORIES_FILE).is_file():
        name = folder.resolve().name
        return {name if name in SPLITS else "train": folder}
    found = {split: folder / split for split in SPLITS if (folder / split / STORIES_FILE).is_file()}
    if not found and (folder / MANIFEST).is_file():
        raise UserError(f"{folder} holds shards: give the folder that they were packed from")
    if not found:
        raise UserError(
            f"{folder} holds neither {STORIES_FILE} nor train/{STORIES_FILE}: make them with download_data.py"
        )
    return found


def open_split(folder: str | Path, split: str, **options: Any) -> StoryFolder:
    """Open the "train" or "val" part of a data folder; `options` go to `StoryFolder`.

    A folder that holds `stories.jsonl` itself is one part: the one that it is named after, else "train". It never
    stands for both, or validation would be scored on what was trained on.

    Raises:
        UserError: the folder or this part of it is missing, or as `StoryFolder`.
    """
    folder = Path(folder)
    if split not in SPLITS:
        raise UserError(f'a split is "train" or "val", got {split!r}')
    if not folder.is_dir():
        raise UserError(f"the data folder {folder} does not exist; make one with download_data.py")
    parts = split_folders(folder)
    if split not in parts:
        raise MissingSplit(f'{folder} holds stories, and no "{split}" part; give a folder with train/ and val/ in it')
    return StoryFolder(parts[split], **options)


def write_stories(folder: str | Path, stories: Iterable[Story]) -> int:
    """Write stories as `stories.jsonl` and `images/*.png`, and return how many; a step whose `image` is None gets no
    picture.

    `stories.jsonl` appears last and at once, so that an interrupted run never leaves a file that names missing
    pictures.

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


def _read_entries(path: Path) -> tuple[list[_Entry], dict[int, str]]:
    """Return the records that parse, and for every other line what is wrong with it."""
    entries, problems = [], {}
    try:
        for number, line in read_lines(path):
            try:
                story = parse_line(line, number, path.parent)
                entries.append(_Entry(number, story, hashlib.sha256(line).hexdigest()))
            except RecordError as error:
                problems[number] = str(error)
    except FileNotFoundError:
        raise UserError(f"{path} does not exist; a folder of stories needs a {STORIES_FILE}") from None
    except OSError as error:
        raise UserError(f"{path} cannot be read: {error.strerror}") from None
    if not entries and not problems:
        raise UserError(f"{path} holds no stories")
    return entries, problems


def _check_pictures(entries: list[_Entry]) -> tuple[dict[Path, str], dict[int, str]]:
    """Decode every picture once, and return the hash of each good one and the first problem of each record with a bad
    one.
    """
    paths = list(dict.fromkeys(step.image_path for entry in entries for step in entry.story.steps if step.image_path))
    with warnings.catch_warnings(), ThreadPoolExecutor(min(8, os.cpu_count() or 1)) as pool:
        warnings.simplefilter("error", Image.DecompressionBombWarning)  # Too large is our own message to give.
        results = dict(zip(paths, pool.map(_check_picture, paths), strict=True))
    problems = {}
    for entry in entries:
        for number, step in enumerate(entry.story.steps, start=1):
            if step.image_path and isinstance(results[step.image_path], UserError):
                problems.setdefault(entry.line, f"step {number}: {results[step.image_path]}")
    return {path: result for path, result in results.items() if isinstance(result, str)}, problems


def _check_picture(path: Path) -> str | UserError:
    try:
        return check_image(path)
    except UserError as error:
        return error


def _cut_and_compare(entries: list[_Entry], max_steps: int | None) -> tuple[list[Story], dict[int, str]]:
    """Cut long stories into windows, and leave out those whose id an earlier one has."""
    stories, duplicates, owners = [], {}, {}
    for entry in entries:
        windows = cut_story(entry.story, max_steps)
        ids = {entry.story.id, *(window.id for window in windows)}
        taken = sorted(ids & owners.keys())
        if taken:
            duplicates[entry.line] = f'the id "{taken[0]}" is that of line {owners[taken[0]]} too'
            continue
        owners.update(dict.fromkeys(ids, entry.line))
        stories += windows
    return stories, duplicates


def cut_story(story: Story, max_steps: int | None) -> list[Story]:
    """Cut a story of more than `max_steps` steps into consecutive windows, as even as possible."""
    count = len(story.steps)
    if max_steps is None or count <= max_steps:
        return [story]
    windows = -(-count // max_steps)
    bounds = [window * count // windows for window in range(windows + 1)]
    return [replace(story, id=f"{story.id}#{i}", steps=story.steps[bounds[i] : bounds[i + 1]]) for i in range(windows)]


def _refuse_bad(problems: list[str], records: int, on_bad_record: str) -> None:
    if not problems or (on_bad_record == "skip" and len(problems) <= MAX_SKIPPED_SHARE * records):
        return
    named = "; ".join(problems[:MAX_NAMED_PROBLEMS])
    more = f"; and {len(problems) - MAX_NAMED_PROBLEMS} more" if len(problems) > MAX_NAMED_PROBLEMS else ""
    too_many = ", too many to skip" if on_bad_record == "skip" else ""
    raise UserError(f"{len(problems)} of {records} records cannot be used{too_many}: {named}{more}")


def hash_records(digests: Iterable[Sequence[str]], max_steps: int | None) -> str:
    """The fingerprint of records, each given as the SHA-256 of its line and of its pictures ("" where there is none)."""
    digest = hashlib.sha256(f"max_steps={max_steps}".encode())
    for record in digests:
        digest.update("".join(record).encode())
    return digest.hexdigest()[:16]


def _write_pictures(folder: Path, index: int, story: Story) -> dict[str, Any]:
    """Save the pictures of a story under its number (an id may hold anything) and return the record that names them."""
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
