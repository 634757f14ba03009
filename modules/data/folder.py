"""A folder of stories: `stories.jsonl` and pictures, checked completely when it is opened."""

from __future__ import annotations

import hashlib
import os
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal, TypeVar

from PIL import Image

from modules.common.errors import UserError
from modules.data.images import check_image, load_image
from modules.data.records import MANIFEST, SPLITS, STORIES_FILE, RecordError, parse_line, read_lines
from modules.data.windows import cut_story
from modules.story import Story

MAX_NAMED_PROBLEMS = 5
MAX_SKIPPED_SHARE = 0.1
T = TypeVar("T")


@dataclass(frozen=True)
class _Entry:
    line: int
    story: Story  # Without pictures.
    digest: str  # SHA-256 of the line.


class StoryFolder:
    """A `StoryDataset` over `folder/stories.jsonl`; every record and every picture is checked at construction.

    One line is one story: `{"id", "prompt", "steps": [{"text", "image_path", "attributes"}, ...]}`. `image_path` is
    relative to the folder. A step may lack its text or its picture but not both; a blank text counts as none. Other
    keys of a story go to `Story.extra`. The older one-step form `{"prompt", "story", "image_path"}` is read too.

    Args:
        folder: the folder that contains `stories.jsonl`.
        on_bad_record: "error" refuses the folder and names its faults; "skip" drops and counts bad records.
        max_steps: longer stories are cut into windows, see `windows.py`.

    Attributes:
        digests: for every record kept, the SHA-256 of its line and of each of its pictures ("" where there is none).
        skipped: the location and fault of every record left out.

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
        refuse_bad(self.skipped, self._records, on_bad_record)
        self.digests = [(entry.digest, *_picture_digests(entry.story, digests)) for entry in kept]
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
        """The number of steps of every story."""
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
        """Return a short hash of the kept records, their pictures' bytes and `max_steps`; the path does not matter."""
        return self._fingerprint

    def report(self) -> str:
        """Return one line with the number of stories read and of records skipped."""
        read = self._records - len(self.skipped)
        counts = f"{len(self):,} stories of {sum(self.lengths):,} steps from {read:,} of {self._records:,} records"
        skipped = f"; {len(self.skipped):,} skipped, the first: {self.skipped[0]}" if self.skipped else ""
        return f"{self.name}: {counts}{skipped}"


class MissingSplit(UserError):
    """The data has no such split; unlike damaged data, this can often be worked around."""


def split_folders(folder: Path) -> dict[str, Path]:
    """Return the folder of each split that a data folder has.

    A folder that contains `stories.jsonl` itself is the split that it is named after, else "train".

    Raises:
        UserError: there is no split.
    """
    if (folder / STORIES_FILE).is_file():
        name = folder.resolve().name
        return {name if name in SPLITS else "train": folder}
    found = {split: folder / split for split in SPLITS if (folder / split / STORIES_FILE).is_file()}
    if not found and (folder / MANIFEST).is_file():
        raise UserError(f"{folder} contains shards: give the folder that they were packed from")
    if not found:
        raise UserError(
            f"{folder} has neither {STORIES_FILE} nor train/{STORIES_FILE}: make them with download_data.py"
        )
    return found


def check_split_name(split: str) -> None:
    """Raise UserError if `split` is not one of `SPLITS`."""
    if split not in SPLITS:
        raise UserError(f'a split is "train" or "val", got {split!r}')


def open_split(folder: str | Path, split: str, **options: Any) -> StoryFolder:
    """Open the "train" or "val" split of a data folder; `options` go to `StoryFolder`.

    A folder with `stories.jsonl` directly in it is one split only, never both: otherwise validation would be scored on
    training stories.

    Raises:
        UserError: the folder does not exist, or as `StoryFolder`.
        MissingSplit: the folder has no such split.
    """
    folder = Path(folder)
    check_split_name(split)
    if not folder.is_dir():
        raise UserError(f"the data folder {folder} does not exist; make one with download_data.py")
    parts = split_folders(folder)
    if split not in parts:
        raise MissingSplit(f'{folder} has stories but no "{split}" split; give a folder with train/ and val/ in it')
    return StoryFolder(parts[split], **options)


def hash_records(digests: Iterable[Sequence[str]], max_steps: int | None) -> str:
    """Return the fingerprint of records, each given as the SHA-256 of its line and pictures ("" for no picture)."""
    digest = hashlib.sha256(f"max_steps={max_steps}".encode())
    for record in digests:
        digest.update("".join(record).encode())
    return digest.hexdigest()[:16]


def picture_paths(stories: Iterable[Story]) -> list[Path]:
    """Return the path of every picture of some stories, each once, in order."""
    paths = (step.image_path for story in stories for step in story.steps)
    return list(dict.fromkeys(path for path in paths if path is not None))


def read_pictures(read: Callable[[Path], T], paths: Sequence[Path]) -> dict[Path, T]:
    """Apply `read` to every picture file in several threads; Pillow's warning about huge pictures becomes an error."""
    with warnings.catch_warnings(), ThreadPoolExecutor(min(8, os.cpu_count() or 1)) as pool:
        warnings.simplefilter("error", Image.DecompressionBombWarning)
        return dict(zip(paths, pool.map(read, paths), strict=True))


def _read_entries(path: Path) -> tuple[list[_Entry], dict[int, str]]:
    """Return the records that parse, and the fault of every other line by its number."""
    entries: list[_Entry] = []
    problems: dict[int, str] = {}
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
        raise UserError(f"{path} has no stories")
    return entries, problems


def _check_pictures(entries: list[_Entry]) -> tuple[dict[Path, str], dict[int, str]]:
    """Decode every picture once.

    Returns:
        The SHA-256 of each good picture by path, and the first fault of each record with a bad one by line number.
    """
    results = read_pictures(_check_picture, picture_paths(entry.story for entry in entries))
    problems: dict[int, str] = {}
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


def _picture_digests(story: Story, digests: Mapping[Path, str]) -> Iterator[str]:
    return (digests[step.image_path] if step.image_path else "" for step in story.steps)


def _cut_and_compare(entries: list[_Entry], max_steps: int | None) -> tuple[list[Story], dict[int, str]]:
    """Cut long stories into windows; leave out, and return by line, stories whose id was used before."""
    stories: list[Story] = []
    duplicates: dict[int, str] = {}
    owners: dict[str, int] = {}
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


def refuse_bad(problems: Sequence[str], records: int, on_bad_record: str) -> None:
    """Raise UserError if there are problems, or with "skip" if there are too many of them."""
    if not problems or (on_bad_record == "skip" and len(problems) <= MAX_SKIPPED_SHARE * records):
        return
    named = "; ".join(problems[:MAX_NAMED_PROBLEMS])
    unnamed = f"; and {len(problems) - MAX_NAMED_PROBLEMS} more" if len(problems) > MAX_NAMED_PROBLEMS else ""
    too_many = ", too many to skip" if on_bad_record == "skip" else ""
    raise UserError(f"{len(problems)} of {records} records cannot be used{too_many}: {named}{unnamed}")
