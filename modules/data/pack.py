"""Pack a folder of stories into Parquet shards with the pictures inside, for training and `datasets.load_dataset`.

One row is one story. The output folder (`train-00000-of-00003.parquet`, ... and `shards.json`, which lists them)
appears when all shards are written. A stopped run resumes after the last complete shard.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from modules.common.errors import UserError
from modules.common.files import STAGING, disk_errors, fresh_staging, publish_staging, write_whole
from modules.common.folder_lock import FolderLock
from modules.common.ownership import refuse_foreign, refuse_overlap
from modules.common.progress import progress_line
from modules.common.sums import Sums, sum_of
from modules.data.folder import StoryFolder, split_folders
from modules.data.records import MANIFEST
from modules.story import Story

if TYPE_CHECKING:
    from datasets import Features


FORMAT_VERSION = 1
ROW_GROUP_BYTES = 1 << 20  # Reading one story at random reads all pictures of its row group.
COLUMNS = ("id", "prompt", "texts", "attributes", "sha256", "extra", "images")


@dataclass(frozen=True)
class Shard:
    """One file of a split."""

    name: str
    stories: int
    bytes: int
    sha256: str = ""  # Shards of older versions have none.


def staging_folder(output: Path) -> Path:
    """Return the folder in which shards are written until all are complete."""
    return output.with_name(f".{output.name}.partial")


def pack(folder: Path, output: Path, shard_bytes: int, overwrite: bool = False) -> dict[str, list[Shard]]:
    """Write the splits of `folder` as shards of about `shard_bytes` bytes into `output`; return each split's shards.

    Raises:
        UserError: as `StoryFolder`, or `output` is not empty, or it cannot be written.
    """
    output = output.resolve()
    with FolderLock(output, beside=True):
        return _pack(folder, output, shard_bytes, overwrite)


def _pack(folder: Path, output: Path, shard_bytes: int, overwrite: bool) -> dict[str, list[Shard]]:
    _check_output(output, folder, overwrite)
    datasets = {split: StoryFolder(part) for split, part in split_folders(folder).items()}
    staging = staging_folder(output)
    with disk_errors(output):
        run = json.dumps([shard_bytes, {split: dataset.fingerprint() for split, dataset in datasets.items()}]).encode()
        if not (staging / STAGING).is_file() or (staging / STAGING).read_bytes() != run:
            fresh_staging(staging)  # Shards of other stories, or of another size.
            write_whole(staging / STAGING, run)
        named = _named_keys(datasets.values())
        shards = {
            split: _write_split(staging, split, dataset, named, shard_bytes) for split, dataset in datasets.items()
        }
        splits = {split: [asdict(shard) for shard in found] for split, found in shards.items()}
        manifest = {"format_version": FORMAT_VERSION, "splits": splits}
        write_whole(staging / MANIFEST, json.dumps(manifest, indent=1).encode())
        publish_staging(output, staging)
    return shards


def _check_output(output: Path, folder: Path, overwrite: bool) -> None:
    """Raise UserError if `output` contains anything but our shards, or overlaps with the packed `folder`."""
    refuse_overlap(output, [folder], "what is packed")
    if not output.exists() or (output.is_dir() and not any(output.iterdir())):
        return
    if not (output / MANIFEST).is_file():
        raise UserError(f"{output} is not an empty folder, and contains no shards: choose another --output")
    if not overwrite:
        raise UserError(f"{output} contains shards; add --overwrite to replace them, or choose another --output")
    refuse_foreign(output, _sums_of(output), MANIFEST)


def _sums_of(folder: Path) -> Sums:
    """Return the sizes and SHA-256 of packed shards, as their list has them; none if it is not such a list."""
    try:
        splits = json.loads((folder / MANIFEST).read_bytes())["splits"].values()
        shards = [shard for found in splits for shard in found]
        return {shard["name"]: {"size": shard["bytes"], "sha256": shard["sha256"]} for shard in shards}
    except (OSError, ValueError, LookupError, TypeError, AttributeError, RecursionError):
        return {}


def _write_split(
    staging: Path, split: str, dataset: StoryFolder, named: Sequence[str], shard_bytes: int
) -> list[Shard]:
    import pyarrow.parquet as pq

    sizes = [_size(dataset.outline(index)) for index in range(len(dataset))]
    ranges, schema = runs_of(sizes, shard_bytes), _features(named).arrow_schema
    shards: list[Shard] = []
    with progress_line(f"packing {split}", len(dataset)) as progress:
        for number, rows in enumerate(ranges):
            path = staging / f"{split}-{number:05d}-of-{len(ranges):05d}.parquet"
            if not path.exists():
                temporary = path.with_suffix(".tmp")
                # Pictures are compressed already; without statistics the footer stays small even with many row groups.
                options = {"compression": "none", "use_dictionary": False, "write_statistics": False}
                with pq.ParquetWriter(temporary, schema, **options) as writer:
                    for group in runs_of(sizes[rows.start : rows.stop], ROW_GROUP_BYTES):
                        chosen = range(rows.start + group.start, rows.start + group.stop)
                        writer.write_table(_table([_row(dataset, index, named) for index in chosen], schema))
                        progress.update(chosen.stop)
                temporary.rename(path)
            progress.update(rows.stop)
            shards.append(Shard(path.name, len(rows), path.stat().st_size, sum_of(path)["sha256"]))
    return shards


def runs_of(sizes: Sequence[int], limit: int) -> list[range]:
    """Cut the indices into consecutive ranges whose sizes sum to at most `limit`; a larger item gets its own range."""
    found, start, total = [], 0, 0
    for index, size in enumerate(sizes):
        if index > start and total + size > limit:
            found.append(range(start, index))
            start, total = index, 0
        total += size
    return [*found, range(start, len(sizes))]


def _size(story: Story) -> int:
    texts = [story.prompt, *(step.text or "" for step in story.steps)]
    pictures = (step.image_path.stat().st_size for step in story.steps if step.image_path is not None)
    return sum(len(text.encode()) for text in texts) + sum(pictures)


def _named_keys(datasets: Iterable[StoryFolder]) -> list[str]:
    """Return the extra keys whose values are always texts: each gets a column; all others share a JSON column."""
    kinds: dict[str, set[type]] = {}
    for dataset in datasets:
        for index in range(len(dataset)):
            for key, value in dataset.outline(index).extra.items():
                kinds.setdefault(key, set()).add(type(value))
    return sorted(key for key, types in kinds.items() if types == {str} and key not in COLUMNS and "\0" not in key)


def _features(named: Sequence[str]) -> Features:
    from datasets import Features, Image, List, Value

    text = Value("string")
    kinds = {"texts": List(text), "attributes": List(text), "sha256": List(text), "images": List(Image())}
    return Features({name: kinds.get(name, text) for name in (*COLUMNS[:-1], *named, COLUMNS[-1])})


def _table(rows: list[dict[str, Any]], schema: Any) -> Any:
    import pyarrow as pa

    return pa.Table.from_pylist(rows, schema=schema)


def _row(dataset: StoryFolder, index: int, named: Sequence[str]) -> dict[str, Any]:
    story = dataset.outline(index)
    rest = {key: value for key, value in story.extra.items() if key not in named}
    paths = [step.image_path for step in story.steps]
    return {
        "id": story.id,
        "prompt": story.prompt,
        "texts": [step.text for step in story.steps],
        "attributes": [_json(step.attributes) for step in story.steps],
        "sha256": list(dataset.digests[index]),
        "extra": _json(rest or None),
        **{key: story.extra.get(key) for key in named},
        "images": [None if path is None else {"bytes": path.read_bytes(), "path": path.name} for path in paths],
    }


def _json(value: Mapping[str, Any] | None) -> str | None:
    return None if value is None else json.dumps(value, ensure_ascii=False)
