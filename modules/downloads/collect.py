"""Stories from any source into data/train and data/val: a run that is stopped, killed or out of space goes on where it
was.

While a run lasts, everything lies in FOLDER/.download-SOURCE: `records.jsonl`, pictures named by their content, and
`.progress.json`, which says how much of the records counts and where the source goes on. A picture written twice is the
same file, and what stands behind the counted records is cut off: so no story is there twice and none is missing,
whenever the run ended.
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

from modules.common.errors import UserError
from modules.common.files import disk_errors, write_whole
from modules.common.progress import progress_line
from modules.data.images import store_image
from modules.data.records import STORY_KEYS, RecordError, parse_record
from modules.downloads.fetch import fetch_picture
from modules.downloads.record import DeadLink, FoundStory, Page, Row, Source, license_key

PROGRESS, RECORDS = ".progress.json", "records.jsonl"
SECONDS_BETWEEN_SAVES = 2.0
MAX_NAMED, HOPELESS = 200, 20


@dataclass(frozen=True)
class Progress:
    """How far a run is; one JSON object in `.progress.json`."""

    settings: Mapping[str, Any]
    places: Mapping[str, Any] = field(default_factory=dict)  # Of each part: where its source goes on.
    stories: Mapping[str, int] = field(default_factory=dict)  # Of each part: how many are kept.
    finished: tuple[str, ...] = ()  # Parts that are done.
    record_bytes: int = 0
    bad: int = 0
    dead_links: int = 0
    other_licenses: int = 0
    problems: tuple[str, ...] = ()  # The first `MAX_NAMED` of the bad records.
    moving: bool = False  # The splits are made and wait to be moved to their places.

    @property
    def total(self) -> int:
        return sum(self.stories.values())


@dataclass(frozen=True)
class Limits:
    """What is kept of a source: at most `max_stories` of each part, pictures of at most `image_size`, some licences."""

    max_stories: int | None = None
    image_size: int = 512
    licenses: tuple[str, ...] = ()


class Staging:
    """The folder of a run that lasts. Raises UserError where it cannot be written, with nothing lost."""

    def __init__(self, folder: Path, settings: Mapping[str, Any]) -> None:
        self.folder, self.progress, self.ids = folder, Progress(settings), set()
        self._records: IO[bytes] | None = None
        self._saved = time.monotonic()
        self.resumed = (folder / PROGRESS).exists()
        if self.resumed:
            self.progress = read_progress(folder, settings)

    @contextlib.contextmanager
    def opened(self) -> Iterator[Staging]:
        """Cut off what does not count, and save at the end, however it comes."""
        with disk_errors(self.folder):
            self.folder.mkdir(parents=True, exist_ok=True)
            path = self.folder / RECORDS
            with open(path, "ab", buffering=0) as self._records:
                if self._records.tell() < self.progress.record_bytes:
                    raise UserError(f"{path} is shorter than {PROGRESS} says: delete {self.folder} and start anew")
                if path.is_file():
                    self._records.truncate(self.progress.record_bytes)
                self.ids = {record["id"] for _, record in read_records(self.folder)}
                try:
                    yield self
                finally:
                    if self.progress.total:
                        self.save()
                    else:
                        self._discard()
            self._records = None

    def save(self) -> None:
        """Write how far the run is, after all that this counts on lies on the disk."""
        if self._records is not None and (self.folder / RECORDS).is_file():
            os.fsync(self._records.fileno())
        write_whole(self.folder / PROGRESS, json.dumps(asdict(self.progress), ensure_ascii=False).encode())
        self._saved = time.monotonic()

    def _discard(self) -> None:
        """Leave nothing of a run that has kept no story, so that it does not stand in the way of the next, mended one."""
        shutil.rmtree(self.folder / "images", ignore_errors=True)
        with contextlib.suppress(OSError):
            for name in (RECORDS, PROGRESS):
                (self.folder / name).unlink(missing_ok=True)
            self.folder.rmdir()  # Not where a source has unpacked something here.
            self.folder.parent.rmdir()

    def add(self, source: Source, part: str, row: Row, limits: Limits) -> None:
        """Keep the stories of one row, or count and name what is wrong with it; either way the row is done after this."""
        before = self.progress
        after = replace(before, places={**before.places, part: row.place})
        lines = []
        try:
            if isinstance(row.value, RecordError):
                raise row.value
            for story in source.stories(row):
                if limits.max_stories is not None and before.stories.get(part, 0) + len(lines) >= limits.max_stories:
                    break
                if limits.licenses and license_key(story.license or source.license) not in limits.licenses:
                    after = replace(after, other_licenses=after.other_licenses + 1)
                else:
                    number = before.stories.get(part, 0) + len(lines)
                    story = replace(story, id=story.id or f"{source.name}-{part}-{number:06d}")
                    lines.append(self._encode(source, part, story, limits.image_size))
        except (RecordError, AttributeError, LookupError, TypeError, ValueError) as error:
            if not isinstance(error, RecordError):  # Foreign data can be wrong in more ways than an adapter looks for.
                error = RecordError(f"it is not what was expected ({type(error).__name__}: {error})")
            kind = "dead_links" if isinstance(error, DeadLink) else "bad"
            told = f"{row.name}: {error}".encode(errors="backslashreplace").decode()  # A file's name may be no text.
            problems = (*after.problems, told)[:MAX_NAMED]
            self.ids -= {line[0] for line in lines}
            after, lines = replace(after, problems=problems, **{kind: getattr(after, kind) + 1}), []
        content = b"".join(line for _, line in lines)
        while content:
            content = content[self._records.write(content) :]
        stories = {**before.stories, part: before.stories.get(part, 0) + len(lines)}
        added = sum(len(line) for _, line in lines)
        self.progress = replace(after, stories=stories, record_bytes=before.record_bytes + added)
        if time.monotonic() - self._saved > SECONDS_BETWEEN_SAVES:
            self.save()

    def _encode(self, source: Source, part: str, story: FoundStory, image_size: int) -> tuple[str, bytes]:
        """The line of one story, whose pictures are written. Raises RecordError."""
        if story.id in self.ids:
            raise RecordError(f'the id "{story.id}" was there before')
        if clash := sorted(story.extra.keys() & set(STORY_KEYS)):
            raise RecordError(f'"{clash[0]}" cannot be a key of its own')
        files = [self._picture(page, image_size) for page in story.pages]
        steps = [
            {"text": page.text, "image_path": file}
            | ({} if page.attributes is None else {"attributes": page.attributes})
            for page, file in zip(story.pages, files, strict=True)
        ]
        record = {
            "id": story.id,
            "prompt": story.prompt,
            "source": source.name,
            "license": story.license or source.license,
        }
        record |= {"credit": story.credit} if story.credit else {}
        record |= {**story.extra, "steps": steps}
        parse_record(record, story.id, self.folder)
        try:
            line = json.dumps([part, record], ensure_ascii=False, allow_nan=False).encode("utf-8") + b"\n"
        except (TypeError, ValueError, RecursionError) as error:
            raise RecordError(f"it cannot be written as JSON ({error})") from None
        self.ids.add(story.id)
        return story.id, line

    def _picture(self, page: Page, image_size: int) -> str | None:
        """Store a picture under the hash of its content, and return its path within the folder."""
        if page.image is None:
            return None
        content, name = page.image, "in the record"
        if isinstance(content, Path):
            name = str(content)
            if not content.is_file():
                raise RecordError(f"the picture {name} does not exist")
            content = content.read_bytes()
        elif isinstance(content, str):
            name, content = content, fetch_picture(content)
        digest = hashlib.sha256(content).hexdigest()[:24]
        try:
            stored, ending = store_image(content, name, image_size)
        except UserError as error:
            raise RecordError(str(error)) from None
        path = f"images/{digest[:2]}/{digest}{ending}"
        if not (self.folder / path).exists():
            write_whole(self.folder / path, stored)
        return path


def read_progress(folder: Path, settings: Mapping[str, Any]) -> Progress:
    """What an earlier run left. Raises UserError where it was another one."""
    try:
        values = json.loads((folder / PROGRESS).read_bytes())
        progress = Progress(**{**values, "finished": tuple(values["finished"]), "problems": tuple(values["problems"])})
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise UserError(f"{folder / PROGRESS} cannot be read ({error}): delete {folder} and start anew") from None
    settings = json.loads(json.dumps(settings))
    for key in sorted(settings.keys() | progress.settings.keys()):
        was, now = progress.settings.get(key), settings.get(key)
        if was != now:
            raise UserError(
                f"{folder} holds a run that was stopped, with {key} {was}, not {now}: give the same, or delete that folder"
            )
    return progress


def read_records(folder: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yield (part, record) of everything that a run has kept."""
    if (folder / RECORDS).is_file():
        with open(folder / RECORDS, "rb") as file:
            yield from map(json.loads, file)


def collect(source: Source, staging: Staging, parts: tuple[str, ...], limits: Limits) -> None:
    """Read the parts of a source into `staging`, from where an earlier run got.

    Raises:
        UserError: as the source, the disk is full, or not one of the first records can be used.
    """
    with staging.opened():
        for part in parts:
            if part not in staging.progress.finished:
                _collect_part(source, staging, part, limits)
                staging.progress = replace(staging.progress, finished=(*staging.progress.finished, part))
        if not staging.progress.total:
            raise UserError(f"{source.name} gave no story that can be used{_why(staging.progress)}")


def _collect_part(source: Source, staging: Staging, part: str, limits: Limits) -> None:
    known = getattr(source, "sizes", {}).get(part)
    total = min(filter(None, (known, limits.max_stories)), default=None)
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
                raise UserError(f"not one of the first {HOPELESS} records of {source.name} can be used{_why(progress)}")


def summary(progress: Progress) -> str:
    """What was left out, in a few words."""
    counts = (
        ("bad", progress.bad),
        ("with dead links", progress.dead_links),
        ("of other licences", progress.other_licenses),
    )
    return ", ".join(f"{count:,} {what}" for what, count in counts if count)


def _why(progress: Progress) -> str:
    left_out = summary(progress)
    first = f"; the first: {progress.problems[0]}" if progress.problems else ""
    return f" ({left_out}{first})" if left_out else ""
