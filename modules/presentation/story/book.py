"""A story as an HTML book, as PNG pages and as JSON.

The same input gives the same bytes: no date is written, and PNGs carry no metadata but the plan.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from PIL import Image

from modules.common.files import write_whole
from modules.presentation.images import flatten, png_uri, scale_to, write_png
from modules.presentation.story.embedded import PLAN_KEYWORD
from modules.presentation.templates import render

PAGE_PIXELS = 384
_NUMBER_ROW = re.compile(r"\[\n([\s\d,]+)\]")  # No text matches: JSON escapes its line breaks.


@dataclass(frozen=True)
class BookPage:
    """One page of a book, with the S codes and the bits of its storyboard where there is one, and remarks on it."""

    image: Image.Image
    text: str
    codes: list[int] | None = None
    bits: float | None = None
    plan: str | None = None  # The text form of the plan that the page belongs to.
    marks: tuple[str, ...] = ()


def write_book(
    output_dir: Path,
    title: str,
    pages: Sequence[BookPage],
    details: Mapping[str, Any],
    lang: str = "en",
    notes: Sequence[str] = (),
) -> Path:
    """Write ``book.html``: one self-contained file with a title page, one leaf for each page, and a colophon.

    Args:
        output_dir: Created if absent.
        title: The prompt.
        pages: The pages in order; pictures smaller than 384 pixels are enlarged.
        details: The entries of the colophon, such as seed and settings.
        lang: The language of the story, as in HTML's ``lang``.
        notes: Sentences of the title page about what the model could not take into account.

    Raises:
        UserError: The file cannot be written.
    """
    return write_whole(output_dir / "book.html", book_html(title, pages, details, lang, notes).encode())


def book_html(
    title: str, pages: Sequence[BookPage], details: Mapping[str, Any], lang: str = "en", notes: Sequence[str] = ()
) -> str:
    """Return the content of ``book.html``; the arguments are those of `write_book`."""
    return render(
        "story/book.html",
        title=title,
        lang=lang,
        notes=[f"{note[:1].upper()}{note[1:]}." for note in notes if note.strip()],
        cover=png_uri(pages[0].image) if pages else None,
        pages=[_leaf(page) for page in pages],
        details={name: _plain(value) for name, value in details.items()},
    )


def write_pages(output_dir: Path, pages: Sequence[BookPage]) -> list[Path]:
    """Write ``page_01.png`` and so on, enlarged to 384 pixels, and return the paths. Raises UserError if that fails."""
    names = page_names(len(pages))
    return [
        write_png(output_dir / name, enlarge(page.image), plan_texts(page.plan))
        for name, page in zip(names, pages, strict=True)
    ]


def page_names(count: int) -> list[str]:
    """Return the names of the files of that many pages."""
    digits = max(2, len(str(count)))
    return [f"page_{number:0{digits}}.png" for number in range(1, count + 1)]


def plan_texts(plan: str | None) -> dict[str, str]:
    """Return the texts of a page's PNG file by keyword."""
    return {} if plan is None else {PLAN_KEYWORD: plan}


def write_story_json(output_dir: Path, data: Mapping[str, Any]) -> Path:
    """Write ``story.json`` with the keys in the order given, codes in one row. Raises UserError if that fails."""
    text = json.dumps(data, indent=2, ensure_ascii=False) + "\n"
    text = _NUMBER_ROW.sub(lambda row: f"[{' '.join(row[1].split())}]", text)
    return write_whole(output_dir / "story.json", text.encode("utf-8", "replace"))


def _leaf(page: BookPage) -> dict[str, Any]:
    picture = enlarge(page.image)
    return {
        "picture": png_uri(picture),
        "width": picture.width,
        "height": picture.height,
        "text": page.text,
        "codes": page.codes,
        "bits": page.bits,
        "marks": page.marks,
    }


def enlarge(image: Image.Image) -> Image.Image:
    """Return an image as RGB, enlarged to 384 pixels if it is smaller."""
    return flatten(image) if max(image.size) >= PAGE_PIXELS else scale_to(image, PAGE_PIXELS)


def _plain(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False, default=str)
