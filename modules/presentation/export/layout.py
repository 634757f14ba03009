"""Where the picture and the lines of a page lie, in units of the page: the same for PDF, EPUB and drawn pages."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from PIL import Image

from modules.presentation.export.book import Book
from modules.presentation.export.fonts import choose_font, width_of
from modules.presentation.export.settings import ExportSettings
from modules.presentation.text import ELLIPSIS, clean, split_after, wrap

LEADING = 1.42  # Distance of lines, in sizes of the font.
Box = tuple[float, float, float, float]  # Left, top, width, height.


@dataclass(frozen=True)
class Leaf:
    """One printed page. `lines` are centred in the box `words`; `number` is printed at its foot, where there is one."""

    width: float
    height: float
    picture: Image.Image | None
    picture_box: Box
    words: Box
    lines: tuple[str, ...]
    size: float
    font: Path
    number: str = ""
    kind: str = "page"  # Or "cover".
    text: str = ""  # Of the lines; on the first leaf of a page, the whole text of the page.

    @property
    def told(self) -> str:
        """The text of the lines: they break at spaces, but words wider than a line and scripts without spaces too."""
        is_shortened = bool(self.lines) and self.lines[-1].endswith(ELLIPSIS) and not self.text.endswith(ELLIPSIS)
        return " ".join(self.lines) if is_shortened else split_after(self.text, self.lines)[0]

    def baselines(self) -> list[float]:
        """Return the baselines of the lines, from the top of the page."""
        _, top, _, height = self.words
        step = self.size * LEADING
        first = top + max(0.0, (height - step * len(self.lines)) / 2) + step / 2 + self.size * 0.33
        return [first + number * step for number in range(len(self.lines))]


@dataclass(frozen=True)
class Shape:
    """The shape of the pages: portrait, the picture above the words, or landscape, the picture beside them."""

    width: float = 612.0
    height: float = 792.0  # 8.5 x 11 inches, in points.

    @property
    def is_wide(self) -> bool:
        return self.width > self.height

    def boxes(self, share: float = 1.0) -> tuple[Box, Box]:
        """Return the boxes of picture and words; the picture takes this share of what it can have."""
        side = min(self.width, self.height) * share
        pad, foot = 0.075 * min(self.width, self.height), 0.05 * self.height
        if self.is_wide:
            words = (side + pad, pad, self.width - side - 2 * pad, self.height - pad - max(pad, foot))
            return (0.0, (self.height - side) / 2, side, side), words
        top = 0.0 if share == 1 else pad * 0.6
        below = top + side + pad * 0.25
        return ((self.width - side) / 2, top, side, side), (
            pad,
            below,
            self.width - 2 * pad,
            self.height - below - foot,
        )


PORTRAIT, LANDSCAPE = Shape(), Shape(960.0, 540.0)
SIZES = (26, 24, 22, 20, 18, 16, 14)
SHARES = (1.0, 0.78, 0.6)


def lay_out(book: Book, settings: ExportSettings, shape: Shape = PORTRAIT) -> list[Leaf]:
    """Return the cover and the pages of a book; a text too long for its page continues on the next leaf."""
    leaves = [_cover(book, settings, shape)]
    for number, page in enumerate(book.pages, 1):
        text = " ".join(clean(page.text).split())
        font = choose_font(text, settings.font)
        leaves += _page_leaves(page.image, text, font, str(number), shape)
    return leaves


def _cover(book: Book, settings: ExportSettings, shape: Shape) -> Leaf:
    title = " ".join(clean(book.title).split())
    font = choose_font(title, settings.font, bold=True)
    picture, words = shape.boxes()
    if not shape.is_wide:  # The title above the picture.
        pad = words[0]
        picture = (0.0, shape.height - picture[3], *picture[2:])
        words = (pad, pad * 0.35, words[2], shape.height - picture[3] - pad * 0.9)
    size, lines = _fit(title, words, font, (44, 40, 36, 32, 28, 24, 20, 16), 6)
    return Leaf(
        shape.width,
        shape.height,
        book.pages[0].image,
        picture,
        words,
        tuple(lines),
        size,
        font,
        book.author,
        "cover",
        title,
    )


def _page_leaves(image: Image.Image, text: str, font: Path, number: str, shape: Shape) -> list[Leaf]:
    for share in SHARES:
        picture, words = shape.boxes(share)
        size, lines = _fit(text, words, font, SIZES)
        if len(lines) <= _room(words, size):
            break
    first = Leaf(
        shape.width,
        shape.height,
        image,
        picture,
        words,
        tuple(lines[: _room(words, size)]),
        size,
        font,
        number,
        text=text,
    )
    rest, leaves = split_after(text, first.lines)[1], [first]
    pad = 0.1 * min(shape.width, shape.height)
    whole = (pad, pad, shape.width - 2 * pad, shape.height - 2 * pad)
    lines = _fit(rest, whole, font, (size,))[1] if rest else []
    while lines:
        part, lines = tuple(lines[: _room(whole, size)]), lines[_room(whole, size) :]
        told, rest = split_after(rest, part)
        leaves.append(replace(first, picture=None, words=whole, lines=part, text=told))
    return leaves


def _room(box: Box, size: float) -> int:
    return max(1, int(box[3] / (size * LEADING)))


def _fit(
    text: str, box: Box, font: Path, sizes: Sequence[float], max_lines: int | None = None
) -> tuple[float, list[str]]:
    """Return the largest size at which the text fits into the box, or else the smallest, and the lines."""
    for size in sizes:
        lines = wrap(text, box[2], lambda line, size=size: width_of(line, font, size))  # type: ignore[misc]
        if len(lines) <= _room(box, size):
            return size, lines
    if max_lines is not None:
        lines = wrap(text, box[2], lambda line: width_of(line, font, size), max_lines)
    return size, lines
