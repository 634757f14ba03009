"""Read data sets through Hugging Face's `datasets` library: from the Hub, local folders and `save_to_disk` folders."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from itertools import zip_longest
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from modules.common.errors import UserError, first_line, shown
from modules.data.folder import MissingSplit, check_split_name
from modules.data.images import with_pictures
from modules.data.windows import WindowedStories
from modules.story import Story, StoryStep

if TYPE_CHECKING:
    from datasets import Dataset, IterableDataset

HUB = "hf://datasets/"
SPLIT_NAMES = {"train": ("train",), "val": ("val", "validation", "valid", "dev")}
TEXT_COLUMNS, IMAGE_COLUMNS = ("texts", "text"), ("images", "image")
ROWS_A_BATCH = 64

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


def with_picture_bytes(value: Any, fetch: bool = False, folders: Sequence[Path] = ()) -> Any:
    """Return a value of a row in which every picture at an address ({"bytes": None, "path"}) has been read.

    Addresses on the Hub and inside `folders` are read, others elsewhere with `fetch` only; what is not read is left as
    it is.
    """
    import fsspec

    if isinstance(value, list):
        return [with_picture_bytes(item, fetch, folders) for item in value]
    if not isinstance(value, Mapping):
        return value
    if value.keys() == {"bytes", "path"} and value["bytes"] is None and "://" in str(value["path"]):
        if not _may_read(value["path"], fetch, folders):
            return value["path"]
        with fsspec.open(value["path"], "rb") as file:
            return {"bytes": file.read(), "path": value["path"]}
    return {key: with_picture_bytes(item, fetch, folders) for key, item in value.items()}


def _may_read(address: str, fetch: bool, folders: Sequence[Path]) -> bool:
    """Return whether an address may be read; "zip://a.png::hf://..." is in an archive at the last one."""
    from huggingface_hub import constants

    last = address.rpartition("::")[2].removeprefix("file://")
    if "://" not in last:
        return is_inside(Path(last), folders)
    return fetch or last.startswith(("hf://", f"{constants.ENDPOINT}/"))


def is_inside(path: Path, folders: Sequence[Path]) -> bool:
    """Return whether a file lies in one of some folders, links followed."""
    try:
        return any(path.resolve().is_relative_to(folder.resolve()) for folder in folders)
    except (OSError, RuntimeError, ValueError):  # A loop of links, a zero byte, a name too long.
        return False


class LibraryStories(WindowedStories):
    """A `StoryDataset` over one split of a data set that `datasets` can load.

    A row is a story: the column `texts` or `text`, the column `images` or `image`, and optionally `prompt` and `id`.
    A list makes a story of several steps. The data is downloaded once into the library's cache, then read at random.

    Args:
        address: hf://datasets/OWNER/NAME, with @REVISION if wanted, or a folder written by `save_to_disk`.
        split: "train" or "val" (also named validation, valid or dev).
        max_steps: as in `StoryFolder`.

    Raises:
        UserError: the data set cannot be loaded, or a row is not a story.
        MissingSplit: there is no such split.
    """

    def __init__(self, address: str, split: str, max_steps: int | None = None) -> None:
        check_split_name(split)
        self.name = f"{address} ({split})"
        self.skipped: list[str] = []
        dataset = _load(address, split)
        self._folders = _cache_folders() if address.startswith(HUB) else (Path(address),)
        self._text, self._image = (
            next((name for name in names if name in dataset.column_names), None)
            for names in (TEXT_COLUMNS, IMAGE_COLUMNS)
        )
        if self._text is None and self._image is None:
            wanted = ", ".join((*TEXT_COLUMNS, *IMAGE_COLUMNS))
            raise UserError(f"{self.name} has none of the columns {wanted}: convert it by download_data.py hub")
        # Arrow rows keep pictures encoded.
        self._dataset = dataset.with_format("arrow")
        self._without_pictures = self._dataset.remove_columns([self._image] if self._image else [])
        counts, self._fingerprint = self._check(max_steps)
        super().__init__(counts, max_steps)

    def __getitem__(self, index: int) -> Story:
        """Return one story with its pictures decoded (RGB, any size)."""
        row, steps = self.locate(index)
        pictures = self._pictures(self._dataset[row].to_pylist()[0])
        return with_pictures(self.outline(index), (pictures or [None] * steps.stop)[steps])

    def row_outline(self, row: int) -> Story:
        """Return the whole story of a row without its pictures."""
        record = self._without_pictures[row].to_pylist()[0]
        texts = self._texts(record) or [None] * self._counts[row]
        name, prompt = record.get("id"), record.get("prompt") or next(filter(None, texts), "")
        return Story(str(row if name is None else name), str(prompt), tuple(StoryStep(text) for text in texts))

    def fingerprint(self) -> str:
        """Return a short hash of all texts and pictures and of `max_steps`."""
        return self._fingerprint

    def report(self) -> str:
        """Return one line with the number of stories and steps."""
        return f"{self.name}: {len(self):,} stories of {sum(self.lengths):,} steps, loaded by the datasets library"

    def _check(self, max_steps: int | None) -> tuple[np.ndarray, str]:
        """Read every row once; return the numbers of steps and the fingerprint. Raises UserError."""
        digest, counts = hashlib.sha256(f"max_steps={max_steps}".encode()), []
        for row, record in enumerate(_rows(self._dataset)):
            texts, pictures = self._texts(record), self._pictures(record)
            count = len(texts or pictures)
            if count == 0 or len(pictures or texts) != count:
                raise UserError(f"{self.name} row {row}: it has {len(texts)} texts and {len(pictures)} pictures")
            if not all(text is None or isinstance(text, str) for text in texts):
                raise UserError(f"{self.name} row {row}: the column {self._text} must contain texts")
            if any(text is None and picture is None for text, picture in zip_longest(texts, pictures)):
                raise UserError(f"{self.name} row {row}: a page has neither a text nor a picture")
            digest.update(json.dumps([texts, record.get("prompt"), str(record.get("id"))]).encode())
            for picture in pictures:
                digest.update(hashlib.sha256(picture or b"").digest())
            counts.append(count)
        self._counts = np.array(counts)
        return self._counts, digest.hexdigest()[:16]

    def _texts(self, record: Mapping[str, Any]) -> list[str | None]:
        texts = _listed(record.get(self._text) if self._text else None)
        return [None if isinstance(text, str) and not text.strip() else text for text in texts]

    def _pictures(self, record: Mapping[str, Any]) -> list[bytes | None]:
        values = _listed(record.get(self._image) if self._image else None)
        folders = self._folders
        return [
            None if value is None else _content(with_picture_bytes(value, folders=folders), folders) for value in values
        ]


def _load(address: str, split: str) -> Dataset:
    """Return one split of a data set as a table on this disk. Raises UserError."""
    import datasets

    name, _, revision = address.removeprefix(HUB).strip("/").partition("@")
    try:
        local = not address.startswith(HUB)
        loaded = datasets.load_from_disk(address) if local else datasets.load_dataset(name, revision=revision or None)
    except Exception as error:  # The library's errors have no common base.
        problem = f"{type(error).__name__}: {first_line(error)}"
        raise UserError(f"{address} cannot be loaded by the datasets library ({problem})") from error
    splits = loaded if isinstance(loaded, datasets.DatasetDict) else {str(loaded.split or "train"): loaded}
    found = next((splits[name] for name in SPLIT_NAMES[split] if name in splits), None)
    if found is None:
        raise MissingSplit(f'{address} has no "{split}" split; it has {", ".join(map(str, splits))}')
    return found


def _rows(dataset: Dataset) -> Iterator[Mapping[str, Any]]:
    for table in dataset.iter(ROWS_A_BATCH):
        yield from table.to_pylist()


def _listed(value: Any) -> list[Any]:
    return value if isinstance(value, list) else [] if value is None else [value]


def _cache_folders() -> tuple[Path, ...]:
    """Return the folders in which the libraries keep what they fetch from the Hub."""
    import datasets
    from huggingface_hub import constants

    return tuple(map(Path, (datasets.config.HF_CACHE_HOME, datasets.config.HF_DATASETS_CACHE, constants.HF_HUB_CACHE)))


def _content(picture: Any, folders: Sequence[Path]) -> bytes:
    """Return the bytes of a picture; `datasets` stores bytes, or the path of a file in `folders`. Raises UserError."""
    if isinstance(picture, Mapping) and picture.get("bytes") is not None:
        return picture["bytes"]
    path = picture.get("path") if isinstance(picture, Mapping) else picture
    if not isinstance(path, str) or not Path(path).is_file():
        raise UserError(f"the picture {shown(path)} is not a file")
    if not is_inside(Path(path), folders):
        raise UserError(f"the picture {shown(path)} is outside the data set: convert it by download_data.py hub")
    return Path(path).read_bytes()
