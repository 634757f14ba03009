"""What a source yields: stories whose pictures are bytes, files or addresses, and what is told of one that cannot be
used.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

from modules.data.records import RecordError

MAX_PROMPT = 300


class DeadLink(RecordError):
    """A picture's address does not answer any more: no fault of the record's."""


@dataclass(frozen=True)
class Row:
    """A record as its source holds it.

    Args:
        name: tells a person which one it is.
        place: JSON; where to go on after it, so that a later run neither repeats nor misses one.
        value: what `Source.stories` takes; a `RecordError` where the record could not even be read.
    """

    name: str
    place: Any
    value: Any


@dataclass(frozen=True)
class Page:
    """One step; `image` is a picture's bytes, its file, or its http(s) address; `attributes` are what is known to be
    true of it.
    """

    text: str | None
    image: bytes | Path | str | None = None
    attributes: Mapping[str, Any] | None = None


@dataclass(frozen=True)
class FoundStory:
    """A story on its way to disk; without an `id` it gets a number. `extra` holds more keys for its record."""

    id: str
    prompt: str
    pages: tuple[Page, ...]
    license: str = ""
    credit: str = ""
    extra: Mapping[str, Any] = field(default_factory=dict)


class Source(Protocol):
    """A known data set: where its records are, and what stories they hold."""

    name: str
    license: str  # Of the stories that name none of their own.
    terms: str  # What its licence forbids, "" where stories may be passed on.
    parts: tuple[str, ...]  # The splits of its own ("train", "val"), or ("all",).

    def rows(self, part: str, place: Any) -> Iterator[Row]:
        """Yield the records of one part after `place`, all of them where that is None. Raises UserError."""

    def stories(self, row: Row) -> Iterable[FoundStory]:
        """Return the stories of one record. Raises RecordError where it is not what it should be."""


def first_sentence(text: str) -> str:
    """The first sentence of a text, at most `MAX_PROMPT` characters of it."""
    text = " ".join(text.split())
    match = re.match(r".+?[.!?][\"'”’)]*(?=\s|$)", text)
    return (match.group() if match else text)[:MAX_PROMPT]


def license_key(name: str) -> str:
    """A licence's name without version, case and punctuation: "CC BY-NC 4.0" -> "cc-by-nc"."""
    words = re.sub(r"[\s_\[\]()-]+", " ", name.lower()).split()
    return "-".join(word for word in words if not re.fullmatch(r"v?\d+(\.\d+)*|license|licence", word))


def counted(rows: Iterable[tuple[str, Any]], place: int | None) -> Iterator[Row]:
    """Rows of a source that is small enough to be read from its start: `place` is how many are done."""
    for number, (name, value) in enumerate(rows, start=1):
        if number > (place or 0):
            yield Row(name, number, value)


def require(record: Any, *keys: str) -> list[Any]:
    """The values of `keys`. Raises RecordError where one is missing."""
    if not isinstance(record, Mapping):
        raise RecordError("it is not an object")
    for key in keys:
        if record.get(key) is None:
            raise RecordError(f'it has no "{key}" (it has {", ".join(map(str, record)) or "nothing"})')
    return [record[key] for key in keys]
