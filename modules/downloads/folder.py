"""A folder of the user's own pictures and texts, in several layouts."""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

from modules.common.arguments import a_path
from modules.common.errors import UserError, shown
from modules.common.files import visible, visible_files
from modules.data.records import RecordError, decode_line, parse_record, read_lines
from modules.downloads.layouts import (
    METADATA,
    STORIES,
    TITLES,
    Layout,
    find_layout,
    has_list,
    natural,
    pages_in,
    pictures_in,
    texts_in,
)
from modules.downloads.record import Row, Source, SourceStep, SourceStory, counted, first_sentence
from modules.downloads.text_files import encoding_flag, near_names, stripped

MAX_NAMED = 8
TABLES = (".jsonl", ".csv", ".parquet")  # Each is read by the command of this name.


class Folder(Source):
    """Your own pictures and texts, in a folder on this disk.

    The first of these layouts that the folder has is read:
    1. stories.jsonl, as this project writes it.
    2. metadata.jsonl, .csv or .parquet with `file_name` and `text`, the imagefolder layout of `datasets`, or with the
       lists `file_names` and `texts` for a story of several steps.
    3. A folder per story: pictures in the order of their numbers, each with a .txt file of the same name, and numbered
       .txt files between them, which are pages without a picture; prompt.txt or title.txt is the prompt.
    4. Pictures with a .txt file of the same name, each a story of one step.
    If the folder contains train/ and val/ (or validation/, or else test/), these are the splits; otherwise a tenth is
    held out for validation. All this may be in data/, as in a clone from the Hub. What is ignored is named; hidden
    and system files are not. Pictures outside the folder are refused.
    Licence: `--license` for stories that do not state their own.

        python download_data.py folder my_pictures --license "CC BY 4.0"
    """

    name, terms = "folder", ""

    def __init__(self, args: argparse.Namespace) -> None:
        self.root, self.license, self.encoding = args.path, args.license, args.encoding
        self.inputs = (args.path,)
        if not self.root.is_dir():
            problem = "is a file, not a folder" if self.root.exists() else "does not exist"
            raise UserError(f"the folder {self.root} {problem}: correct the path")
        layout = find_layout(self.root)
        self._refuse_a_list_of_another_name(layout)
        self.root, self._splits, self.parts = layout.root, layout.splits, layout.parts
        self._texts: tuple[Path, dict[str, Path]] = (Path(), {})
        if layout.passed_over:
            inner = {path: shown(path.relative_to(args.path).as_posix()) for path in layout.passed_over}
            names = [f"{name}/" if path.is_dir() else name for path, name in inner.items()]
            more = f" and {len(names) - MAX_NAMED:,} more" if len(names) > MAX_NAMED else ""
            self.notes = (f"ignored {', '.join(names[:MAX_NAMED])}{more}: not part of this folder's layout",)
        if self._splits and self._splits["val"].name.lower().startswith("test"):
            self.notes += (f"{self._splits['val'].name}/ is used for validation",)

    @staticmethod
    def _refuse_a_list_of_another_name(layout: Layout) -> None:
        """Raise UserError if pictures without any text stand beside a table that is ignored: their texts."""
        tables = [path for path in layout.passed_over if path.suffix.lower() in TABLES and path.is_file()]
        roots = list(layout.splits.values()) or [layout.root]
        if not tables or any(has_list(root) for root in roots):
            return
        folders = [path for root in roots for path in (root, *visible(root)) if path.is_dir()]
        if not any(texts_in(folder).keys() & {path.stem for path in pictures_in(folder)} for folder in folders):
            table, kind = tables[0], tables[0].suffix.lower()
            raise UserError(
                f"no picture has a text, but {table} is a table: read it by download_data.py {kind[1:]} {table}, or"
                f" rename it to metadata{kind}"
            )

    @classmethod
    def add_flags(cls, parser: argparse.ArgumentParser) -> None:
        parser.add_argument("path", type=a_path, metavar="FOLDER", help="the folder with pictures and texts")
        parser.add_argument(
            "--license", default="", metavar="NAME", help="the licence of stories that do not state their own"
        )
        encoding_flag(parser)

    def rows(self, part: str, place: Any) -> Iterator[Row]:
        root = self._splits.get(part) or self.root
        yield from counted(self._named(root), place)

    def _named(self, root: Path) -> Iterator[tuple[str, Any]]:
        self.refuse_links(path for name in (STORIES, *METADATA) if (path := root / name).is_file())
        if (root / STORIES).is_file():
            for number, line in read_lines(root / STORIES):
                yield f"{root / STORIES} line {number}", (root, number, line)
            return
        metadata = next((root / name for name in METADATA if (root / name).is_file()), None)
        if metadata is not None:
            yield from ((name, (root, value)) for name, value in _metadata(metadata, self.encoding))
            return
        folders = [path for path in sorted(visible(root), key=natural) if path.is_dir() and pictures_in(path)]
        for path in folders:
            yield str(path), path
        for path in pictures_in(root):
            yield str(path), path
        if not folders and not pictures_in(root):
            contents = "no stories.jsonl, no metadata file and no pictures"
            is_table = any(path.suffix == ".parquet" for path in visible_files(root))
            advice = "read its tables by download_data.py parquet" if is_table else "see download_data.py folder --help"
            raise UserError(f"{root} has {contents}: {advice}")

    def stories(self, row: Row) -> Iterable[SourceStory]:
        if isinstance(row.value, Path):
            yield self._story_folder(row.value) if row.value.is_dir() else self._single(row.value)
        elif len(row.value) == 3:
            yield _own_record(*row.value)
        else:
            yield _metadata_record(*row.value)

    def _text_beside(self, picture: Path) -> str | None:
        """Return the text of a picture, None if it has none. The last folder's names are kept."""
        if self._texts[0] != picture.parent:
            self._texts = (picture.parent, texts_in(picture.parent))
        path = self._texts[1].get(picture.stem)
        return None if path is None else self.text_of(path)

    def _story_folder(self, folder: Path) -> SourceStory:
        pictures = set(pictures_in(folder))
        steps = (
            SourceStep(self._text_beside(path), path) if path in pictures else SourceStep(self.text_of(path))
            for path in pages_in(folder)
        )
        pages = tuple(step for step in steps if step.text or step.image)
        prompt = next(filter(None, (self.text_of(folder / name) for name in TITLES)), None)
        prompt = prompt or first_sentence(
            next((page.text for page in pages if page.text), folder.name.replace("_", " "))
        )
        return SourceStory(folder.name, prompt, pages)

    def _single(self, path: Path) -> SourceStory:
        text = self._text_beside(path)
        if text is None:
            raise RecordError(f"it has no text in {path.with_suffix('.txt').name}")
        return SourceStory(path.name, first_sentence(text), (SourceStep(text, path),))


def _own_record(root: Path, number: int, line: bytes) -> SourceStory:
    story = parse_record(decode_line(line), f"line{number}", root)
    pages = tuple(SourceStep(step.text, step.image_path, step.attributes) for step in story.steps)
    extra = {key: value for key, value in story.extra.items() if key not in ("license", "credit", "source")}
    return SourceStory(
        story.id, story.prompt, pages, str(story.extra.get("license", "")), str(story.extra.get("credit", "")), extra
    )


def _metadata(path: Path, encoding: str | None) -> Iterator[tuple[str, Any]]:
    from modules.downloads.tables import Csv, Jsonl, Parquet, Table

    kind: Callable[[argparse.Namespace], Table] = {".jsonl": Jsonl, ".csv": Csv, ".parquet": Parquet}[path.suffix]
    for row in kind(argparse.Namespace(paths=[path], license="", fetch=False, encoding=encoding)).records(None):
        yield row.name, row.value


def _metadata_record(root: Path, value: Any) -> SourceStory:
    """Return the story of a row of a metadata file. A page may lack its picture or its text, but not both."""
    if isinstance(value, RecordError):
        raise value
    is_line = isinstance(value, bytes)
    record = stripped(decode_line(value) if is_line else value)
    files = _cells(record, "file_names", "file_name", "image", may_lack=is_line)
    texts = _cells(record, "texts", "text", "text", may_lack=is_line)
    if files and texts and len(files) != len(texts):
        raise RecordError(f"it names {len(files)} pictures by file_name and {len(texts)} texts by text")
    count = max(len(files), len(texts))
    pairs = zip(texts or [None] * count, files or [None] * count, strict=True)
    pages = tuple(SourceStep(text, file and root / str(file).strip()) for text, file in pairs if text or file)
    if not pages:
        raise RecordError(f"it has neither a picture nor a text; its keys are {', '.join(map(shown, record))}")
    story_id = str(record.get("story_id") or record.get("id") or next(filter(None, files), ""))
    prompt = record.get("prompt") or first_sentence(next((str(page.text) for page in pages if page.text), ""))
    credit, license_name = str(record.get("credit") or ""), str(record.get("license") or "")
    return SourceStory(story_id, str(prompt), pages, license_name, credit)


def _cells(record: dict[str, Any], many: str, one: str, meant: str, may_lack: bool) -> list[Any]:
    """Return the cells of the column `many` or `one`, None where they are empty.

    Raises RecordError where there is no such column, but in lines that `may_lack` it only if another is near `meant`.
    """
    key = next((key for key in (many, one) if record.get(key) not in (None, "", [])), None)
    if key is None:
        near = near_names(meant, record) if not {many, one} & record.keys() else []
        if near or not (may_lack or {many, one} & record.keys()):
            keys, advice = ", ".join(map(shown, list(record)[:20])), f": is it {shown(near[0])}?" if near else ""
            raise RecordError(f"it has no {one}; its keys are {keys}{advice}")
        return []
    value: Any = record[key]
    if isinstance(value, str) and value.lstrip().startswith("["):  # A list in a cell of a CSV.
        try:
            value = json.loads(value)
        except ValueError:
            return [value]
    cells = value if isinstance(value, list) else [value]
    return [None if isinstance(cell, str) and not cell.strip() else cell for cell in cells]
