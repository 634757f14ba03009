"""Consecutive rows of a table that are the steps of one story."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import replace
from typing import Any

from modules.data.records import RecordError
from modules.downloads.record import Row


def joined_rows(rows: Iterable[Row], key_of: Callable[[Any], Any]) -> Iterator[Row]:
    """Join consecutive rows with the same key into one, whose value is the list of theirs.

    `key_of` returns the key of a row's value, None if it has none, which makes it a story of its own, and raises
    RecordError if the row is broken. A broken row between rows of one story breaks the story.
    """
    group, broken, current = list[Row](), list[Row](), None
    for row in rows:
        try:
            key = key_of(row.value)
        except RecordError:
            broken.append(row)
            continue
        if group and key is not None and key == current:
            group += [*broken, row]
        else:
            yield from _stories(group, broken)
            group, current = [row], key
        broken = []
    yield from _stories(group, broken)


def _stories(group: Sequence[Row], broken: Sequence[Row]) -> Iterator[Row]:
    for rows in ([group] if group else []) + [[row] for row in broken]:
        yield _joined(rows)


def _joined(group: Sequence[Row]) -> Row:
    """Join the rows of a story into one, which is done when the last of them is."""
    broken = next((row.value for row in group if isinstance(row.value, RecordError)), None)
    return replace(group[0], place=group[-1].place, value=broken or [row.value for row in group])
