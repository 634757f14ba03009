"""Tables of the user's own, or on the Hub, whose columns are named on the command line: CSV, JSON lines, Parquet."""

from __future__ import annotations

import argparse
import csv
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from modules.common.errors import UserError
from modules.data.records import RecordError, decode_line
from modules.downloads.record import FoundStory, Page, Row, counted, first_sentence

csv.field_size_limit(1 << 30)


class Table:
    """A table whose rows hold a text and a picture, or lists of them; rows of the same --story are the steps of one
    story.

    Source: files or folders given, in this order. Licence: --license, or the column --license_column. A picture is
    bytes, a path beside the table or an address; rows of one story stand together.
    """

    license, terms, parts, ending = "", "", ("all",), ""
    has_head = True  # All rows have the same columns.

    def __init__(self, args: argparse.Namespace) -> None:
        self.args, self.license = args, args.license

    @classmethod
    def add_flags(cls, parser: argparse.ArgumentParser) -> None:
        parser.add_argument("paths", nargs="+", metavar="PATH", help=f"{cls.ending} files, or a folder of them")
        cls.add_columns(parser)

    @staticmethod
    def add_columns(parser: argparse.ArgumentParser) -> None:
        parser.add_argument("--text", default="text", metavar="COLUMN", help="the text, or a list of texts (text)")
        parser.add_argument(
            "--image", default="image", metavar="COLUMN", help="the picture, or a list of pictures (image)"
        )
        parser.add_argument("--prompt", metavar="COLUMN", help="the prompt (else the first sentence)")
        parser.add_argument("--id", metavar="COLUMN", help="the story's id (else a number)")
        parser.add_argument(
            "--story", metavar="COLUMN", help="rows that have the same here, one after another, are one story"
        )
        parser.add_argument("--license", default="", metavar="NAME", help="the licence of all of it")
        parser.add_argument("--license_column", metavar="COLUMN", help="the column that names each story's licence")
        parser.add_argument("--credit", metavar="COLUMN", help="the column that names who made it")

    def files(self) -> list[Path]:
        paths = []
        for path in map(Path, self.args.paths):
            if not path.exists():
                raise UserError(f"{path} does not exist: give {self.ending} files or a folder of them")
            paths += sorted(path.rglob(f"*.{self.ending}")) if path.is_dir() else [path]
        if not paths:
            raise UserError(f"there is no .{self.ending} file in {', '.join(self.args.paths)}")
        return paths

    def records(self, part: str, place: Any) -> Iterator[Row]:
        """The rows of the table, one by one."""
        raise NotImplementedError

    def rows(self, part: str, place: Any) -> Iterator[Row]:
        rows, column = self.records(part, place), self.args.story
        if column is None:
            for row in rows:
                yield Row(row.name, row.place, row.value if isinstance(row.value, RecordError) else [row.value])
            return
        group: list[Row] = []
        for row in rows:
            if group and (_key(row, column) is None or _key(row, column) != _key(group[0], column)):
                yield _joined(group)
                group = []
            group.append(row)
        if group:
            yield _joined(group)

    def stories(self, row: Row) -> Iterable[FoundStory]:
        args, records = self.args, [self.parse(value) for value in row.value]
        folder, first = Path(row.name.rpartition(" ")[0] or ".").parent, records[0]
        if self.has_head:
            self._check_columns(first)
        steps = [step for record in records for step in _steps(record, args.text, args.image)]
        if not steps:
            raise RecordError(
                f"it has neither {args.text!r} nor {args.image!r}; its columns are {', '.join(map(str, first))}"
            )
        pages = [Page(text, _picture(image, folder)) for text, image in steps]
        prompt = first.get(args.prompt) or first_sentence(next((text for text, _ in steps if text), ""))
        name = first.get(args.id or args.story) if args.id or args.story else None
        yield FoundStory(
            "" if name is None else str(name),
            str(prompt),
            tuple(pages),
            license=str(first.get(args.license_column) or ""),
            credit=str(first.get(args.credit) or ""),
        )

    def _check_columns(self, record: Mapping[str, Any]) -> None:
        """Raise RecordError where a column that was named is not there: a slip of the fingers would leave half of the
        data out.
        """
        asked = {name: getattr(self.args, name) for name in ("prompt", "id", "story", "license_column", "credit")}
        asked |= {name: value for name in ("text", "image") if (value := getattr(self.args, name)) != name}
        missing = [f"--{name} {value}" for name, value in asked.items() if value is not None and value not in record]
        if missing:
            raise RecordError(
                f"it has no column for {' and '.join(missing)}; its columns are {', '.join(map(str, record))}"
            )

    @staticmethod
    def parse(value: Any) -> Mapping[str, Any]:
        record = decode_line(value) if isinstance(value, bytes) else value
        if not isinstance(record, Mapping):
            raise RecordError("it is not an object")
        return record


class Csv(Table):
    """A table with a head, comma or tab separated. Source, licence: as `Table`."""

    name, ending = "csv", "csv"

    def records(self, part: str, place: Any) -> Iterator[Row]:
        yield from counted(self._lines(), place)

    def _lines(self) -> Iterator[tuple[str, Any]]:
        for path in self.files():
            with open(path, encoding="utf-8-sig", errors="replace", newline="") as file:
                head = file.readline()
                file.seek(0)
                for number, record in enumerate(
                    csv.DictReader(file, delimiter="\t" if head.count("\t") > head.count(",") else ","), 1
                ):
                    broken = (
                        RecordError("it has more or fewer cells than the head")
                        if None in record or None in record.values()
                        else None
                    )
                    yield f"{path} row-{number}", broken or record


class Jsonl(Table):
    """One object a line; what a story does without may be absent. Source, licence: as `Table`."""

    name, ending, has_head = "jsonl", "jsonl", False

    def records(self, part: str, place: Any) -> Iterator[Row]:
        from modules.downloads.readers import line_rows

        for row in line_rows(list(map(str, self.files())), lambda name: open(name, "rb", buffering=0), place):
            yield Row(row.name.replace(" at byte ", " byte-"), row.place, row.value)


class Parquet(Table):
    """Parquet files, pictures within (as `datasets` writes them) or beside. Source, licence: as `Table`."""

    name, ending = "parquet", "parquet"

    def records(self, part: str, place: Any) -> Iterator[Row]:
        from modules.downloads.readers import parquet_rows

        for row in parquet_rows(list(map(str, self.files())), lambda name: open(name, "rb"), place):
            yield Row(row.name.replace(" row ", " row-"), row.place, row.value)


class HubParquet(Parquet):
    """Any data set that lies on the Hub as Parquet.

    Source: --repo and --files, at --revision. Licence: see its page.
    """

    name, terms = "hub", "see the data set's page on the Hub for what its licence allows"

    @classmethod
    def add_flags(cls, parser: argparse.ArgumentParser) -> None:
        parser.add_argument("repo", metavar="ID", help="the data set's id, such as owner/name")
        parser.add_argument(
            "--files", default="*.parquet", metavar="PATTERN", help="which of its files (*.parquet, in any folder)"
        )
        parser.add_argument("--revision", metavar="NAME", help="a branch, a tag, or refs/convert/parquet")
        cls.add_columns(parser)

    def records(self, part: str, place: Any) -> Iterator[Row]:
        from modules.downloads.hub_files import HubDataset, first_found

        dataset = HubDataset(self.args.repo, self.args.revision)
        dataset.check()
        for row in dataset.parquet(first_found(dataset, self.args.files), place):
            yield Row(row.name.replace(" row ", " row-"), row.place, row.value)


def _key(row: Row, column: str) -> Any:
    """What a row's story is called; None, which equals nothing, where it does not say."""
    try:
        return Table.parse(row.value).get(column)
    except RecordError:
        return None


def _joined(group: Sequence[Row]) -> Row:
    """One row of several: done when the last of them is."""
    broken = next((row.value for row in group if isinstance(row.value, RecordError)), None)
    return Row(group[0].name, group[-1].place, broken or [row.value for row in group])


def _steps(record: Mapping[str, Any], text: str, image: str) -> list[tuple[str | None, Any]]:
    """The texts of a row, each with its picture; either may be absent in all of them, or in a row that is one step."""
    texts, images = (
        [None if value == "" else value for value in _listed(record.get(column))] for column in (text, image)
    )
    if wrong := next((value for value in texts if value is not None and not isinstance(value, str)), None):
        raise RecordError(f"{text!r} holds {type(wrong).__name__}, not a text")
    if texts and images and len(texts) != len(images):
        raise RecordError(f"it has {len(texts)} texts and {len(images)} pictures")
    count = max(len(texts), len(images))
    pairs = zip(texts or [None] * count, images or [None] * count, strict=True)
    return [(words, picture) for words, picture in pairs if words is not None or picture is not None]


def _listed(value: Any) -> list[Any]:
    return value if isinstance(value, list) else [] if value in (None, "") else [value]


def _picture(value: Any, folder: Path) -> bytes | Path | str | None:
    if isinstance(value, Mapping):
        value = value.get("bytes") or value.get("path")
    if isinstance(value, bytes) or value is None:
        return value
    if not isinstance(value, str):
        raise RecordError(f"a picture must be a path, an address or bytes, got {type(value).__name__}")
    return value if value.startswith(("http://", "https://")) else folder / value
