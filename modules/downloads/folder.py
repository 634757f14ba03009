"""A folder of the user's own, in any of the forms that people keep pictures and texts in."""

from __future__ import annotations

import argparse
import json
import re
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from modules.common.errors import UserError
from modules.data.records import RecordError, decode_line, parse_record, read_lines
from modules.downloads.record import FoundStory, Page, Row, counted, first_sentence

PICTURES = (".jpg", ".jpeg", ".png", ".webp", ".gif", ".bmp", ".tif", ".tiff")
SPLIT_NAMES = {"train": ("train",), "val": ("val", "validation", "valid", "dev")}


class Folder:
    """Pictures and texts on this disk: the first of these forms that the folder has.

    stories.jsonl as this project writes it; metadata.jsonl, .csv or .parquet as the imagefolder of `datasets` reads it
    (`file_name` and `text`, or `file_names` and `texts`); a folder for each story with pictures in the order of their
    numbers and a .txt beside each (prompt.txt or title.txt is the prompt); pictures with a .txt beside, each a story of
    one step. With train/ and val/ in it these are the splits. Licence: --license.
    """

    name, terms = "folder", ""

    def __init__(self, args: argparse.Namespace) -> None:
        self.root, self.license = args.path, args.license
        if not self.root.is_dir():
            wrong = "is a file, and no folder" if self.root.exists() else "does not exist"
            raise UserError(f"the folder {self.root} {wrong}: correct the path")
        self._splits = {
            part: next((self.root / name for name in names if (self.root / name).is_dir()), None)
            for part, names in SPLIT_NAMES.items()
        }
        self.parts = ("train", "val") if all(self._splits.values()) else ("all",)
        inside = [path for path in self.root.iterdir() if not path.name.startswith(".")]
        if len(inside) == 1 and inside[0] == self._splits["train"]:
            self.root = inside[0]  # Without a val/ some of it is held out.

    @staticmethod
    def add_flags(parser: argparse.ArgumentParser) -> None:
        parser.add_argument("path", type=Path, metavar="FOLDER", help="the folder that holds pictures and texts")
        parser.add_argument("--license", default="", metavar="NAME", help="the licence of what names none")

    def rows(self, part: str, place: Any) -> Iterator[Row]:
        root = self._splits.get(part) or self.root
        yield from counted(self._named(root), place)

    def _named(self, root: Path) -> Iterator[tuple[str, Any]]:
        if (root / "stories.jsonl").is_file():
            for number, line in read_lines(root / "stories.jsonl"):
                yield f"{root / 'stories.jsonl'} line {number}", (root, number, line)
            return
        metadata = next(
            (root / f"metadata.{end}" for end in ("jsonl", "csv", "parquet") if (root / f"metadata.{end}").is_file()),
            None,
        )
        if metadata is not None:
            yield from ((name, (root, value)) for name, value in _metadata(metadata))
            return
        folders = [path for path in sorted(root.iterdir(), key=natural) if path.is_dir() and pictures_in(path)]
        for path in folders:
            yield str(path), path
        for path in pictures_in(root):
            yield str(path), path
        if not folders and not pictures_in(root):
            raise UserError(
                f"{root} holds no stories.jsonl, no metadata file and no pictures: see download_data.py folder --help"
            )

    def stories(self, row: Row) -> Iterable[FoundStory]:
        if isinstance(row.value, Path):
            yield _story_folder(row.value, self.root) if row.value.is_dir() else _single(row.value, self.root)
        elif len(row.value) == 3:
            yield _own_record(*row.value)
        else:
            yield _metadata_record(*row.value, row.name)


def natural(path: Path) -> list[Any]:
    """A key that puts page 2 before page 10."""
    return [(0, int(part), "") if part.isdecimal() else (1, 0, part) for part in re.split(r"(\d+)", path.name.lower())]


def pictures_in(folder: Path) -> list[Path]:
    """The pictures of a folder, in the order of their numbers."""
    return sorted(
        (path for path in folder.iterdir() if path.suffix.lower() in PICTURES and path.is_file()), key=natural
    )


def read_text(path: Path) -> str | None:
    """The text of a file, None where there is none. Raises RecordError where it is not UTF-8."""
    try:
        return path.read_text(encoding="utf-8-sig").strip() or None if path.is_file() else None
    except UnicodeDecodeError:
        raise RecordError(f"{path} is not UTF-8") from None


def _story_folder(folder: Path, root: Path) -> FoundStory:
    pages = tuple(Page(read_text(path.with_suffix(".txt")), path) for path in pictures_in(folder))
    prompt = read_text(folder / "prompt.txt") or read_text(folder / "title.txt")
    prompt = prompt or first_sentence(next((page.text for page in pages if page.text), folder.name.replace("_", " ")))
    return FoundStory(str(folder.relative_to(root)), prompt, pages)


def _single(path: Path, root: Path) -> FoundStory:
    text = read_text(path.with_suffix(".txt"))
    if text is None:
        raise RecordError(f"it has no text in {path.with_suffix('.txt').name}")
    return FoundStory(str(path.relative_to(root)), first_sentence(text), (Page(text, path),))


def _own_record(root: Path, number: int, line: bytes) -> FoundStory:
    story = parse_record(decode_line(line), f"line{number}", root)
    pages = tuple(Page(step.text, step.image_path, step.attributes) for step in story.steps)
    extra = {key: value for key, value in story.extra.items() if key not in ("license", "credit", "source")}
    return FoundStory(
        story.id, story.prompt, pages, str(story.extra.get("license", "")), str(story.extra.get("credit", "")), extra
    )


def _metadata(path: Path) -> Iterator[tuple[str, Any]]:
    from modules.downloads.tables import Csv, Jsonl, Parquet

    kind = {".jsonl": Jsonl, ".csv": Csv, ".parquet": Parquet}[path.suffix]
    for row in kind(argparse.Namespace(paths=[path], license="")).records("all", None):
        yield row.name, row.value


def _metadata_record(root: Path, value: Any, name: str) -> FoundStory:
    if isinstance(value, RecordError):
        raise value
    record = dict(decode_line(value) if isinstance(value, bytes) else value)
    files = _listed(record, "file_names", "file_name")
    texts = _listed(record, "texts", "text")
    if not files or len(files) != len(texts):
        raise RecordError(
            f"it names {len(files)} pictures and {len(texts)} texts; its keys are {', '.join(map(str, record))}"
        )
    pages = tuple(Page(text, root / file) for text, file in zip(texts, files, strict=True))
    story_id = str(record.get("story_id") or record.get("id") or files[0])
    prompt = str(record.get("prompt") or first_sentence(texts[0] or ""))
    return FoundStory(story_id, prompt, pages, str(record.get("license") or ""), str(record.get("credit") or ""))


def _listed(record: dict[str, Any], *keys: str) -> list[Any]:
    value = next((record[key] for key in keys if record.get(key)), [])
    if isinstance(value, str) and value.lstrip().startswith("["):  # A list in a cell of a CSV.
        try:
            value = json.loads(value)
        except ValueError:
            return [value]
    return value if isinstance(value, list) else [value]
