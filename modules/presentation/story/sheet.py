"""Contact sheets: all pages of a story in one image, each picture above its whole text."""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import cache, partial
from pathlib import Path

from PIL import Image, ImageDraw, ImageFilter, ImageFont

from modules.presentation.images import scale_to
from modules.presentation.story.book import BookPage
from modules.presentation.text import wrap
from modules.presentation.theme import LIGHT, code_color

PAGES_A_ROW = 5
LONGEST_TITLE = 300  # Characters.
Box = tuple[int, int, int, int]  # Left, top, right, bottom.


def contact_sheet(pages: Sequence[BookPage], title: str, page_size: int = 288, font: Path | None = None) -> Image.Image:
    """Lay the pages out side by side, at most five a row, each picture above its whole text, under the title.

    Args:
        pages: At least one.
        title: The prompt.
        page_size: Width and height of a picture in pixels; all else scales with it.
        font: By default that of Pillow, which has Latin letters only.

    Raises:
        ValueError: There are no pages.
    """
    if not pages:
        raise ValueError("a contact sheet needs at least one page, got 0")
    return _ContactSheet(pages, title, page_size, font).draw()


class _ContactSheet:
    """The layout of one contact sheet. All lengths are those of a 288-pixel page, scaled."""

    def __init__(self, pages: Sequence[BookPage], title: str, page_size: int, font: Path | None) -> None:
        self.pages, self.font = pages, partial(_font, font)
        self.scale = page_size / 288
        self.picture = page_size
        self.pad, self.gap, self.margin = self.px(14), self.px(22), self.px(40)
        self.card_width = page_size + 2 * self.pad
        rows = math.ceil(len(pages) / PAGES_A_ROW)
        self.columns = math.ceil(len(pages) / rows)  # Six pages are two rows of three, not five and one.
        self.width = 2 * self.margin + self.columns * self.card_width + (self.columns - 1) * self.gap
        texts, text_width = [page.text for page in pages], page_size - 2 * self.px(4)
        self.text_size, self.captions = self._fit(texts, text_width, sizes=(20, 18, 16, 14), lines=8)
        largest = 42 if self.columns > 2 else 28
        sizes = (largest, largest * 3 // 4, largest // 2)
        title_width = self.width - 2 * self.margin
        self.title_size, (self.title,) = self._fit([_shorten(title)], title_width, sizes, lines=2)
        self.line, self.title_line = round(self.text_size * 1.4), round(self.title_size * 1.3)

    def px(self, length: float) -> int:
        return max(1, round(length * self.scale))

    def _fit(self, texts: Sequence[str], width: int, sizes: Sequence[int], lines: int) -> tuple[int, list[list[str]]]:
        """Return the largest font size at which no text needs more than `lines`, and the wrapped texts.

        Longer texts keep the smallest size, and the sheet grows instead.
        """
        for size in map(self.px, sizes):
            wrapped = [wrap(text, width, self.font(size).getlength) for text in texts]
            if max(map(len, wrapped)) <= lines:
                break
        return size, wrapped

    def draw(self) -> Image.Image:
        boxes, height = self._place_cards()
        sheet = Image.new("RGB", (self.width, height), LIGHT.table)
        self._draw_shadows(sheet, boxes)
        draw, font = ImageDraw.Draw(sheet), self.font(self.title_size)
        for number, line in enumerate(self.title):
            y = self.margin + number * self.title_line
            draw.text((self.width / 2, y), line, LIGHT.ink, font, "ma", stroke_width=self.title_size / 70)
        for number, box in enumerate(boxes, 1):
            self._draw_card(sheet, number, box)
        return sheet

    def _place_cards(self) -> tuple[list[Box], int]:
        """Return the box of every card, the last row centred, and the height of the sheet."""
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

    def _draw_shadows(self, sheet: Image.Image, boxes: Sequence[Box]) -> None:
        mask = Image.new("L", sheet.size)
        draw, drop = ImageDraw.Draw(mask), self.px(5)
        for left, top, right, bottom in boxes:
            draw.rounded_rectangle((left, top + drop, right, bottom + drop), self.px(16), fill=90)
        sheet.paste(LIGHT.shadow, mask=mask.filter(ImageFilter.GaussianBlur(self.px(9))))

    def _draw_card(self, sheet: Image.Image, number: int, box: Box) -> None:
        left, top, right, bottom = box
        page, draw = self.pages[number - 1], ImageDraw.Draw(sheet)
        _paste_rounded(sheet, Image.new("RGB", (right - left, bottom - top), LIGHT.paper), (left, top), self.px(16))
        picture = scale_to(page.image, self.picture)
        x, y = ((self.picture - side) // 2 for side in picture.size)
        _paste_rounded(sheet, picture, (left + self.pad + x, top + self.pad + y), self.px(10))
        y = top + self.pad + self.picture + self.px(14)
        edge = left + self.pad + self.px(4)
        for line in self.captions[number - 1]:
            draw.text((edge, y), line, LIGHT.ink, self.font(self.text_size))
            y += self.line
        baseline = bottom - self.px(18)
        draw.text((right - self.pad - self.px(4), baseline), str(number), LIGHT.faint, self.font(self.px(13)), "rm")
        dot, step = self.px(9), self.px(14)
        for slot, code in enumerate((page.codes or [])[: (self.picture - self.px(40)) // step]):
            chip = Image.new("RGB", (dot, dot), code_color(code))
            _paste_rounded(sheet, chip, (edge + slot * step, baseline - dot // 2), dot / 2)


@cache
def _font(file: Path | None, size: int) -> ImageFont.FreeTypeFont:
    font = ImageFont.load_default(size) if file is None else ImageFont.truetype(file, size)
    if not isinstance(font, ImageFont.FreeTypeFont):
        raise RuntimeError("Pillow was built without FreeType, which contact sheets need: install Pillow's own wheel")
    return font


def _shorten(title: str) -> str:
    """Cut a very long title and end it in three dots."""
    return title if len(title) <= LONGEST_TITLE else f"{title[:LONGEST_TITLE].rsplit(maxsplit=1)[0]} ..."


def _paste_rounded(sheet: Image.Image, image: Image.Image, corner: tuple[int, int], radius: float) -> None:
    """Paste with smooth rounded corners: Pillow draws without anti-aliasing, so draw the mask large and shrink it."""
    mask = Image.new("L", (image.width * 4, image.height * 4))
    ImageDraw.Draw(mask).rounded_rectangle((0, 0, mask.width - 1, mask.height - 1), radius * 4, fill=255)
    sheet.paste(image, corner, mask.resize(image.size, Image.Resampling.BOX))
