"""Any data set on the Hub, or in a folder that the `datasets` library can load."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Iterator, Mapping
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from modules.common.errors import UserError, first_line
from modules.data.records import RecordError
from modules.downloads.record import Row
from modules.downloads.tables import Table

if TYPE_CHECKING:
    from modules.downloads.hub_files import HubDataset

PARQUET = "*.parquet"
LOADED = "datasets"  # Marks a place of the `datasets` library: [LOADED, split, its state, rows done in the split].


class Hub(Table):
    """Any data set of pictures and texts on the Hub, or in a local folder that `datasets` can load.

    Parquet files are read directly and can be resumed at any row. Everything else (JSON, CSV, image folders, web
    datasets, folders written by `save_to_disk`) is streamed through the `datasets` library, all splits in turn; a
    stopped run then reads the file that it was in again from the start.
    Name the columns with `--text`, `--image` and so on; a list of structs is named with dots: `--text steps.text`.
    Source: the page of the data set, huggingface.co/datasets/ID. Licence: see that page; `--license` names it.

        python download_data.py hub owner/name --text caption --image picture --license "CC BY 4.0"
        python download_data.py hub my_saved_dataset --split train
    """

    name, terms = "hub", "see the data set's page on the Hub for what its licence allows"

    def __init__(self, args: argparse.Namespace) -> None:
        super().__init__(args)
        self.inputs = (Path(args.repo),) if Path(args.repo).is_dir() else ()

    @classmethod
    def add_flags(cls, parser: argparse.ArgumentParser) -> None:
        parser.add_argument("repo", metavar="ID", help="the data set's id (owner/name), or a folder on this disk")
        parser.add_argument(
            "--files",
            default=PARQUET,
            metavar="PATTERN",
            help="read only these Parquet files (*.parquet, at any depth)",
        )
        parser.add_argument("--revision", metavar="NAME", help="a branch, a tag, or refs/convert/parquet")
        parser.add_argument("--config", metavar="NAME", help="the configuration, if the data set has several")
        parser.add_argument("--split", metavar="NAME", help="read only this split, such as train (default: all)")
        cls.add_columns(parser)

    def records(self, place: Any) -> Iterator[Row]:
        if Path(self.args.repo).is_dir():
            yield from self._local(place)
            return
        from modules.downloads.hub_files import first_found

        dataset = self._dataset
        dataset.check()
        files = [] if self.args.config or self.args.split else dataset.find(self.args.files)
        if self.args.files != PARQUET:
            files = first_found(dataset, self.args.files)
        if files and not _is_loaded(place):
            yield from dataset.parquet(files, place)
        else:
            yield from dataset.explained(self._loaded(place))

    def picture(self, value: Any, folder: Path) -> bytes | Path | str | None:
        """As `Table.picture`; a relative path is a file of the data set."""
        found = super().picture(value, folder)
        if not isinstance(found, Path) or found.is_absolute() or Path(self.args.repo).is_dir():
            return found
        return self._dataset.read(str(value["path"] if isinstance(value, Mapping) else value))

    @cached_property
    def _dataset(self) -> HubDataset:
        from modules.downloads.hub_files import HubDataset

        return HubDataset(self.args.repo, self.args.revision)

    def _local(self, place: Any) -> Iterator[Row]:
        try:
            yield from self._loaded(place)
        except (UserError, RecordError):
            raise
        except Exception as error:  # The library's errors have no common base.
            problem = f"{type(error).__name__}: {first_line(error)}"
            raise UserError(f"{self.args.repo} cannot be loaded by the datasets library ({problem})") from error

    def _loaded(self, place: Any) -> Iterator[Row]:
        """Yield the rows of all splits, or of `--split`, as the `datasets` library loads them."""
        from modules.data.hf_datasets import stream_splits, with_picture_bytes

        splits = stream_splits(self.args.repo, self.args.config, self.args.revision)
        if self.args.split:
            if self.args.split not in splits:
                raise UserError(f"{self.args.repo} has no split {self.args.split!r}; it has {', '.join(splits)}")
            splits = {self.args.split: splits[self.args.split]}
        names = list(splits)
        first, state, done = place[1:] if _is_loaded(place) else (names[0], None, 0)
        for split in names[names.index(first) :]:
            rows, done = splits[split], done if split == first else 0
            if done and split == first:
                print(f"{self.name}: resuming {self.args.repo} ({split}) after row {done:,}", file=sys.stderr)
                rows.load_state_dict(state)
            for number, record in enumerate(rows, start=done + 1):
                place = [LOADED, split, json.loads(json.dumps(rows.state_dict())), number]
                name = f"{self.args.repo}/{split}"
                yield Row(f"{name} row {number}", place, with_picture_bytes(record, self.fetch, self.inputs), name)


def _is_loaded(place: Any) -> bool:
    return bool(place) and place[0] == LOADED
