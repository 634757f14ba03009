"""Stories in Parquet shards that `pack` wrote, on this disk or far away: any story at any time, so the order is exact."""

from __future__ import annotations

import json
import threading
from collections import OrderedDict
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import pyarrow as pa
import pyarrow.parquet as pq

from modules.data import SPLITS, cut_story, hash_records, open_split
from modules.images import decode_image
from modules.pack import COLUMNS, FORMAT_VERSION, MANIFEST, Shard
from modules.remote import is_remote, open_ranges, read_whole
from modules.story import Story, StorySource, StoryStep, UserError

KEPT_GROUPS = 16  # Row groups of about a MiB: stories that are read one after another lie in the same one.
OPEN_AT_ONCE = 8
PICTURES = COLUMNS[-1]


class _Place(NamedTuple):
    """Where a story's pictures are: a shard, a row group of it, a row in that, and the window's first step."""

    shard: int
    group: int
    row: int
    first: int


class StoryShards:
    """A `StorySource` over the shards of one split; order, texts, lengths and fingerprint are those of the folder they were packed from.

    Opening reads all but the pictures. A story's pictures come with their row group, read whole, by one range request where it is
    far away; the last few stay in memory. Several threads may read at once.

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
        self._footers = [footer for footer, _ in opened]
        self._stories, self._places, digests = [], [], []
        for number, (footer, rows) in enumerate(opened):
            for place, row in zip(_places(number, footer), rows, strict=True):
                digests.append(row["sha256"])
                for window in cut_story(_story(row), max_steps):
                    self._stories.append(window)
                    self._places.append(place)
                    place = place._replace(first=place.first + len(window.steps))
        self.digests, self._fingerprint = digests, hash_records(digests, max_steps)

    def __len__(self) -> int:
        return len(self._stories)

    def __getitem__(self, index: int) -> Story:
        """Return one story with its pictures decoded (RGB, any size)."""
        story, place = self._stories[index], self._places[index]
        pictures = self._group(place.shard, place.group)[place.row].as_py()[place.first :]
        names = (f'of step {number} of "{story.id}"' for number in range(1, len(story.steps) + 1))
        steps = (
            step if picture is None else replace(step, image=decode_image(picture["bytes"], name))
            for step, picture, name in zip(story.steps, pictures, names, strict=False)
        )  # fmt: skip
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
        """Return the fingerprint of the folder that was packed: a run goes on from either."""
        return self._fingerprint

    def report(self) -> str:
        """Say in one line what was opened."""
        return f"{self.name}: {len(self):,} stories of {sum(self.lengths):,} steps in {len(self.shards):,} shards"

    def _open(self, shard: Shard) -> tuple[pq.FileMetaData, list[dict[str, Any]]]:
        """The footer of a shard, and its rows without the pictures."""
        try:
            with open_ranges(f"{self.folder}/{shard.name}", shard.bytes) as file:
                table = pq.ParquetFile(file, pre_buffer=True)
                wanted = [name for name in table.schema_arrow.names if name != PICTURES]
                rows = table.read(columns=wanted).to_pylist()
        except (OSError, pa.ArrowException) as error:
            raise UserError(f"{self.folder}/{shard.name} is missing or not whole ({_first_line(error)}): pack or copy it anew") from None
        if missing := sorted(set(COLUMNS) - set(table.schema_arrow.names)):
            raise UserError(f"{self.folder}/{shard.name} has no column {missing[0]}: pack the stories with download_data.py pack")
        if len(rows) != shard.stories:
            raise UserError(f"{self.folder}/{shard.name} holds {len(rows)} stories, not the {shard.stories} of {MANIFEST}: copy it anew")
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
            raise UserError(f"{self.folder}/{shard.name} cannot be read ({_first_line(error)}): copy it anew, then go on") from None


def open_stories(data: str, split: str, on_bad_record: str = "error", max_steps: int | None = None) -> StorySource:
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
        raise UserError(f"{folder}/{MANIFEST} has format version {version!r}, this program reads {FORMAT_VERSION}: pack anew")
    if not found.get(split):
        raise UserError(f'{folder} holds no "{split}" shards: pack a folder with train/ and val/ in it')
    return found[split]


def _places(shard: int, footer: pq.FileMetaData) -> Iterator[_Place]:
    for group in range(footer.num_row_groups):
        yield from (_Place(shard, group, row, 0) for row in range(footer.row_group(group).num_rows))


def _story(row: dict[str, Any]) -> Story:
    attributes = [None if value is None else json.loads(value) for value in row["attributes"]]
    steps = tuple(StoryStep(text, attributes=known) for text, known in zip(row["texts"], attributes, strict=True))
    named = {key: value for key, value in row.items() if key not in COLUMNS and value is not None}
    return Story(row["id"], row["prompt"], steps, named | json.loads(row["extra"] or "{}"))


def _first_line(error: Exception) -> str:
    return (str(error).splitlines() or [""])[0] or type(error).__name__
