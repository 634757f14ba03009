"""A story as a picture book: one HTML file that works anywhere, and the pages as PNG.

The same input gives the same bytes: nothing here knows the date, and PNGs carry no metadata.
"""

from __future__ import annotations

import colorsys
import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from PIL import Image

from modules.common.files import write_whole
from modules.presentation.markup import data_uri, encode_image, escape, fill_page

PAGE_PIXELS = 384
PAPER = "#fffaf0"
_TEMPLATE = Path(__file__).with_name("book.html")
_NUMBER_ROW = re.compile(r"\[\n([\s\d,]+)\]")  # No text matches: JSON escapes its line breaks.


@dataclass(frozen=True)
class Page:
    """One page as a person sees it, with the S codes and the bits of its storyboard where there is one."""

    image: Image.Image
    text: str
    codes: list[int] | None = None
    bits: float | None = None


def write_book(
    output_dir: Path, title: str, pages: Sequence[Page], details: Mapping[str, Any], lang: str = "en"
) -> Path:
    """Write ``book.html``: one self-contained file with a title page, one leaf for each page, and a colophon.

    Args:
        output_dir: Created if absent.
        title: The prompt.
        pages: The pages in order; pictures smaller than 384 pixels are enlarged.
        details: What the colophon lists, such as seed and settings.
        lang: The language of the story, as in HTML's ``lang``.

    Raises:
        UserError: The file cannot be written.
    """
    last = len(pages) + 1
    leaves = [
        _cover(title, pages, last),
        *(_leaf(page, number, last) for number, page in enumerate(pages, 1)),
        _colophon(pages, details),
    ]
    document = fill_page(
        _TEMPLATE, title, lang, "width=device-width, initial-scale=1, viewport-fit=cover", leaves="\n".join(leaves)
    )
    return write_whole(Path(output_dir) / "book.html", document.encode())


def write_pages(output_dir: Path, pages: Sequence[Page]) -> list[Path]:
    """Write ``page_01.png`` and so on, enlarged to 384 pixels, and return the paths. Raises UserError if that fails."""
    digits = max(2, len(str(len(pages))))
    return [
        write_png(Path(output_dir) / f"page_{number:0{digits}}.png", _enlarged(page.image))
        for number, page in enumerate(pages, 1)
    ]


def write_png(path: Path, image: Image.Image) -> Path:
    """Write a picture without metadata, as RGB. Raises UserError if that fails."""
    return write_whole(Path(path), _png(image))


def write_story_json(output_dir: Path, data: Mapping[str, Any]) -> Path:
    """Write ``story.json`` with the keys in the order given, codes in one row. Raises UserError if that fails."""
    text = json.dumps(data, indent=2, ensure_ascii=False) + "\n"
    text = _NUMBER_ROW.sub(lambda row: f"[{' '.join(row[1].split())}]", text)
    return write_whole(Path(output_dir) / "story.json", text.encode("utf-8", "replace"))


def code_color(code: int) -> str:
    """A light colour that belongs to a code: neighbours in number lie a golden angle apart in hue."""
    hue = code * 0.381966 % 1.0
    red, green, blue = colorsys.hls_to_rgb(hue, 0.68 + 0.05 * (code % 3), 0.60 + 0.15 * (code // 3 % 2))
    return f"#{round(red * 255):02x}{round(green * 255):02x}{round(blue * 255):02x}"


def contained(image: Image.Image, size: int) -> Image.Image:
    """The picture as RGB, scaled until its longer side is `size`."""
    scale = size / max(image.size)
    return _rgb(image).resize(tuple(max(1, round(side * scale)) for side in image.size), Image.Resampling.LANCZOS)


def _enlarged(image: Image.Image) -> Image.Image:
    return _rgb(image) if max(image.size) >= PAGE_PIXELS else contained(image, PAGE_PIXELS)


def _rgb(image: Image.Image) -> Image.Image:
    """A fresh RGB picture: transparency lies on paper, and no colour profile or comment comes along."""
    canvas = Image.new("RGB", image.size, PAPER)
    transparent = image.convert("RGBA")
    canvas.paste(transparent, mask=transparent.getchannel("A"))
    return canvas


def _png(image: Image.Image) -> bytes:
    return encode_image(_rgb(image), compress_level=9)


def _cover(title: str, pages: Sequence[Page], last: int) -> str:
    picture = f'<img src="{data_uri(_png(pages[0].image))}" alt="">' if pages else ""
    count = "1 page" if len(pages) == 1 else f"{len(pages)} pages"
    return (
        f'<section class="leaf" id="page-0" aria-label="Title page"><article class="sheet cover"><div>{picture}'
        f'<h1 dir="auto"{_long(title, 90)}>{escape(title)}</h1><p>A picture story in {count}</p></div>{_nav(0, last)}</article></section>'
    )


def _leaf(page: Page, number: int, last: int) -> str:
    picture = _enlarged(page.image)
    text, uri = escape(page.text), data_uri(_png(picture))
    return (
        f'<section class="leaf" id="page-{number}" aria-label="Page {number} of {last - 1}"><article class="sheet page">'
        f'<figure><img src="{uri}" width="{picture.width}" height="{picture.height}" alt="Picture of page {number}: {text}">'
        f'</figure><div class="words"><p dir="auto" class="story{" long" if len(page.text) > 320 else ""}">{text}</p>'
        f"{_storyboard(page)}{_nav(number, last)}</div></article></section>"
    )


def _storyboard(page: Page) -> str:
    if page.codes is None and page.bits is None:
        return ""
    chips = "".join(f'<li style="--code:{code_color(code)}">{code:d}</li>' for code in page.codes or [])
    bits = "" if page.bits is None else f"<p>{page.bits:.1f} bits</p>"
    return f'<details><summary>Storyboard</summary><ol class="chips">{chips}</ol>{bits}</details>'


def _colophon(pages: Sequence[Page], details: Mapping[str, Any]) -> str:
    rows = [
        "".join(f'<i style="--code:{code_color(code)}"></i>' for code in page.codes) for page in pages if page.codes
    ]
    plan = ""
    if rows:
        plan = (
            "<p>Before a word was written or a line was drawn, this story was planned: a row of codes for each page, "
            "from which both its text and its picture were made.</p>"
            f'<div class="plan" aria-hidden="true">{"".join(f"<div>{row}</div>" for row in rows)}</div>'
        )
    items = "".join(
        f'<dt>{escape(key)}</dt><dd dir="auto">{escape(_plain(value))}</dd>' for key, value in details.items()
    )
    number = len(pages) + 1
    return (
        f'<section class="leaf" id="page-{number}" aria-label="Colophon"><article class="sheet colophon"><div><h2>Colophon</h2>'
        f"{plan}<dl>{items}</dl></div>{_nav(number, number)}</article></section>"
    )


def _nav(number: int, last: int) -> str:
    """Plain links, so that pages turn without a script too."""
    back = f'<a href="#page-{max(number - 1, 0)}" aria-label="Previous page"{" hidden" if number == 0 else ""}>‹</a>'
    on = f'<a href="#page-{min(number + 1, last)}" aria-label="Next page"{" hidden" if number == last else ""}>›</a>'
    return f"<nav>{back}<span>{number if 0 < number < last else ''}</span>{on}</nav>"


def _long(text: str, limit: int) -> str:
    return ' class="long"' if len(text) > limit else ""


def _plain(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False, default=str)
