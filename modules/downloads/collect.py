"""Collect the stories of a source into a staging folder; a run that was stopped or killed can be resumed.

The staging folder, FOLDER/.download-SOURCE, contains `records.jsonl`, pictures named by their content, and
`.progress.json`, with the length of the valid records and the place to resume the source. On resuming, anything behind
the valid records is cut off. So no story is duplicated or lost, whenever the run ended.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import shutil
import time
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import IO, Any

from modules.common.errors import UserError, one_line, shown
from modules.common.files import disk_errors, write_whole
from modules.common.progress import progress_line
from modules.data.images import store_image
from modules.data.records import SPLITS, STORY_KEYS, RecordError, parse_record
from modules.downloads.fetch import fetch_picture, without_password
from modules.downloads.record import DeadLink, Row, Source, SourceStep, SourceStory, license_key

PROGRESS, RECORDS, COUNTS = ".progress.json", "records.jsonl", "counts.json"
SECONDS_BETWEEN_SAVES = 2.0
MAX_NAMED, HOPELESS = 200, 20


@dataclass(frozen=True)
class Progress:
    """The progress of a run, saved as `.progress.json`."""

    settings: Mapping[str, Any]
    places: Mapping[str, Any] = field(default_factory=dict)  # Of each part: where to resume the source.
    stories: Mapping[str, int] = field(default_factory=dict)  # Of each part: how many were kept.
    finished: tuple[str, ...] = ()  # Parts that are complete.
    record_bytes: int = 0
    bad: int = 0
    dead_links: int = 0
    other_licenses: int = 0
    problems: tuple[str, ...] = ()  # Descriptions of the first `MAX_NAMED` bad records.
    moving: bool = False  # The splits are written and ready to be moved.

    @property
    def total(self) -> int:
        return sum(self.stories.values())


@dataclass(frozen=True)
class Limits:
    """Limits of a download: stories of each part, the longest side of a picture in pixels, and allowed licences."""

    max_stories: int | None = None
    image_size: int = 512
    licenses: tuple[str, ...] = ()


class Staging:
    """The staging folder of a run. Raises UserError if it cannot be written; nothing is lost then."""

    def __init__(self, folder: Path, settings: Mapping[str, Any]) -> None:
        self.folder, self.progress = folder, Progress(settings)
        self.ids: dict[str, str] = {}  # The part of each story by its id.
        self._records: IO[bytes] | None = None
        self._saved = time.monotonic()
        self.resumed = (folder / PROGRESS).exists()
        if self.resumed:
            self.progress = read_progress(folder, settings)

    @contextlib.contextmanager
    def opened(self) -> Iterator[Staging]:
        """Cut off invalid records, and save the progress at the end in any case."""
        with disk_errors(self.folder):
            self.folder.mkdir(parents=True, exist_ok=True)
            if not self.resumed:
                self._begin()
            path = self.folder / RECORDS
            with open(path, "ab", buffering=0) as self._records:
                if self._records.tell() < self.progress.record_bytes:
                    raise UserError(f"{path} is shorter than {PROGRESS} records: delete {self.folder} and start again")
                if path.is_file():
                    self._records.truncate(self.progress.record_bytes)
                self.ids = {record["id"]: part for part, record in read_records(self.folder)}
                try:
                    yield self
                finally:
                    if self.progress.total:
                        self.save()
                    else:
                        self._discard()
            self._records = None

    def _begin(self) -> None:
        """Save the progress first, by which the folder is known. Raises UserError if it has files of somebody else."""
        if foreign := [path for name in (RECORDS, "images", *SPLITS) if (path := self.folder / name).exists()]:
            raise UserError(f"{foreign[0]} is in the way of unfinished work of this program: move it away")
        self.save()

    def save(self) -> None:
        """Save the progress, after flushing the records that it refers to."""
        if self._records is not None and (self.folder / RECORDS).is_file():
            os.fsync(self._records.fileno())
        write_whole(self.folder / PROGRESS, json.dumps(asdict(self.progress), ensure_ascii=False).encode())
        self._saved = time.monotonic()

    def _discard(self) -> None:
        """Delete the staging folder of a run that kept no story, so that a corrected rerun starts clean."""
        shutil.rmtree(self.folder / "images", ignore_errors=True)
        with contextlib.suppress(OSError):
            for name in (RECORDS, PROGRESS):
                (self.folder / name).unlink(missing_ok=True)
            self.folder.rmdir()  # Fails, as it should, if a source has unpacked files here.

    def remove(self) -> None:
        """Delete the staging folder of a run that is done; the progress, by which it is known, comes last."""
        for path in [path for path in self.folder.iterdir() if path.name not in (PROGRESS, COUNTS)]:
            shutil.rmtree(path) if path.is_dir() else path.unlink()
        for name in (PROGRESS, COUNTS):
            (self.folder / name).unlink(missing_ok=True)
        self.folder.rmdir()

    def add(self, source: Source, part: str, row: Row, limits: Limits) -> None:
        """Keep the stories of one row, or count and describe its fault; in both cases the row is done."""
        before = self.progress
        after = replace(before, places={**before.places, part: row.place})
        kept = before.stories.get(part, 0)
        lines: list[tuple[str, bytes]] = []
        try:
            if isinstance(row.value, RecordError):
                raise row.value
            for story in source.stories(row):
                if limits.max_stories is not None and kept + len(lines) >= limits.max_stories:
                    break
                if limits.licenses and license_key(story.license or source.license) not in limits.licenses:
                    after = replace(after, other_licenses=after.other_licenses + 1)
                else:
                    story = replace(story, id=story.id or f"{source.name}-{part}-{kept + len(lines):06d}")
                    lines.append(self._encode(source, part, story, limits.image_size))
        except (RecordError, AttributeError, LookupError, TypeError, ValueError) as error:
            for story_id, _ in lines:
                del self.ids[story_id]
            after, lines = _with_fault(after, row, error), []
        self._append(b"".join(line for _, line in lines))
        size = before.record_bytes + sum(len(line) for _, line in lines)
        self.progress = replace(after, stories={**before.stories, part: kept + len(lines)}, record_bytes=size)
        if time.monotonic() - self._saved > SECONDS_BETWEEN_SAVES:
            self.save()

    def _append(self, content: bytes) -> None:
        assert self._records is not None, "add() is called inside opened()"
        while content:
            content = content[self._records.write(content) :]

    def _encode(self, source: Source, part: str, story: SourceStory, image_size: int) -> tuple[str, bytes]:
        """Store the pictures of a story and return its id and its line. Raises RecordError."""
        if self.ids.get(story.id, part) != part:  # Each split may number its stories anew.
            story = replace(story, id=f"{part}/{story.id}")
        if story.id in self.ids:
            raise RecordError(f'the id "{shown(story.id)}" was used before')
        if clash := sorted(story.extra.keys() & set(STORY_KEYS)):
            raise RecordError(f'"{clash[0]}" cannot be an extra key')
        files = [self._store_picture(source, step, image_size) for step in story.steps]
        steps = [
            {"text": step.text, "image_path": file}
            | ({} if step.attributes is None else {"attributes": step.attributes})
            for step, file in zip(story.steps, files, strict=True)
        ]
        record: dict[str, Any] = {"id": story.id, "prompt": story.prompt, "source": source.name}
        record |= {"license": story.license or source.license}
        record |= {"credit": story.credit} if story.credit else {}
        record |= {**story.extra, "steps": steps}
        parse_record(record, story.id, self.folder)
        try:
            line = json.dumps([part, record], ensure_ascii=False, allow_nan=False).encode("utf-8") + b"\n"
        except (TypeError, ValueError, RecursionError) as error:
            raise RecordError(f"it cannot be written as JSON ({error})") from None
        self.ids[story.id] = part
        return story.id, line

    def _store_picture(self, source: Source, step: SourceStep, image_size: int) -> str | None:
        """Store a picture under the hash of its content, and return its path within the folder. Raises RecordError."""
        if step.image is None:
            return None
        content, name = _read_picture(source, step.image)
        digest = hashlib.sha256(content).hexdigest()[:24]
        try:
            stored, ending = store_image(content, name, image_size)
        except UserError as error:
            raise RecordError(str(error)) from None
        path = f"images/{digest[:2]}/{digest}{ending}"
        if not (self.folder / path).exists():
            write_whole(self.folder / path, stored)
        return path


def _read_picture(source: Source, image: bytes | Path | str) -> tuple[bytes, str]:
    """Return the bytes of a picture, and its name for messages. Raises RecordError."""
    if isinstance(image, bytes):
        return image, "in the record"
    if isinstance(image, str):
        if not source.fetch:
            raise RecordError(f"the picture {shown(without_password(image))} is an address: add --fetch to download it")
        return fetch_picture(image), shown(without_password(image))
    source.check_inside(image)
    try:
        return image.read_bytes(), str(image)
    except OSError as error:
        raise RecordError(f"the picture {image} cannot be read ({error.strerror})") from None


def _with_fault(progress: Progress, row: Row, error: Exception) -> Progress:
    """Return the progress with one more bad record or dead link."""
    if not isinstance(error, RecordError):  # Foreign data has more kinds of faults than an adapter checks for.
        error = RecordError(f"it is not what was expected ({type(error).__name__}: {error})")
    problem = f"{row.name}: {one_line(error)}"
    problem = problem.encode(errors="backslashreplace").decode()  # A file name may be invalid Unicode.
    problems = (*progress.problems, problem)[:MAX_NAMED]
    if isinstance(error, DeadLink):
        return replace(progress, problems=problems, dead_links=progress.dead_links + 1)
    return replace(progress, problems=problems, bad=progress.bad + 1)


def read_progress(folder: Path, settings: Mapping[str, Any]) -> Progress:
    """Return the progress of an earlier run. Raises UserError if its settings differ."""
    try:
        values = json.loads((folder / PROGRESS).read_bytes())
        progress = Progress(**{**values, "finished": tuple(values["finished"]), "problems": tuple(values["problems"])})
    except (OSError, ValueError, KeyError, TypeError, RecursionError) as error:
        raise UserError(f"{folder / PROGRESS} cannot be read ({error}): delete {folder} and start again") from None
    settings = json.loads(json.dumps(settings))
    for key in sorted(settings.keys() | progress.settings.keys()):
        was, now = progress.settings.get(key), settings.get(key)
        if was != now:
            stopped = f"{folder} contains a stopped run, with {key} {was}, not {now}"
            raise UserError(f"{stopped}: give the same, or delete that folder")
    return progress


def read_records(folder: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yield (part, record) of every story kept."""
    if (folder / RECORDS).is_file():
        with open(folder / RECORDS, "rb") as file:
            yield from map(json.loads, file)


def collect(source: Source, staging: Staging, parts: tuple[str, ...], limits: Limits) -> None:
    """Read the parts of a source into `staging`, resuming an earlier run.

    Raises:
        UserError: as the source, or the disk is full, or none of the first records can be used.
    """
    with staging.opened():
        for part in parts:
            if part not in staging.progress.finished:
                _collect_part(source, staging, part, limits)
                staging.progress = replace(staging.progress, finished=(*staging.progress.finished, part))
        if not staging.progress.total:
            raise UserError(f"{source.name} has no usable story{_why(staging.progress)}")


def _collect_part(source: Source, staging: Staging, part: str, limits: Limits) -> None:
    total = min(filter(None, (source.sizes.get(part), limits.max_stories)), default=None)
    with progress_line(f"{source.name} {part}", total) as line:
        rows = source.rows(part, staging.progress.places.get(part))
        while limits.max_stories is None or staging.progress.stories.get(part, 0) < limits.max_stories:
            row = next(rows, None)
            if row is None:
                return
            staging.add(source, part, row, limits)
            progress = staging.progress
            line.update(progress.stories.get(part, 0), summary(progress))
            if not progress.total and progress.bad + progress.dead_links >= HOPELESS:
                raise UserError(f"none of the first {HOPELESS} records of {source.name} can be used{_why(progress)}")


def summary(progress: Progress) -> str:
    """Return the numbers of records left out, by reason."""
    counts = (
        ("bad", progress.bad),
        ("with dead links", progress.dead_links),
        ("of other licences", progress.other_licenses),
    )
    return ", ".join(f"{count:,} {reason}" for reason, count in counts if count)


def _why(progress: Progress) -> str:
    left_out = summary(progress)
    first = f"; the first: {progress.problems[0]}" if progress.problems else ""
    return f" ({left_out}{first})" if left_out else ""
