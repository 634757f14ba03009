"""Random access to stories in Parquet shards written by `pack`, on this disk or at an address."""

from __future__ import annotations

import hashlib
import json
import threading
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path, PurePath
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from modules.common.errors import UserError, first_line, shown
from modules.common.sums import sum_of
from modules.data.folder import MissingSplit, StoryFolder, check_split_name, hash_records, open_split, refuse_bad
from modules.data.hf_datasets import HUB, LibraryStories, is_saved
from modules.data.images import with_pictures
from modules.data.pack import COLUMNS, FORMAT_VERSION, Shard
from modules.data.records import MANIFEST, RecordError, parse_record
from modules.data.remote import is_remote, open_ranges, read_whole
from modules.data.windows import WindowedStories
from modules.story import Story, StoryStep

KEPT_GROUPS = 16  # Row groups of about a MiB; consecutive stories share one.
OPEN_AT_ONCE = 8
ROWS_A_BATCH = 16
PICTURES = COLUMNS[-1]


class NoShards(UserError):
    """A folder or address has no list of shards."""


class StoryShards(WindowedStories):
    """A `StoryDataset` over the shards of one split.

    Order, texts, lengths and fingerprint equal those of the folder that was packed. Opening reads everything except
    the pictures. A story's pictures are read with their whole row group, by one range request if remote; the last
    `KEPT_GROUPS` row groups stay in memory. Several threads may read at once.

    Args:
        folder: the path or address (hf://, s3://, https://) of the folder with `shards.json`.
        split: "train" or "val".
        max_steps: as in `StoryFolder`.
        on_bad_record: as in `StoryFolder`. Shards whose list has their sums contain what was packed, and no bad record.

    Raises:
        UserError: a shard is missing or damaged, the address cannot be read, or bad records as in `StoryFolder`.
        MissingSplit: there are no shards of this split.
    """

    def __init__(
        self, folder: str | Path, split: str, max_steps: int | None = None, on_bad_record: str = "error"
    ) -> None:
        self.folder = str(folder).rstrip("/")
        self.name = f"{self.folder} ({split})"
        self.shards = _read_manifest(self.folder, split)
        self._groups: OrderedDict[tuple[int, int], pa.ChunkedArray] = OrderedDict()
        self._lock, self._shard_locks = threading.Lock(), [threading.Lock() for _ in self.shards]
        with ThreadPoolExecutor(OPEN_AT_ONCE) as pool:
            opened = list(pool.map(self._open, self.shards))
        self._footers, self._tables = [footer for footer, _, _ in opened], [table for _, table, _ in opened]
        groups = [
            footer.row_group(number).num_rows for footer in self._footers for number in range(footer.num_row_groups)
        ]
        self._group_starts = np.cumsum([0, *groups])
        self._shard_starts = np.cumsum([0, *(len(table) for table in self._tables)])
        kept = self._kept([faults for _, _, faults in opened], on_bad_record)
        tables = [table.filter(chosen) for table, chosen in zip(self._tables, kept, strict=True)]
        self._fingerprint = hash_records([[_joined(table["sha256"])] for table in tables if len(table)], max_steps)
        counts = np.concatenate([pc.list_value_length(table["texts"]).to_numpy() for table in tables])
        super().__init__(counts, max_steps)
        self._rows = np.flatnonzero(np.concatenate(kept))[self._rows]

    def _kept(self, faults: Sequence[Mapping[int, str]], on_bad_record: str) -> list[np.ndarray]:
        """Return which rows of every shard are sound, and note the others in `skipped`. Raises UserError."""
        self.skipped = [
            f"{self.folder}/{shard.name} row {row + 1}: {found[row]}"
            for shard, found in zip(self.shards, faults, strict=True)
            for row in sorted(found)
        ]
        refuse_bad(self.skipped, sum(map(len, self._tables)), on_bad_record)
        return [
            np.array([row not in found for row in range(len(table))], bool)
            for table, found in zip(self._tables, faults, strict=True)
        ]

    def __getitem__(self, index: int) -> Story:
        """Return one story with its pictures decoded (RGB, any size)."""
        story, (row, steps) = self.outline(index), self.locate(index)
        shard = self._shard_of(row)
        group = int(np.searchsorted(self._group_starts, row, side="right")) - 1
        first_group = int(np.searchsorted(self._group_starts, self._shard_starts[shard]))
        pictures = self._group(shard, group - first_group)[int(row - self._group_starts[group])].as_py()
        sums = self._tables[shard]["sha256"][int(row - self._shard_starts[shard])].as_py()[1:][steps]
        if _sums(pictures[steps]) != sums:
            raise UserError(
                f'{self.folder}/{self.shards[shard].name}: a picture of "{story.id}" is not what was packed: copy it'
                " again"
            )
        return with_pictures(story, [picture and picture["bytes"] for picture in pictures[steps]])

    def row_outline(self, row: int) -> Story:
        """Return the whole story of a row without its pictures."""
        shard = self._shard_of(row)
        return _story(self._tables[shard].slice(int(row - self._shard_starts[shard]), 1).to_pylist()[0])

    def fingerprint(self) -> str:
        """Return the fingerprint of the folder that was packed, so that a run can be resumed with either."""
        return self._fingerprint

    def report(self) -> str:
        """Return one line with the number of stories, steps and shards, and of records skipped."""
        counts = f"{len(self):,} stories of {sum(self.lengths):,} steps in {len(self.shards):,} shards"
        skipped = f"; {len(self.skipped):,} skipped, the first: {self.skipped[0]}" if self.skipped else ""
        return f"{self.name}: {counts}{skipped}"

    def _shard_of(self, row: int) -> int:
        return int(np.searchsorted(self._shard_starts, row, side="right")) - 1

    def _open(self, shard: Shard) -> tuple[pq.FileMetaData, pa.Table, dict[int, str]]:
        """Return the footer of a shard, its columns except the pictures, and the faults of its rows by their place."""
        self._check_sum(shard)
        try:
            with open_ranges(f"{self.folder}/{shard.name}", shard.bytes) as file:
                table = pq.ParquetFile(file, pre_buffer=True)
                wanted = [name for name in table.schema_arrow.names if name != PICTURES]
                if missing := sorted(set(COLUMNS) - set(table.schema_arrow.names)):
                    raise UserError(
                        f"{self.folder}/{shard.name} has no column {missing[0]}: pack the stories with download_data.py"
                        " pack"
                    )
                rows = table.read(columns=wanted).combine_chunks()
                # With a sum its rows are what was packed.
                faults = {} if shard.sha256 else _faults(table, rows, pictures=not is_remote(self.folder))
        except (OSError, pa.ArrowException) as error:
            raise UserError(
                f"{self.folder}/{shard.name} is missing or not whole ({first_line(error)}): pack or copy it again"
            ) from None
        if len(rows) != shard.stories:
            counts = f"{len(rows)} stories, not the {shard.stories} of {MANIFEST}"
            raise UserError(f"{self.folder}/{shard.name} has {counts}: copy it again")
        return table.metadata, rows, faults

    def _check_sum(self, shard: Shard) -> None:
        """Raise UserError if a shard on this disk differs from its list; remote ones would have to be fetched whole."""
        path = Path(self.folder) / shard.name
        if not shard.sha256 or is_remote(self.folder) or not path.is_file():
            return
        if sum_of(path) != {"size": shard.bytes, "sha256": shard.sha256}:
            raise UserError(f"{path} is damaged: it is not what {MANIFEST} lists; pack or copy it again")

    def _group(self, shard: int, group: int) -> pa.ChunkedArray:
        """Return the encoded pictures of a row group; each shard is read by one thread at a time."""
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
                f"{self.folder}/{shard.name} cannot be read ({first_line(error)}): copy it again, then resume"
            ) from None


def open_stories(
    data: str, split: str, on_bad_record: str = "error", max_steps: int | None = None
) -> StoryFolder | StoryShards | LibraryStories:
    """Open the "train" or "val" stories of a folder, of shards, or of a data set that `datasets` can load.

    Args:
        data: a folder of stories or of shards, an address of shards, hf://datasets/OWNER/NAME, or a folder written by
            `save_to_disk`.
        split: "train" or "val".
        on_bad_record: as in `StoryFolder`, for folders of stories and for shards.
        max_steps: as in `StoryFolder`.

    Raises:
        UserError: as `open_split`, `StoryShards` or `LibraryStories`.
    """
    if is_remote(data) or (Path(data) / MANIFEST).is_file():
        try:
            return StoryShards(data, split, max_steps, on_bad_record)
        except NoShards:
            if not data.startswith(HUB):
                raise
        return LibraryStories(data, split, max_steps)
    if is_saved(Path(data)):
        return LibraryStories(data, split, max_steps)
    return open_split(data, split, on_bad_record=on_bad_record, max_steps=max_steps)


def _read_manifest(folder: str, split: str) -> list[Shard]:
    check_split_name(split)
    try:
        manifest = json.loads(read_whole(f"{folder}/{MANIFEST}"))
        version, splits = manifest["format_version"], manifest["splits"]
        found = {name: [Shard(**shard) for shard in shards] for name, shards in splits.items()}
    except FileNotFoundError:
        raise NoShards(f"{folder} has no {MANIFEST}: make shards with download_data.py pack") from None
    except (OSError, ValueError, LookupError, TypeError, AttributeError, RecursionError) as error:
        raise UserError(f"{folder}/{MANIFEST} is not what pack wrote ({first_line(error)}): pack again") from None
    if version != FORMAT_VERSION:
        raise UserError(
            f"{folder}/{MANIFEST} has format version {version!r}, this program reads {FORMAT_VERSION}: pack again"
        )
    for name in (shard.name for shards in found.values() for shard in shards):
        if not (isinstance(name, str) and name and name == PurePath(name).name and name.isprintable()):
            raise UserError(f"{folder}/{MANIFEST} names {shown(name)}, which is no file beside it: pack again")
    if not found.get(split):
        raise MissingSplit(f'{folder} has no "{split}" shards: pack a folder with train/ and val/ in it')
    return found[split]


def _joined(column: pa.ChunkedArray) -> str:
    """Concatenate all texts of a column of lists of texts."""
    flat = column.combine_chunks().flatten()
    return pc.binary_join(pa.ListArray.from_arrays(pa.array([0, len(flat)], pa.int32()), flat), "")[0].as_py()


def _faults(table: pq.ParquetFile, rows: pa.Table, pictures: bool) -> dict[int, str]:
    """Return the faults of a shard's rows by their place, with those of their pictures if asked."""
    faults = {row: problem for row, record in enumerate(rows.to_pylist()) if (problem := _fault(record))}
    if not pictures:
        return faults
    found = (list_ for batch in table.iter_batches(ROWS_A_BATCH, columns=[PICTURES]) for list_ in batch[0].to_pylist())
    for row, contents in enumerate(found):
        if row not in faults and _sums(contents) != rows["sha256"][row].as_py()[1:]:
            faults[row] = "a picture is not what was packed"
    return faults


def _sums(pictures: Sequence[Mapping[str, bytes] | None] | None) -> list[str]:
    """Return the SHA-256 of encoded pictures, "" where there is none."""
    contents = [picture and picture["bytes"] for picture in pictures or ()]
    return [hashlib.sha256(content).hexdigest() if content else "" for content in contents]


def _fault(row: dict[str, Any]) -> str | None:
    """Return what is wrong with a row, as `parse_record` would say of its record; None if nothing is."""
    try:
        attributes = [None if value is None else json.loads(value) for value in row["attributes"]]
        texts, sums, extra = row["texts"], row["sha256"], json.loads(row["extra"] or "{}")
        steps = [
            {"text": text, "attributes": values, "image_path": "picture" if digest else None}
            for text, values, digest in zip(texts, attributes, sums[1:], strict=True)
        ]
        parse_record({**extra, "id": row["id"], "prompt": row["prompt"], "steps": steps}, "", Path())
    except RecordError as error:
        return str(error)
    except (ValueError, TypeError, RecursionError) as error:
        return f"it is not what pack writes ({first_line(error)})"
    return None


def _story(row: dict[str, Any]) -> Story:
    attributes = [None if value is None else json.loads(value) for value in row["attributes"]]
    steps = tuple(StoryStep(text, attributes=values) for text, values in zip(row["texts"], attributes, strict=True))
    named = {key: value for key, value in row.items() if key not in COLUMNS and value is not None}
    return Story(row["id"], row["prompt"], steps, named | json.loads(row["extra"] or "{}"))
