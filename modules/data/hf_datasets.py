"""Read data sets through Hugging Face's `datasets` library: from the Hub, local folders and `save_to_disk` folders."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from datasets import IterableDataset

SAVED_FILES = ("dataset_dict.json", "dataset_info.json")  # In a folder written by `save_to_disk`.


def is_saved(folder: Path) -> bool:
    """Return whether a folder was written by `Dataset.save_to_disk` or `DatasetDict.save_to_disk`."""
    return any((folder / name).is_file() for name in SAVED_FILES)


def stream_splits(name: str, config: str | None = None, revision: str | None = None) -> dict[str, IterableDataset]:
    """Open all splits of a data set for streaming, with pictures not decoded.

    Args:
        name: an id on the Hub, a folder that `load_dataset` can read, or one written by `save_to_disk`.
        config: the configuration, if the data set has several.
        revision: a branch, tag or commit on the Hub.

    Raises:
        Exception: any error of `datasets`, of the network or of the disk.
    """
    import datasets

    if is_saved(Path(name)):
        saved = datasets.load_from_disk(name)
        splits = saved if isinstance(saved, datasets.DatasetDict) else {str(saved.split or "train"): saved}
        return {split: rows.to_iterable_dataset().decode(False) for split, rows in splits.items()}
    loaded = datasets.load_dataset(name, config, revision=revision, streaming=True)
    # Builders without known features (CSV) have no pictures to decode.
    return {str(split): rows if rows.features is None else rows.decode(False) for split, rows in loaded.items()}


def with_picture_bytes(value: Any) -> Any:
    """Return a value of a row in which every picture at an address ({"bytes": None, "path"}) has been read."""
    import fsspec

    if isinstance(value, list):
        return [with_picture_bytes(item) for item in value]
    if not isinstance(value, Mapping):
        return value
    if value.keys() == {"bytes", "path"} and value["bytes"] is None and "://" in str(value["path"]):
        with fsspec.open(value["path"], "rb") as file:
            return {"bytes": file.read(), "path": value["path"]}
    return {key: with_picture_bytes(item) for key, item in value.items()}
