"""The base class of sources, and the rows and stories that a source yields."""

from __future__ import annotations

import argparse
import re
from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar

from modules.common.errors import UserError, shown
from modules.data.records import RecordError
from modules.downloads.text_files import read_text

MAX_PROMPT = 300


class DeadLink(RecordError):
    """A picture's address no longer answers; the record itself is valid."""


@dataclass(frozen=True)
class Row:
    """A record as stored by its source.

    Args:
        name: names the record in messages, such as "stories.jsonl line 7".
        place: where to resume after this record, as JSON.
        value: the argument of `Source.stories`; a `RecordError` if the record could not be read.
        origin: the file that it is from, if its pictures are named relative to that.
    """

    name: str
    place: Any
    value: Any
    origin: str = ""


@dataclass(frozen=True)
class SourceStep:
    """One step of a story.

    Args:
        text: its text, if any.
        image: its picture as bytes, as a file, or as an http(s) address.
        attributes: ground truth about the step, for scoring only.
    """

    text: str | None
    image: bytes | Path | str | None = None
    attributes: Mapping[str, Any] | None = None


@dataclass(frozen=True)
class SourceStory:
    """A story before it is written to disk.

    Args:
        id: unique within the source; "" for a running number.
        prompt: the line that asks for the story.
        steps: its steps in order.
        license: its licence, if it differs from that of the source.
        credit: its authors.
        extra: further keys of its record.
    """

    id: str
    prompt: str
    steps: tuple[SourceStep, ...]
    license: str = ""
    credit: str = ""
    extra: Mapping[str, Any] = field(default_factory=dict)


class Source(ABC):
    """Base class of all sources: a known data set, its records, and the stories in them.

    To add a source, write a subclass in a file of this folder and list it in `SOURCES` (`__init__.py`). Its docstring
    is its help text: what it contains, where it comes from ("Source: ..."), its licence and its citation. Import heavy
    packages inside `rows` and `stories`, because every --help imports all sources.

    Attributes:
        name: the command: download_data.py NAME.
        license: the licence of stories that do not state their own.
        terms: what the licence forbids, shown before a download; "" if stories may be passed on.
        parts: the splits of the source ("train", "val"), or ("all",) to hold out some stories for validation.
        sizes: the number of stories of each part, for progress only.
        inputs: the files and folders on this disk that it reads; nothing outside them is read, or written into them.
        encoding: the encoding of text files; None for UTF-8, or what the byte order mark says.
        fetch: whether pictures may be fetched from addresses.
        notes: what the user should know before the stories are read, a sentence each.
    """

    name: ClassVar[str]
    license: str = ""
    terms: str = ""
    parts: tuple[str, ...] = ("all",)
    sizes: ClassVar[Mapping[str, int]] = {}
    inputs: tuple[Path, ...] = ()
    encoding: str | None = None
    fetch: bool = False
    notes: tuple[str, ...] = ()

    def __init__(self, args: argparse.Namespace) -> None:
        """Check and store the flags. Raises UserError."""
        self.args = args

    @classmethod
    @abstractmethod
    def add_flags(cls, parser: argparse.ArgumentParser) -> None:
        """Add the flags of this source to its sub-command."""

    @abstractmethod
    def rows(self, part: str, place: Any) -> Iterator[Row]:
        """Yield the records of a part after `place`, or all of them if it is None. Raises UserError."""

    @property
    def roots(self) -> tuple[Path, ...]:
        """The folders that pictures may lie in, or files beside which they may lie."""
        return self.inputs

    def check_inside(self, path: Path) -> None:
        """Raise RecordError unless a file lies inside what this source reads, links followed, and is a plain file."""
        try:
            real = path.resolve()
            roots = [(root if root.is_dir() else root.parent).resolve() for root in self.roots]
            is_file = real.is_file()
        except (OSError, RuntimeError, ValueError) as error:  # A loop of links, a null byte, a name too long.
            reason = getattr(error, "strerror", None) or error
            raise RecordError(f"{shown(path)} is not a usable path ({reason})") from None
        if not any(real.is_relative_to(root) for root in roots):
            raise RecordError(f"{shown(path)} is outside the folder that is read")
        if not is_file:
            raise RecordError(f"{shown(path)} does not exist")

    def refuse_links(self, files: Iterable[Path]) -> None:
        """Raise UserError if one of these lists of stories lies outside what this source reads."""
        for path in files:
            try:
                self.check_inside(path)
            except RecordError as error:
                raise UserError(f"{error}: give the file by its own path, or move it there") from None

    def text_of(self, path: Path) -> str | None:
        """Return what a text file contains, None if it does not exist. Raises RecordError if it cannot be decoded."""
        try:
            if not path.is_file():
                return None
        except OSError:  # The name of its picture is nearly too long.
            return None
        self.check_inside(path)
        return read_text(path, self.encoding) or None

    @abstractmethod
    def stories(self, row: Row) -> Iterable[SourceStory]:
        """Return the stories of a record. Raises RecordError if it is malformed."""


# The end of a sentence: a stop, closing quotes and a blank; the stops of Chinese, Japanese and Hindi need no blank.
_STOP = re.compile(
    r"[.!?\u2026\u061f\u06d4]+[\"'\u201d\u2019\u00bb)]*(?=\s|$)"
    r"|[\u3002\uff01\uff1f\uff61\u0964\u0965]+[\"'\u201d\u2019\u300d\u300f\uff09)]*"
)
_TITLES = (
    "Mr|Mrs|Ms|Mx|Messrs|Dr|Prof|Rev|Fr|Sr|Sra|Srta|Jr|St|Ste|Mt|Ft|Capt|Cpt|Cmdr|Col|Gen|Lt|Maj|Sgt|Hon|Pres|Gov"
    "|Mme|Mlle|Hr|vs|Nr|Vol|approx|ca|cf|Ave|Blvd|Rd"
)
_ABBREVIATION = re.compile(
    rf"(?:^|[\s(\"'\u201c\u2018])(?:[A-HJ-Z]|(?:[^\W\d_]\.)+[^\W\d_]|{_TITLES}|{_TITLES.upper()}|{_TITLES.lower()})\.$"
)
_NUMBERED = re.compile(r"\b(?:No|Nos|Nr|p|pp|Fig|Ch|Art|Sec|Vol|Bd|S)\.$", re.IGNORECASE)


def first_sentence(text: str) -> str:
    """Return the first sentence of a text, cut to `MAX_PROMPT` characters.

    A full stop after an abbreviation or an initial ("Mr. Fox"), or before a small letter, ends no sentence.
    """
    text = " ".join(text.split())
    for stop in _STOP.finditer(text):
        sentence, rest = text[: stop.end()], text[stop.end() :].lstrip()
        is_open = stop.group() in (".", "\u2026", "...") and rest[:1].islower()
        is_numbered = rest[:1].isdigit() and _NUMBERED.search(sentence)
        if rest and (is_open or is_numbered or _ABBREVIATION.search(sentence)):
            continue
        return sentence[:MAX_PROMPT]
    return text[:MAX_PROMPT]


def license_key(name: str) -> str:
    """Normalise the name of a licence: "CC BY-NC 4.0" -> "cc-by-nc"."""
    words = re.sub(r"[\s_\[\]()-]+", " ", name.lower()).split()
    return "-".join(word for word in words if not re.fullmatch(r"v?\d+(\.\d+)*|license|licence", word))


def counted(rows: Iterable[tuple[str, Any]], place: int | None) -> Iterator[Row]:
    """Yield the rows of a source that is always read from its start; `place` is the number of rows done."""
    for number, (name, value) in enumerate(rows, start=1):
        if number > (place or 0):
            yield Row(name, number, value)


def require(record: Any, *keys: str) -> list[Any]:
    """Return the values of `keys`. Raises RecordError if one is missing."""
    if not isinstance(record, Mapping):
        raise RecordError("it is not an object")
    for key in keys:
        if record.get(key) is None:
            raise RecordError(f'it has no "{key}" (it has {", ".join(map(str, record)) or "nothing"})')
    return [record[key] for key in keys]
