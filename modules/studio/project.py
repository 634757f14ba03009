"""A project of the studio: one folder that only grows.

states.jsonl    one record a line: stories, their states, which state is shown, and jobs that wait
pictures/       the pictures by the SHA-256 of their files

A state is a story as it was at one moment. States form a tree: an edit adds a child, undoing goes back to the parent.
Nothing is ever changed or removed, so a killed process loses at most a line that it was writing.
"""

from __future__ import annotations

import contextlib
import hashlib
import io
import json
import os
import threading
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from PIL import Image

from modules.common.errors import UserError
from modules.common.files import write_whole
from modules.common.folder_lock import FolderLock
from modules.data.images import decode_image
from modules.presentation.images import encode_png
from modules.steering.plan import Plan
from modules.steering.planned_story import PlannedStory

LOG, PICTURES = "states.jsonl", "pictures"
State = dict[str, Any]


@dataclass
class Book:
    """A story of the project: its title, its states by id, and the ids of those shown, the newest last."""

    id: str
    title: str
    states: dict[str, State] = field(default_factory=dict)
    visits: list[str] = field(default_factory=list)
    branches: dict[str, Any] | None = None

    @property
    def head(self) -> State:
        return self.states[self.visits[-1]]


class Project:
    """The stories of a folder, read from its log. One process has it open at a time.

    Raises UserError if the folder cannot be written, is open elsewhere, or is not a project.
    """

    def __init__(self, folder: Path) -> None:
        self.folder, self.books = folder, dict[str, Book]()
        self.waiting = dict[str, dict[str, Any]]()  # Requests of jobs that have not ended, by id.
        self._number, self._lock, self._removed = 0, threading.RLock(), set[str]()
        log = folder / LOG
        if folder.exists() and not folder.is_dir():
            raise UserError(f"the project {folder} is a file: give a folder, or move the file away")
        if folder.is_dir() and not log.exists() and any(not path.name.startswith(".") for path in folder.iterdir()):
            raise UserError(f"{folder} has files and is no project of the studio: give an empty or a new --project")
        self._folder_lock = FolderLock(folder)
        self._folder_lock.__enter__()
        try:
            self._read(log)
            self._log = open(log, "ab")  # Open as long as the project is.
        except OSError as error:
            self._folder_lock.__exit__()
            raise UserError(f"cannot write into {folder} ({error.strerror}): choose another --project") from None

    def close(self) -> None:
        """Let other processes open the project."""
        self._log.close()
        self._folder_lock.__exit__()

    # -- reading

    def _read(self, log: Path) -> None:
        """Take over all records; half a line at the end, of a process that was killed, is cut off."""
        content = log.read_bytes() if log.exists() else b""
        whole = content[: content.rfind(b"\n") + 1]
        for number, line in enumerate(whole.splitlines(), 1):
            try:
                self._apply(json.loads(line))
            except (ValueError, KeyError, TypeError, AttributeError):
                raise UserError(
                    f"{log}, line {number} is damaged: remove the line, or give another --project"
                ) from None
        if len(whole) < len(content):
            os.truncate(log, len(whole))

    def _apply(self, record: dict[str, Any]) -> None:
        kind = record["kind"]
        if "number" in record:
            self._number = max(self._number, record["number"])
        if record.get("story") in self._removed:  # Of a job that ended after its story was removed.
            return
        if kind == "story":
            self.books[record["id"]] = Book(record["id"], record["title"])
        elif kind == "state":
            self.books[record["story"]].states[record["id"]] = record
        elif kind == "head":
            self.books[record["story"]].visits.append(record["state"])
        elif kind == "branches":
            self.books[record["story"]].branches = record
        elif kind == "caption":
            branches = self.books[record["story"]].branches
            if branches is not None:
                branches.setdefault("captions", {})[record["page"]] = record["caption"]
        elif kind == "removed":
            del self.books[record["story"]]
            self._removed.add(record["story"])
        elif kind == "job":
            self.waiting[record["id"]] = record["request"]
        elif kind == "job_end":
            self.waiting.pop(record["id"], None)

    # -- writing

    def append(self, kind: str, **record: Any) -> dict[str, Any]:
        """Add a record to the log, so that it is on disk, and take it over.

        Raises UserError if its story was removed meanwhile, and OSError, with the log as before, if the disk is full.
        """
        record = {"kind": kind, **record}
        line = json.dumps(record, ensure_ascii=True, separators=(",", ":")).encode() + b"\n"
        with self._lock:
            if record.get("story") in self._removed:
                raise UserError("the story was removed meanwhile")
            size = self._log.tell()
            try:
                self._log.write(line)
                self._log.flush()
                os.fsync(self._log.fileno())
            except OSError:
                self._reopen(size)
                raise
            self._apply(record)
        return record

    def _reopen(self, size: int) -> None:
        """Go back to the first `size` bytes of the log: half a line would damage the next one."""
        with contextlib.suppress(OSError):
            self._log.close()
        os.truncate(self.folder / LOG, size)
        self._log = open(self.folder / LOG, "ab")

    def new_id(self, prefix: Literal["story", "state", "job"]) -> dict[str, Any]:
        """Return the fields of a new record by which it is known."""
        with self._lock:
            self._number += 1
            return {"id": f"{prefix}{self._number}", "number": self._number}

    def add_story(self, title: str) -> Book:
        """Begin a story; it is shown once it has a state."""
        record = self.append("story", title=title, **self.new_id("story"))
        return self.books[record["id"]]

    def add_state(self, book: Book, story: PlannedStory, label: str, show: bool = True, **more: Any) -> State:
        """Add a state of a story, by default the one that is now shown; `more` are further entries of its record."""
        values = {
            "prompt": story.plan.prompt,
            "plan": story.plan.to_string(),
            "codes": story.plan.codes,
            "bits": page_bits(story.plan),
            "texts": story.texts,
            "pictures": [self.store(image) for image in story.images],
            "stamps": story.stamps,
            "notes": story.notes,
            "settings": {"seed": story.plan.settings.seed, "temperature": story.plan.settings.temperature},
        }
        more = {"parent": book.visits[-1] if book.visits else None, "locks": [], "page": None, "checks": {}} | more
        record = self.append("state", story=book.id, label=label, **more, **values, **self.new_id("state"))
        if show:
            self.show(book, record["id"])
        return record

    def show(self, book: Book, state: str) -> None:
        """Make a state the one that is shown."""
        self.append("head", story=book.id, state=state)

    def remove(self, book: Book) -> None:
        """Leave a story out of the project; its records stay in the log."""
        self.append("removed", story=book.id)

    # -- pictures

    def store(self, image: Image.Image) -> str:
        """Write a picture unless the project has it; return the name under which it is found."""
        content = encode_png(image)
        name = hashlib.sha256(content).hexdigest()[:32]
        path = self.folder / PICTURES / f"{name}.png"
        if not path.exists():
            write_whole(path, content)
        return name

    def picture(self, name: str) -> Image.Image | None:
        """Return a picture; None if the project has none of this name."""
        if not (len(name) == 32 and set(name) <= set("0123456789abcdef")):
            return None
        path = self.folder / PICTURES / f"{name}.png"
        return decode_image(path.read_bytes(), name) if path.is_file() else None

    def open_state(self, state: State) -> PlannedStory:
        """Return the story of a state. Raises UserError if one of its pictures is gone."""
        images = [self.picture(name) for name in state["pictures"]]
        if missing := [name for name, image in zip(state["pictures"], images, strict=True) if image is None]:
            raise UserError(f"the project lost the picture {missing[0]}.png: restore it in {self.folder / PICTURES}")
        return PlannedStory(
            Plan.from_string(state["plan"]),
            tuple(state["texts"]),
            tuple(image for image in images if image is not None),
            tuple(state["stamps"]),
            tuple(state["notes"]),
        )


def page_bits(plan: Plan) -> list[float]:
    """Return the bits of every page's codes under the prior; none where they are not known."""
    return [round(-sum(page) * 1.4426950408889634, 2) for page in plan.log_probs or ()]


def as_upload(content: bytes) -> Image.Image:
    """Decode a picture that a client sent. Raises UserError if it is none that can be used."""
    return decode_image(content, "the picture")


def plan_of_png(content: bytes) -> str | None:
    """Return the plan that a page's PNG carries, if it does."""
    from modules.presentation.story.book import PLAN_KEYWORD

    try:
        with Image.open(io.BytesIO(content), formats=("PNG",)) as image:
            image.load()
            text = getattr(image, "text", {}).get(PLAN_KEYWORD)
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError):
        return None
    return None if text is None else str(text)
