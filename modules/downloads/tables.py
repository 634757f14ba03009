"""Tables of pictures and texts whose columns are named on the command line: CSV, JSON lines, Parquet."""

from __future__ import annotations

import argparse
import csv
from abc import abstractmethod
from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from modules.common.arguments import a_path
from modules.common.errors import UserError, shown
from modules.common.files import visible_files
from modules.data.records import RecordError, decode_line
from modules.downloads.grouping import joined_rows
from modules.downloads.record import Row, Source, SourceStep, SourceStory, counted, first_sentence
from modules.downloads.text_files import check_header, encoding_flag, encoding_of, local_lines, near_names, stripped

csv.field_size_limit(1 << 30)
DELIMITERS = ",\t;"  # Of several that are as frequent in the header, the first.
NO_COLUMN, DEFAULTS = "none", ("text", "image")


class Table(Source):
    """Base class of tables in which a row has a text and a picture, or lists of them.

    Consecutive rows with the same value in the column `--story` are the steps of one story. A picture is bytes, a path
    relative to the table, or an address. A column of structs is named with dots: `--text steps.text`.
    `--text none` and `--image none` are for tables without texts, or without pictures.
    """

    ending = ""
    has_head = True  # All rows have the same columns.

    def __init__(self, args: argparse.Namespace) -> None:
        self.args, self.license, self.fetch = args, args.license, args.fetch
        self.encoding, self.inputs = getattr(args, "encoding", None), tuple(getattr(args, "paths", ()))

    @classmethod
    def add_flags(cls, parser: argparse.ArgumentParser) -> None:
        parser.add_argument(
            "paths", type=a_path, nargs="+", metavar="PATH", help=f"{cls.ending} files, or a folder of them"
        )
        cls.add_columns(parser)

    @classmethod
    def add_columns(cls, parser: argparse.ArgumentParser) -> None:
        parser.add_argument(
            "--text", default="text", metavar="COLUMN", help="the text, or a list of texts (text); none: there is none"
        )
        parser.add_argument(
            "--image",
            default="image",
            metavar="COLUMN",
            help="the picture, or a list of pictures (image); none: there is none",
        )
        parser.add_argument("--fetch", action="store_true", help="fetch pictures that are addresses")
        parser.add_argument("--prompt", metavar="COLUMN", help="the prompt (default: the first sentence)")
        parser.add_argument("--id", metavar="COLUMN", help="the story's id (default: a running number)")
        parser.add_argument(
            "--story", metavar="COLUMN", help="consecutive rows with the same value here are the steps of one story"
        )
        parser.add_argument("--license", default="", metavar="NAME", help="the licence of all stories")
        parser.add_argument("--license_column", metavar="COLUMN", help="the column with each story's licence")
        parser.add_argument("--credit", metavar="COLUMN", help="the column with each story's authors")

    def files(self) -> list[Path]:
        """Return the files given, and those of the right kind in the folders given. Raises UserError."""
        paths: list[Path] = []
        for path in self.inputs:
            if not path.is_dir() and not path.is_file():
                raise UserError(f"{path} does not exist: give {self.ending} files or a folder of them")
            found = visible_files(path) if path.is_dir() else ()
            files = [file for file in found if file.suffix.lower() == f".{self.ending}"]
            self.refuse_links(files)
            paths += files or [path]
        if folders := [path for path in paths if path.is_dir()]:
            raise UserError(f"there is no .{self.ending} file in {folders[0]}")
        return paths

    @abstractmethod
    def records(self, place: Any) -> Iterator[Row]:
        """Yield the rows of the table after `place`, named as "FILE row-NUMBER"."""

    def rows(self, _part: str, place: Any) -> Iterator[Row]:
        rows, column = self.records(place), self.args.story
        if column is None:
            for row in rows:
                yield replace(row, value=row.value if isinstance(row.value, RecordError) else [row.value])
            return

        def key_of(value: Any) -> Any:
            key = column_of(self.parse(value), column)
            return None if key == "" else key

        yield from joined_rows(rows, key_of)

    def stories(self, row: Row) -> Iterable[SourceStory]:
        args, records = self.args, [self.parse(value) for value in row.value]
        folder, first = Path(row.origin).parent, records[0]
        self._check_columns(first)
        steps = [step for record in records for step in _steps(record, args.text, args.image)]
        if not steps:
            raise RecordError(
                f"it has neither {args.text!r} nor {args.image!r}; its columns are {', '.join(map(str, first))}"
            )
        prompt = column_of(first, args.prompt) or first_sentence(next((text for text, _ in steps if text), ""))
        name = column_of(first, args.id or args.story)
        yield SourceStory(
            "" if name is None else str(name),
            str(prompt),
            tuple(SourceStep(text, self.picture(image, folder)) for text, image in steps),
            license=str(column_of(first, args.license_column) or ""),
            credit=str(column_of(first, args.credit) or ""),
        )

    def picture(self, value: Any, folder: Path) -> bytes | Path | str | None:
        """Return the picture in a cell as bytes, file or address. Raises RecordError."""
        if isinstance(value, Mapping):
            value = value.get("bytes") or value.get("path")
        if isinstance(value, bytes) or value is None:
            return value
        if not isinstance(value, str):
            raise RecordError(f"a picture must be a path, an address or bytes, got {type(value).__name__}")
        value = value.strip()
        return value if value.startswith(("http://", "https://")) else folder / value

    def _check_columns(self, record: Mapping[str, Any]) -> None:
        """Raise an error if a column that is read does not exist: half of the data would be lost without a word.

        UserError in a table with a head; in one without, where keys may be missing, RecordError if there is a key of
        another name that may be meant.
        """
        flags = ("text", "image", "prompt", "id", "story", "license_column", "credit")
        asked = {flag: name for flag in flags if (name := getattr(self.args, flag)) not in (None, NO_COLUMN)}
        missing = [flag for flag, name in asked.items() if name not in record and name.partition(".")[0] not in record]
        near = {flag: _near(asked[flag], record, asked.values()) for flag in missing}
        if not (missing if self.has_head else any(near.get(flag) for flag in DEFAULTS)):
            return
        problem = (
            f"no column for {' and '.join(f'--{flag} {shown(asked[flag])}' for flag in missing)}; its columns are"
            f" {', '.join(shown(name) for name in list(record)[:20])}"
        )
        advice = [f"--{flag} {' or '.join(names)}" for flag, names in near.items() if names]
        problem += f": is it {' and '.join(advice)}?" if advice else ""
        if not self.has_head:
            raise RecordError(f"it has {problem}")
        nothing = f" ({missing[0]}s that do not exist: --{missing[0]} {NO_COLUMN})" if missing[0] in DEFAULTS else ""
        raise UserError(f"the table of {self.name} has {problem}{nothing}")

    @staticmethod
    def parse(value: Any) -> Mapping[str, Any]:
        """Return a row, given as JSON or decoded. Raises RecordError if it is not an object."""
        record = decode_line(value) if isinstance(value, bytes) else value
        if not isinstance(record, Mapping):
            raise RecordError("it is not an object")
        return stripped(record)


class Csv(Table):
    """Your own CSV files with a header, separated by commas or tabs.

    A picture is a path relative to the file, or an address. Name the columns with `--text`, `--image` and so on.
    Consecutive rows with the same value in the column `--story` are the steps of one story.
    Licence: `--license` for all stories, or `--license_column`.

        python download_data.py csv pages.csv --text caption --image file --story book
    """

    name, ending = "csv", "csv"

    @classmethod
    def add_flags(cls, parser: argparse.ArgumentParser) -> None:
        super().add_flags(parser)
        encoding_flag(parser)

    def records(self, place: Any) -> Iterator[Row]:
        done = 0
        for path in self.files():
            for row in counted(self._lines(path), None):
                done += 1
                if done > (place or 0):
                    yield Row(row.name, done, row.value, str(path))

    def _lines(self, path: Path) -> Iterator[tuple[str, Any]]:
        with open(path, encoding=encoding_of(path, self.encoding), newline="") as file:
            head = file.readline()
            file.seek(0)
            lines = csv.reader(file, delimiter=max(DELIMITERS, key=head.count), skipinitialspace=True, strict=True)
            number, header = 0, _next_row(lines) or []
            check_header(path, header)
            while (cells := _next_row(lines)) is not None:
                number += 1
                if not isinstance(cells, RecordError):
                    complete, fault = len(cells) == len(header), "it has more or fewer cells than the header"
                    cells = dict(zip(header, cells, strict=True)) if complete else RecordError(fault)
                yield f"{path} row {number}", cells


class Jsonl(Table):
    """Your own JSON lines, one object per line; keys that a story does not need may be missing.

    A picture is a path relative to the file, or an address. Lists of texts and pictures make a story of several steps;
    a list of objects is named with dots: `--text steps.text`.
    Licence: `--license` for all stories, or `--license_column`.

        python download_data.py jsonl stories.jsonl --text texts --image pictures
    """

    name, ending, has_head = "jsonl", "jsonl", False

    @classmethod
    def add_flags(cls, parser: argparse.ArgumentParser) -> None:
        super().add_flags(parser)
        encoding_flag(parser)

    def records(self, place: Any) -> Iterator[Row]:
        from modules.downloads.readers import line_rows

        yield from line_rows(list(map(str, self.files())), local_lines(self.encoding), place)


class Parquet(Table):
    """Your own Parquet files, with pictures inside (as `datasets` writes them) or beside them.

    Lists of texts and pictures make a story of several steps; name a list of structs with dots: `--text steps.text`.
    Licence: `--license` for all stories, or `--license_column`.

        python download_data.py parquet tables/ --text texts --image images
    """

    name, ending = "parquet", "parquet"

    def records(self, place: Any) -> Iterator[Row]:
        from modules.downloads.readers import parquet_rows

        yield from parquet_rows(list(map(str, self.files())), lambda name: open(name, "rb"), place)


def _next_row(lines: Any) -> Any:
    """Return the cells of the next row of a CSV reader that is not blank, its fault, or None at the end."""
    first = lines.line_num + 1
    try:
        return next((cells for cells in lines if cells), None)
    except csv.Error as error:  # Such as a quote that is never closed, with all lines behind it.
        return RecordError(f"lines {first} to {lines.line_num} are not CSV ({error})")


def column_of(record: Mapping[str, Any], column: str | None) -> Any:
    """Return the value of a column, None if there is none; "steps.text" is "text" of every struct in "steps"."""
    if column in (None, NO_COLUMN):
        return None
    if column in record:
        return record[column]
    name, _, key = column.partition(".")
    value = record.get(name) if key else None
    if isinstance(value, list):
        return [column_of(item, key) if isinstance(item, Mapping) else None for item in value]
    return column_of(value, key) if isinstance(value, Mapping) else None


def _near(name: str, record: Mapping[str, Any], asked: Collection[str]) -> list[str]:
    """Return up to three columns that may be meant by `name`, of those not asked for."""
    return [shown(other) for other in near_names(name, record) if other not in asked][:3]


def _steps(record: Mapping[str, Any], text: str, image: str) -> list[tuple[str | None, Any]]:
    """Return the texts of a row, each with its picture; either may be missing. Raises RecordError."""
    texts, images = (
        [None if value == "" else value for value in _listed(column_of(record, column))] for column in (text, image)
    )
    if wrong := next((value for value in texts if value is not None and not isinstance(value, str)), None):
        raise RecordError(f"{text!r} contains {type(wrong).__name__}, not a text")
    if texts and images and len(texts) != len(images):
        raise RecordError(f"it has {len(texts)} texts and {len(images)} pictures")
    count = max(len(texts), len(images))
    pairs = zip(texts or [None] * count, images or [None] * count, strict=True)
    return [(words, picture) for words, picture in pairs if words is not None or picture is not None]


def _listed(value: Any) -> list[Any]:
    return value if isinstance(value, list) else [] if value in (None, "") else [value]
