"""Stories in Parquet shards that `pack` wrote, on this disk or far away: any story at any time, so the order is exact."""

from __future__ import annotations

import json
import threading
from collections import OrderedDict
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from modules.common.errors import UserError
from modules.data.folder import MANIFEST, SPLITS, MissingSplit, hash_records, open_split
from modules.data.images import decode_image
from modules.data.pack import COLUMNS, FORMAT_VERSION, Shard
from modules.data.remote import is_remote, open_ranges, read_whole
from modules.story import Story, StoryDataset, StoryStep

KEPT_GROUPS = 16  # Row groups of about a MiB: stories that are read one after another lie in the same one.
OPEN_AT_ONCE = 8
PICTURES = COLUMNS[-1]


class StoryShards:
    """A `StoryDataset` over the shards of one split; order, texts, lengths and fingerprint are those of the folder they
    were packed from.

    Opening reads all but the pictures. A story's pictures come with their row group, read whole, by one range request
    where it is far away; the last few stay in memory. Several threads may read at once.

    Args:
        folder: a path or an address (hf://, s3://, https://) that holds `shards.json`.
        split: "train" or "val".
        max_steps: as in `StoryFolder`.

    Raises:
        UserError: no such shards, not all of them are there, or the address cannot be read.
    """

    def __init__(self, folder: str | Path, split: str, max_steps: int | None = None) -> None:
        self.folder, self.name, self.skipped = str(folder).rstrip("/"), f"{str(folder).rstrip('/')} ({split})", []
        self.shards = _read_manifest(self.folder, split)
        self._groups: OrderedDict[tuple[int, int], pa.ChunkedArray] = OrderedDict()
        self._lock, self._shard_locks = threading.Lock(), [threading.Lock() for _ in self.shards]
        with ThreadPoolExecutor(OPEN_AT_ONCE) as pool:
            opened = list(pool.map(self._open, self.shards))
        self._footers, tables = [footer for footer, _ in opened], [table for _, table in opened]
        self._fingerprint = hash_records([[_joined(table["sha256"])] for table in tables], max_steps)
        self._tables = [table.drop_columns("sha256") for table in tables]
        groups = [
            footer.row_group(number).num_rows for footer in self._footers for number in range(footer.num_row_groups)
        ]
        self._group_starts = np.cumsum([0, *groups])
        self._shard_starts = np.cumsum([0, *(len(table) for table in tables)])
        counts = np.concatenate([pc.list_value_length(table["texts"]).to_numpy() for table in tables])
        self._rows, self._firsts, self._ends = _cut(counts, max_steps)

    def __len__(self) -> int:
        return len(self._rows)

    def __getitem__(self, index: int) -> Story:
        """Return one story with its pictures decoded (RGB, any size)."""
        index = range(len(self))[index]
        story, row = self.outline(index), self._rows[index]
        shard = self._shard_of(row)
        group = int(np.searchsorted(self._group_starts, row, side="right")) - 1
        first_group = int(np.searchsorted(self._group_starts, self._shard_starts[shard]))
        pictures = self._group(shard, group - first_group)[int(row - self._group_starts[group])].as_py()
        pictures = pictures[self._firsts[index] : self._ends[index]]
        names = (f'of step {number} of "{story.id}"' for number in range(1, len(story.steps) + 1))
        steps = (
            step if picture is None else replace(step, image=decode_image(picture["bytes"], name))
            for step, picture, name in zip(story.steps, pictures, names, strict=True)
        )
        return replace(story, steps=tuple(steps))

    @property
    def lengths(self) -> list[int]:
        """The number of steps of every story."""
        return (self._ends - self._firsts).tolist()

    def texts(self) -> Iterator[str]:
        """Yield every prompt and every step's text, without opening a picture."""
        for index in range(len(self)):
            story = self.outline(index)
            yield story.prompt
            yield from (step.text for step in story.steps if step.text is not None)

    def outline(self, index: int) -> Story:
        """Return one story without opening its pictures."""
        index = range(len(self))[index]
        row, first, end = self._rows[index], self._firsts[index], self._ends[index]
        shard = self._shard_of(row)
        values = self._tables[shard].slice(int(row - self._shard_starts[shard]), 1).to_pylist()[0]
        story = _story(values)
        if end - first == len(story.steps):
            return story
        number = index - int(np.searchsorted(self._rows, row))
        return replace(story, id=f"{story.id}#{number}", steps=story.steps[first:end])

    def fingerprint(self) -> str:
        """Return the fingerprint of the folder that was packed: a run goes on from either."""
        return self._fingerprint

    def report(self) -> str:
        """Say in one line what was opened."""
        return f"{self.name}: {len(self):,} stories of {sum(self.lengths):,} steps in {len(self.shards):,} shards"

    def _shard_of(self, row: int) -> int:
        return int(np.searchsorted(self._shard_starts, row, side="right")) - 1

    def _open(self, shard: Shard) -> tuple[pq.FileMetaData, pa.Table]:
        """The footer of a shard, and its rows without the pictures: in Arrow's columns, which take little more room
        than their text.
        """
        try:
            with open_ranges(f"{self.folder}/{shard.name}", shard.bytes) as file:
                table = pq.ParquetFile(file, pre_buffer=True)
                wanted = [name for name in table.schema_arrow.names if name != PICTURES]
                rows = table.read(columns=wanted).combine_chunks()
        except (OSError, pa.ArrowException) as error:
            raise UserError(
                f"{self.folder}/{shard.name} is missing or not whole ({_first_line(error)}): pack or copy it anew"
            ) from None
        if missing := sorted(set(COLUMNS) - set(table.schema_arrow.names)):
            raise UserError(
                f"{self.folder}/{shard.name} has no column {missing[0]}: pack the stories with download_data.py pack"
            )
        if len(rows) != shard.stories:
            raise UserError(
                f"{self.folder}/{shard.name} holds {len(rows)} stories, not the {shard.stories} of {MANIFEST}: copy it anew"
            )
        return table.metadata, rows

    def _group(self, shard: int, group: int) -> pa.ChunkedArray:
        """The pictures of a row group, not decoded; each shard is read by one thread at a time."""
        with self._shard_locks[shard]:
            with self._lock:
                if (shard, group) in self._groups:
                    self._groups.move_to_end((shard, group))
                    return self._groups[shard, group]
            found = self._read_group(self.shards[shard], self._footers[shard], group)
            with self._lock:
                self._groups[shard, group] = found
                while len(self._groups) > KEPT_GROUPS:
                    self._groups.popitem(last=False)
            return found

    def _read_group(self, shard: Shard, footer: pq.FileMetaData, group: int) -> pa.ChunkedArray:
        try:
            with open_ranges(f"{self.folder}/{shard.name}", shard.bytes) as file:
                table = pq.ParquetFile(file, metadata=footer, pre_buffer=True)
                return table.read_row_group(group, columns=[PICTURES], use_threads=False).column(0)
        except (OSError, pa.ArrowException) as error:
            raise UserError(
                f"{self.folder}/{shard.name} cannot be read ({_first_line(error)}): copy it anew, then go on"
            ) from None


def open_stories(data: str, split: str, on_bad_record: str = "error", max_steps: int | None = None) -> StoryDataset:
    """The "train" or "val" stories of a folder of stories, or of shards on this disk or at an address.

    Raises:
        UserError: as `open_split`, or as `StoryShards`.
    """
    if is_remote(data) or (Path(data) / MANIFEST).is_file():
        return StoryShards(data, split, max_steps)
    return open_split(data, split, on_bad_record=on_bad_record, max_steps=max_steps)


def _read_manifest(folder: str, split: str) -> list[Shard]:
    if split not in SPLITS:
        raise UserError(f'a split is "train" or "val", got {split!r}')
    try:
        manifest = json.loads(read_whole(f"{folder}/{MANIFEST}"))
        version, splits = manifest["format_version"], manifest["splits"]
        found = {name: [Shard(**shard) for shard in shards] for name, shards in splits.items()}
    except FileNotFoundError:
        raise UserError(f"{folder} holds no {MANIFEST}: make shards with download_data.py pack") from None
    except (OSError, ValueError, LookupError, TypeError, AttributeError) as error:
        raise UserError(f"{folder}/{MANIFEST} is not what pack wrote ({_first_line(error)}): pack anew") from None
    if version != FORMAT_VERSION:
        raise UserError(
            f"{folder}/{MANIFEST} has format version {version!r}, this program reads {FORMAT_VERSION}: pack anew"
        )
    if not found.get(split):
        raise MissingSplit(f'{folder} holds no "{split}" shards: pack a folder with train/ and val/ in it')
    return found[split]


def _cut(counts: np.ndarray, max_steps: int | None) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Of records with so many steps the windows that `cut_story` makes of them: each one's record, first step and end."""
    windows = np.ones_like(counts) if max_steps is None else np.maximum(1, -(-counts // max_steps))
    rows = np.repeat(np.arange(len(counts)), windows)
    number = np.arange(len(rows)) - np.repeat(np.cumsum(windows) - windows, windows)
    counts, windows = counts[rows].astype(np.int64), windows[rows]
    return rows, number * counts // windows, (number + 1) * counts // windows


def _joined(column: pa.ChunkedArray) -> str:
    """All texts of a column of lists of texts, one after another."""
    flat = column.combine_chunks().flatten()
    return pc.binary_join(pa.ListArray.from_arrays(pa.array([0, len(flat)], pa.int32()), flat), "")[0].as_py()


def _story(row: dict[str, Any]) -> Story:
    attributes = [None if value is None else json.loads(value) for value in row["attributes"]]
    steps = tuple(StoryStep(text, attributes=known) for text, known in zip(row["texts"], attributes, strict=True))
    named = {key: value for key, value in row.items() if key not in COLUMNS and value is not None}
    return Story(row["id"], row["prompt"], steps, named | json.loads(row["extra"] or "{}"))


def _first_line(error: Exception) -> str:
    return (str(error).splitlines() or [""])[0] or type(error).__name__
