"""Picture books under open licences, read from clones of their git repositories."""

from __future__ import annotations

import argparse
import re
from collections.abc import Iterable, Iterator
from typing import Any, ClassVar

from modules.common.arguments import a_path
from modules.common.errors import UserError
from modules.data.records import RecordError
from modules.downloads.layouts import pictures_in
from modules.downloads.record import Row, Source, SourceStep, SourceStory, counted

_FIELD = re.compile(r"^\*\s*(\w+):\s*(.*?)\s*$", re.MULTILINE)
_PICTURE = re.compile(r"!\[([^\]]*)\]\((?:[^()\n]*/)?([^()/\s]+\.(?:jpe?g|png))\s*\)", re.IGNORECASE)
_MARKS = re.compile(
    r"\{:.*?\}|\{%.*?%\}|<[^>]+>|^#+\s*|[*_]{1,2}(?=\S)|(?<=\S)[*_]{1,2}|^---+$", re.MULTILINE | re.DOTALL
)


class AfricanStorybook(Source):
    """African picture books in many languages, 350 of them English with 3,679 pages.

    Source: two git clones, global-asp/asp-source (`--texts`) and global-asp/asp-imagebank (`--images`).
    Picture 1 of a book is its cover, and page i belongs to picture i + 1; there may be a back cover.
    Licence: CC BY or CC BY-NC, stated in the record of each book; `--licenses cc-by` keeps the former.
    Citation: African Storybook, africanstorybook.org.

        python download_data.py african-storybook --texts asp-source --images asp-imagebank --licenses cc-by
    """

    name, license = "african-storybook", "CC BY"
    sizes: ClassVar = {"all": 367}

    def __init__(self, args: argparse.Namespace) -> None:
        self.texts, self.images = args.texts / args.language, args.images
        self.inputs = (self.texts, self.images)
        for folder, clone in ((self.texts, "global-asp/asp-source"), (self.images, "global-asp/asp-imagebank")):
            if not folder.is_dir():
                raise UserError(f"the folder {folder} does not exist: clone {clone} and give its folder")

    @classmethod
    def add_flags(cls, parser: argparse.ArgumentParser) -> None:
        parser.add_argument(
            "--texts", type=a_path, required=True, metavar="CLONE", help="a clone of global-asp/asp-source"
        )
        parser.add_argument(
            "--images", type=a_path, required=True, metavar="CLONE", help="a clone of global-asp/asp-imagebank"
        )
        parser.add_argument("--language", default="en", metavar="CODE", help="en, sw, fr, af, pt, zu, ... (en)")

    def rows(self, _part: str, place: Any) -> Iterator[Row]:
        yield from counted(((str(path), path) for path in sorted(self.texts.glob("[0-9]*_*.md"))), place)

    def stories(self, row: Row) -> Iterable[SourceStory]:
        number = row.value.name.partition("_")[0]
        head, *blocks = re.split(r"^##[^\S\n]*$", self.text_of(row.value) or "", flags=re.MULTILINE)
        fields = {key.lower(): value.strip("[] ") for key, value in _FIELD.findall(blocks[-1] if blocks else "")}
        title = head.strip().removeprefix("#").strip()
        if "license" not in fields or not title:
            raise RecordError("it has no title or no licence")
        texts = [" ".join(block.split()) for block in blocks[:-1]]
        folder = next(
            (self.images / size / number for size in ("medium", "") if (self.images / size / number).is_dir()), None
        )
        pictures = pictures_in(folder) if folder else []
        if len(pictures) - len(texts) not in (1, 2):
            raise RecordError(f"its {len(texts)} pages and {len(pictures)} pictures do not match")
        pages = tuple(SourceStep(text, picture) for text, picture in zip(texts, pictures[1:], strict=False) if text)
        makers = [fields.get(key, "") for key in ("text", "illustration")]
        yield SourceStory(
            f"asp-{number}",
            title,
            pages,
            fields["license"],
            "; ".join(filter(None, makers)),
            {"author": makers[0], "illustrator": makers[1], "language": fields.get("language", self.texts.name)},
        )


class BookDash(Source):
    """African picture books of wide spreads, 39 of them English with 462 pages, with picture descriptions.

    Source: a git clone of bookdash/bookdash-books (`--clone`). The descriptions are kept as `captions`.
    Licence: CC BY 4.0. Citation: Book Dash, bookdash.org.

        python download_data.py bookdash --clone bookdash-books
    """

    name, license = "bookdash", "CC BY 4.0"

    def __init__(self, args: argparse.Namespace) -> None:
        self.clone, self.language, self.inputs = args.clone, args.language, (args.clone,)
        if not self.clone.is_dir():
            raise UserError(
                f"the folder {self.clone} does not exist: clone bookdash/bookdash-books and give its folder"
            )

    @classmethod
    def add_flags(cls, parser: argparse.ArgumentParser) -> None:
        parser.add_argument(
            "--clone", type=a_path, required=True, metavar="CLONE", help="a clone of bookdash/bookdash-books"
        )
        parser.add_argument("--language", default="en", metavar="CODE", help="en, xh, zu, ... (en)")

    def rows(self, _part: str, place: Any) -> Iterator[Row]:
        yield from counted(
            ((str(path), path) for path in sorted(self.clone.glob(f"*/{self.language}/index.md"))), place
        )

    def stories(self, row: Row) -> Iterable[SourceStory]:
        text, book = self.text_of(row.value) or "", row.value.parents[1].name
        title = re.search(r"^title:\s*[\"']?(.+?)[\"']?\s*$", text, re.MULTILINE)
        _, *parts = _PICTURE.split(text)
        pages, captions = [], []
        for caption, file, passage in zip(parts[::3], parts[1::3], parts[2::3], strict=True):
            passage = " ".join(_MARKS.sub("", passage).split())
            if passage:  # Covers and acknowledgements have no text.
                pages.append(SourceStep(passage, row.value.parent / "images" / file))
                captions.append(" ".join(caption.split()))
        if not pages:
            raise RecordError("it has no page with a picture and a text")
        prompt = title.group(1) if title else book.replace("-", " ").capitalize()
        yield SourceStory(f"bookdash-{book}", prompt, tuple(pages), credit="Book Dash", extra={"captions": captions})
