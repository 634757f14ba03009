"""A story as a picture book: one HTML file that works anywhere, the pages as PNG, and a contact sheet.

The same input gives the same bytes: nothing here knows the date, and PNGs carry no metadata.
"""

from __future__ import annotations

import base64
import colorsys
import contextlib
import html
import io
import json
import math
import os
import unicodedata
from bisect import bisect_right
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from string import Template
from typing import Any

from PIL import Image, ImageDraw, ImageFilter, ImageFont

from modules.story import UserError

PAGE_PIXELS = 384
PAGES_A_ROW = 5
TABLE, PAPER, LINE, SOFT, INK = "#e9dfcd", "#fffaf0", "#d8c9ae", "#8a7861", "#35291d"
_TEMPLATE = Path(__file__).with_name("book.html")


@dataclass(frozen=True)
class Page:
    """One page as a person sees it, with the S codes and the bits of its storyboard where there is one."""

    image: Image.Image
    text: str
    codes: list[int] | None = None
    bits: float | None = None


def write_book(output_dir: Path, title: str, pages: Sequence[Page], details: Mapping[str, Any], lang: str = "en") -> Path:
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
    leaves = [_cover(title, pages, last), *(_leaf(page, number, last) for number, page in enumerate(pages, 1)), _colophon(pages, details)]
    template = Template(_TEMPLATE.read_text(encoding="utf-8"))
    document = template.substitute(lang=_escape(lang), title=_escape(title), leaves="\n".join(leaves))
    return _write(Path(output_dir) / "book.html", document.encode())


def write_pages(output_dir: Path, pages: Sequence[Page]) -> list[Path]:
    """Write ``page_01.png`` and so on, enlarged to 384 pixels, and return the paths. Raises UserError if that fails."""
    digits = max(2, len(str(len(pages))))
    return [write_png(Path(output_dir) / f"page_{number:0{digits}}.png", _enlarged(page.image)) for number, page in enumerate(pages, 1)]


def write_png(path: Path, image: Image.Image) -> Path:
    """Write a picture without metadata, as `contact_sheet` returns it. Raises UserError if that fails."""
    return _write(Path(path), _png(image))


def write_story_json(output_dir: Path, data: Mapping[str, Any]) -> Path:
    """Write ``story.json`` with the keys in the order given. Raises UserError if that fails."""
    text = json.dumps(data, indent=2, ensure_ascii=False) + "\n"
    return _write(Path(output_dir) / "story.json", text.encode("utf-8", "replace"))


def contact_sheet(pages: Sequence[Page], title: str, page_size: int = 288) -> Image.Image:
    """Lay the pages out side by side, at most five a row, each picture above its whole text, under the title.

    Args:
        pages: At least one.
        title: The prompt.
        page_size: Width and height of a picture in pixels; all else scales with it.

    Raises:
        ValueError: There are no pages.
    """
    if not pages:
        raise ValueError("a contact sheet needs at least one page, got 0")
    return _Sheet(pages, title, page_size).draw()


def code_color(code: int) -> str:
    """A light colour that belongs to a code: neighbours in number lie a golden angle apart in hue."""
    hue = code * 0.381966 % 1.0
    red, green, blue = colorsys.hls_to_rgb(hue, 0.68 + 0.05 * (code % 3), 0.60 + 0.15 * (code // 3 % 2))
    return f"#{round(red * 255):02x}{round(green * 255):02x}{round(blue * 255):02x}"


class _Sheet:
    """The measures of one contact sheet. All lengths are those of a 288-pixel page, scaled."""

    def __init__(self, pages: Sequence[Page], title: str, page_size: int) -> None:
        self.pages = pages
        self.scale = page_size / 288
        self.picture = page_size
        self.pad, self.gap, self.margin = self.px(14), self.px(22), self.px(40)
        self.card_width = page_size + 2 * self.pad
        rows = math.ceil(len(pages) / PAGES_A_ROW)
        self.columns = math.ceil(len(pages) / rows)  # Six pages are two rows of three, not five and one.
        self.width = 2 * self.margin + self.columns * self.card_width + (self.columns - 1) * self.gap
        self.font, self.captions = self._fit([page.text for page in pages], page_size - 2 * self.px(4), sizes=(20, 18, 16, 14), lines=8)
        largest = 42 if self.columns > 2 else 28
        sizes = (largest, largest * 3 // 4, largest // 2)
        self.title_font, (self.title,) = self._fit([title], self.width - 2 * self.margin, sizes, lines=2)
        self.line, self.title_line = round(self.font.size * 1.4), round(self.title_font.size * 1.3)

    def px(self, length: float) -> int:
        return max(1, round(length * self.scale))

    def _fit(self, texts: Sequence[str], width: int, sizes: Sequence[int], lines: int) -> tuple[ImageFont.FreeTypeFont, list[list[str]]]:
        """The largest of `sizes` at which no text needs more than `lines`; at the smallest the sheet grows instead."""
        for size in sizes:
            font = ImageFont.load_default(self.px(size))
            wrapped = [_wrap(_clean(text), font, width) for text in texts]
            if max(map(len, wrapped)) <= lines:
                break
        return font, wrapped

    def draw(self) -> Image.Image:
        boxes, height = self._place()
        sheet = Image.new("RGB", (self.width, height), TABLE)
        shadow = Image.new("L", sheet.size)
        for left, top, right, bottom in boxes:
            ImageDraw.Draw(shadow).rounded_rectangle((left, top + self.px(5), right, bottom + self.px(5)), self.px(16), fill=90)
        sheet.paste("#6b4a1f", mask=shadow.filter(ImageFilter.GaussianBlur(self.px(9))))
        draw = ImageDraw.Draw(sheet)
        for number, line in enumerate(self.title):
            y = self.margin + number * self.title_line
            draw.text((self.width / 2, y), line, INK, self.title_font, "ma", stroke_width=self.title_font.size / 70)
        for number, (page, caption, box) in enumerate(zip(self.pages, self.captions, boxes, strict=True), 1):
            self._draw_card(sheet, number, page, caption, box)
        return sheet

    def _place(self) -> tuple[list[tuple[int, int, int, int]], int]:
        """The box of every card, the last row centred, and the height of the sheet."""
        boxes = []
        top = self.margin + len(self.title) * self.title_line + self.px(24)
        for first in range(0, len(self.pages), self.columns):
            captions = self.captions[first : first + self.columns]
            height = self.pad + self.picture + self.px(14) + max(map(len, captions)) * self.line + self.px(42)
            left = (self.width - len(captions) * self.card_width - (len(captions) - 1) * self.gap) // 2
            for column in range(len(captions)):
                x = left + column * (self.card_width + self.gap)
                boxes.append((x, top, x + self.card_width, top + height))
            top += height + self.gap
        return boxes, top - self.gap + self.margin

    def _draw_card(self, sheet: Image.Image, number: int, page: Page, caption: list[str], box: tuple[int, int, int, int]) -> None:
        left, top, right, bottom = box
        card = Image.new("RGB", (right - left, bottom - top), PAPER)
        sheet.paste(card, (left, top), _rounded(card.size, self.px(16)))
        picture = _contained(page.image, self.picture)
        corner = (left + self.pad + (self.picture - picture.width) // 2, top + self.pad + (self.picture - picture.height) // 2)
        sheet.paste(picture, corner, _rounded(picture.size, self.px(10)))
        draw = ImageDraw.Draw(sheet)
        y = top + self.pad + self.picture + self.px(14)
        for line in caption:
            draw.text((left + self.pad + self.px(4), y), line, INK, self.font)
            y += self.line
        small, baseline = ImageFont.load_default(self.px(13)), bottom - self.px(18)
        draw.text((right - self.pad - self.px(4), baseline), str(number), SOFT, small, "rm")
        dot, step = self.px(9), self.px(14)
        for slot, code in enumerate((page.codes or [])[: (self.picture - self.px(40)) // step]):
            chip = Image.new("RGB", (dot, dot), code_color(code))
            sheet.paste(chip, (left + self.pad + self.px(4) + slot * step, baseline - dot // 2), _rounded(chip.size, dot / 2))


def _wrap(text: str, font: ImageFont.FreeTypeFont, width: int) -> list[str]:
    """Lines no wider than `width`; a word that is wider, or a script without spaces, is broken anywhere."""
    lines, line = [], ""
    for word in text.split():
        joined = f"{line} {word}".strip()
        if _fits(joined, font, width):
            line = joined
            continue
        if line:
            lines.append(line)
        line = word
        while not _fits(line, font, width):
            longer = range(2, min(len(line), 400) + 1)
            cut = 1 + bisect_right(longer, width, key=lambda end, rest=line: font.getlength(rest[:end]))
            lines.append(line[:cut])
            line = line[cut:]
    return [*lines, line] if line else lines


def _fits(text: str, font: ImageFont.FreeTypeFont, width: int) -> bool:
    return len(text) <= 400 and font.getlength(text) <= width


def _rounded(size: tuple[int, int], radius: float) -> Image.Image:
    """A mask with smooth corners: Pillow draws without anti-aliasing, so draw large and shrink."""
    mask = Image.new("L", (size[0] * 4, size[1] * 4))
    ImageDraw.Draw(mask).rounded_rectangle((0, 0, mask.width - 1, mask.height - 1), radius * 4, fill=255)
    return mask.resize(size, Image.Resampling.BOX)


def _contained(image: Image.Image, size: int) -> Image.Image:
    scale = size / max(image.size)
    return _rgb(image).resize(tuple(max(1, round(side * scale)) for side in image.size), Image.Resampling.LANCZOS)


def _enlarged(image: Image.Image) -> Image.Image:
    return _rgb(image) if max(image.size) >= PAGE_PIXELS else _contained(image, PAGE_PIXELS)


def _rgb(image: Image.Image) -> Image.Image:
    """A fresh RGB picture: transparency lies on paper, and no colour profile or comment comes along."""
    canvas = Image.new("RGB", image.size, PAPER)
    transparent = image.convert("RGBA")
    canvas.paste(transparent, mask=transparent.getchannel("A"))
    return canvas


def _png(image: Image.Image) -> bytes:
    buffer = io.BytesIO()
    _rgb(image).save(buffer, "PNG", compress_level=9)
    return buffer.getvalue()


def _cover(title: str, pages: Sequence[Page], last: int) -> str:
    picture = f'<img src="{_data_uri(pages[0].image)}" alt="">' if pages else ""
    count = "1 page" if len(pages) == 1 else f"{len(pages)} pages"
    return (
        f'<section class="leaf" id="page-0" aria-label="Title page"><article class="sheet cover"><div>{picture}'
        f'<h1 dir="auto"{_long(title, 90)}>{_escape(title)}</h1><p>A picture story in {count}</p></div>{_nav(0, last)}</article></section>'
    )


def _leaf(page: Page, number: int, last: int) -> str:
    picture = _enlarged(page.image)
    text = _escape(page.text)
    return (
        f'<section class="leaf" id="page-{number}" aria-label="Page {number} of {last - 1}"><article class="sheet page">'
        f'<figure><img src="{_data_uri(picture)}" width="{picture.width}" height="{picture.height}" alt="Picture of page {number}: {text}">'
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
    rows = ["".join(f'<i style="--code:{code_color(code)}"></i>' for code in page.codes) for page in pages if page.codes]
    plan = ""
    if rows:
        plan = (
            "<p>Before a word was written or a line was drawn, this story was planned: a row of codes for each page, "
            "from which both its text and its picture were made.</p>"
            f'<div class="plan" aria-hidden="true">{"".join(f"<div>{row}</div>" for row in rows)}</div>'
        )
    items = "".join(f'<dt>{_escape(key)}</dt><dd dir="auto">{_escape(_plain(value))}</dd>' for key, value in details.items())
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


def _data_uri(image: Image.Image) -> str:
    return f"data:image/png;base64,{base64.b64encode(_png(image)).decode()}"


def _escape(text: object) -> str:
    return html.escape(_clean(str(text)))


def _clean(text: str) -> str:
    """Without what neither UTF-8 nor a page can hold: lone surrogates and control characters; white space is kept."""
    return "".join(character for character in text if character.isspace() or unicodedata.category(character) not in ("Cc", "Cs"))


def _write(path: Path, content: bytes) -> Path:
    """Write a file whole or not at all."""
    temporary = path.with_name(f".{path.name}.tmp-{os.getpid()}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary.write_bytes(content)
        os.replace(temporary, path)
    except OSError as error:
        with contextlib.suppress(OSError):
            temporary.unlink()
        raise UserError(f"Could not write {path} ({error.strerror}): choose a writable output folder with free space.") from error
    return path
