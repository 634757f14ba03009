"""All pages of a story in one picture: a sheet of cards, each picture above its whole text."""

from __future__ import annotations

import math
from bisect import bisect_right
from collections.abc import Sequence

from PIL import Image, ImageDraw, ImageFilter, ImageFont

from modules.presentation.markup import clean
from modules.presentation.story.book import PAPER, Page, code_color, contained

PAGES_A_ROW = 5
LONGEST_TITLE = 300  # Letters.
TABLE, SOFT, INK = "#e9dfcd", "#8a7861", "#35291d"


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
        self.font, self.captions = self._fit(
            [page.text for page in pages], page_size - 2 * self.px(4), sizes=(20, 18, 16, 14), lines=8
        )
        largest = 42 if self.columns > 2 else 28
        sizes = (largest, largest * 3 // 4, largest // 2)
        self.title_font, (self.title,) = self._fit([_shortened(title)], self.width - 2 * self.margin, sizes, lines=2)
        self.line, self.title_line = round(self.font.size * 1.4), round(self.title_font.size * 1.3)

    def px(self, length: float) -> int:
        return max(1, round(length * self.scale))

    def _fit(
        self, texts: Sequence[str], width: int, sizes: Sequence[int], lines: int
    ) -> tuple[ImageFont.FreeTypeFont, list[list[str]]]:
        """The largest of `sizes` at which no text needs more than `lines`; at the smallest the sheet grows instead."""
        for size in sizes:
            font = ImageFont.load_default(self.px(size))
            wrapped = [_wrap(clean(text), font, width) for text in texts]
            if max(map(len, wrapped)) <= lines:
                break
        return font, wrapped

    def draw(self) -> Image.Image:
        boxes, height = self._place()
        sheet = Image.new("RGB", (self.width, height), TABLE)
        shadow = Image.new("L", sheet.size)
        for left, top, right, bottom in boxes:
            ImageDraw.Draw(shadow).rounded_rectangle(
                (left, top + self.px(5), right, bottom + self.px(5)), self.px(16), fill=90
            )
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

    def _draw_card(
        self, sheet: Image.Image, number: int, page: Page, caption: list[str], box: tuple[int, int, int, int]
    ) -> None:
        left, top, right, bottom = box
        card = Image.new("RGB", (right - left, bottom - top), PAPER)
        sheet.paste(card, (left, top), _rounded(card.size, self.px(16)))
        picture = contained(page.image, self.picture)
        corner = (
            left + self.pad + (self.picture - picture.width) // 2,
            top + self.pad + (self.picture - picture.height) // 2,
        )
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
            sheet.paste(
                chip, (left + self.pad + self.px(4) + slot * step, baseline - dot // 2), _rounded(chip.size, dot / 2)
            )


def _shortened(title: str) -> str:
    """A title is read at a glance: what is left out of a very long one is three dots."""
    return title if len(title) <= LONGEST_TITLE else f"{title[:LONGEST_TITLE].rsplit(maxsplit=1)[0]} ..."


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
