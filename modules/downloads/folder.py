"""A folder of the user's own pictures and texts, in several layouts."""

from __future__ import annotations

import argparse
import json
import re
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

from modules.common.errors import UserError
from modules.data.records import RecordError, decode_line, parse_record, read_lines
from modules.downloads.record import Row, Source, SourceStep, SourceStory, counted, first_sentence

PICTURES = (".jpg", ".jpeg", ".png", ".webp", ".gif", ".bmp", ".tif", ".tiff")
SPLIT_NAMES = {"train": ("train",), "val": ("val", "validation", "valid", "dev")}


class Folder(Source):
    """Your own pictures and texts, in a folder on this disk.

    The first of these layouts that the folder has is read:
    1. stories.jsonl, as this project writes it.
    2. metadata.jsonl, .csv or .parquet with `file_name` and `text`, the imagefolder layout of `datasets`, or with the
       lists `file_names` and `texts` for a story of several steps.
    3. A folder per story: pictures in the order of their numbers, each with a .txt file of the same name; prompt.txt or
       title.txt is the prompt.
    4. Pictures with a .txt file of the same name, each a story of one step.
    If the folder contains train/ and val/, these are the splits; otherwise a tenth is held out for validation.
    Licence: `--license` for stories that do not state their own.

        python download_data.py folder my_pictures --license "CC BY 4.0"
    """

    name, terms = "folder", ""

    def __init__(self, args: argparse.Namespace) -> None:
        self.root, self.license = args.path, args.license
        if not self.root.is_dir():
            problem = "is a file, not a folder" if self.root.exists() else "does not exist"
            raise UserError(f"the folder {self.root} {problem}: correct the path")
        self._splits = {
            part: next((self.root / name for name in names if (self.root / name).is_dir()), None)
            for part, names in SPLIT_NAMES.items()
        }
        self.parts = ("train", "val") if all(self._splits.values()) else ("all",)
        inside = [path for path in self.root.iterdir() if not path.name.startswith(".")]
        if len(inside) == 1 and inside[0] == self._splits["train"]:
            self.root = inside[0]  # Without val/, some stories are held out.

    @classmethod
    def add_flags(cls, parser: argparse.ArgumentParser) -> None:
        parser.add_argument("path", type=Path, metavar="FOLDER", help="the folder with pictures and texts")
        parser.add_argument(
            "--license", default="", metavar="NAME", help="the licence of stories that do not state their own"
        )

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
            contents = "no stories.jsonl, no metadata file and no pictures"
            raise UserError(f"{root} has {contents}: see download_data.py folder --help")

    def stories(self, row: Row) -> Iterable[SourceStory]:
        if isinstance(row.value, Path):
            yield _story_folder(row.value, self.root) if row.value.is_dir() else _single(row.value, self.root)
        elif len(row.value) == 3:
            yield _own_record(*row.value)
        else:
            yield _metadata_record(*row.value)


def natural(path: Path) -> list[Any]:
    """Return a sort key that puts page 2 before page 10."""
    return [(0, int(part), "") if part.isdecimal() else (1, 0, part) for part in re.split(r"(\d+)", path.name.lower())]


def pictures_in(folder: Path) -> list[Path]:
    """Return the pictures of a folder in the order of their numbers."""
    return sorted(
        (path for path in folder.iterdir() if path.suffix.lower() in PICTURES and path.is_file()), key=natural
    )


def read_text(path: Path) -> str | None:
    """Return the text of a file, None if there is none. Raises RecordError if it is not UTF-8."""
    try:
        return path.read_text(encoding="utf-8-sig").strip() or None if path.is_file() else None
    except UnicodeDecodeError:
        raise RecordError(f"{path} is not UTF-8") from None


def _story_folder(folder: Path, root: Path) -> SourceStory:
    pages = tuple(SourceStep(read_text(path.with_suffix(".txt")), path) for path in pictures_in(folder))
    prompt = read_text(folder / "prompt.txt") or read_text(folder / "title.txt")
    prompt = prompt or first_sentence(next((page.text for page in pages if page.text), folder.name.replace("_", " ")))
    return SourceStory(str(folder.relative_to(root)), prompt, pages)


def _single(path: Path, root: Path) -> SourceStory:
    text = read_text(path.with_suffix(".txt"))
    if text is None:
        raise RecordError(f"it has no text in {path.with_suffix('.txt').name}")
    return SourceStory(str(path.relative_to(root)), first_sentence(text), (SourceStep(text, path),))


def _own_record(root: Path, number: int, line: bytes) -> SourceStory:
    story = parse_record(decode_line(line), f"line{number}", root)
    pages = tuple(SourceStep(step.text, step.image_path, step.attributes) for step in story.steps)
    extra = {key: value for key, value in story.extra.items() if key not in ("license", "credit", "source")}
    return SourceStory(
        story.id, story.prompt, pages, str(story.extra.get("license", "")), str(story.extra.get("credit", "")), extra
    )


def _metadata(path: Path) -> Iterator[tuple[str, Any]]:
    from modules.downloads.tables import Csv, Jsonl, Parquet, Table

    kind: Callable[[argparse.Namespace], Table] = {".jsonl": Jsonl, ".csv": Csv, ".parquet": Parquet}[path.suffix]
    for row in kind(argparse.Namespace(paths=[path], license="")).records(None):
        yield row.name, row.value


def _metadata_record(root: Path, value: Any) -> SourceStory:
    if isinstance(value, RecordError):
        raise value
    record = dict(decode_line(value) if isinstance(value, bytes) else value)
    files = _listed(record, "file_names", "file_name")
    texts = _listed(record, "texts", "text")
    if not files or len(files) != len(texts):
        raise RecordError(
            f"it names {len(files)} pictures and {len(texts)} texts; its keys are {', '.join(map(str, record))}"
        )
    pages = tuple(SourceStep(text, root / file) for text, file in zip(texts, files, strict=True))
    story_id = str(record.get("story_id") or record.get("id") or files[0])
    prompt = str(record.get("prompt") or first_sentence(texts[0] or ""))
    return SourceStory(story_id, prompt, pages, str(record.get("license") or ""), str(record.get("credit") or ""))


def _listed(record: dict[str, Any], *keys: str) -> list[Any]:
    value: Any = next((record[key] for key in keys if record.get(key)), [])
    if isinstance(value, str) and value.lstrip().startswith("["):  # A list in a cell of a CSV.
        try:
            value = json.loads(value)
        except ValueError:
            return [value]
    return value if isinstance(value, list) else [value]
