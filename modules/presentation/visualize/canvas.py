"""A matplotlib figure as a canvas in absolute units: hundredths of an inch, drawn at `SCALE` pixels each."""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import matplotlib.style
import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.font_manager import FontProperties
from matplotlib.patches import FancyBboxPatch
from matplotlib.textpath import text_to_path
from PIL import Image

from modules.presentation.text import wrap
from modules.presentation.theme import CODE_INK, LIGHT, code_color

SCALE = 1.6
POINT = 0.72  # Units to points.
MARGIN, LABELS, GAP, PICTURE = 30, 128, 16, 148
TILES_A_ROW, TILE_HEIGHT, TILE_GAP = 4, 19, 3
TITLE, LABEL, HEAD, TEXT, NOTE, SMALL = 20, 13, 12, 11.5, 11, 10.5  # Font sizes.
LEADING = 1.36
MAX_LINES = 9  # Of a page's text; the HTML page shows all of it.


@contextmanager
def own_style() -> Iterator[None]:
    """Draw with matplotlib's default settings and restore the user's; ignore warnings about glyphs the font lacks."""
    with matplotlib.style.context(["default", {"text.parse_math": False}]), warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Glyph")
        yield


class Canvas:
    """Paper under a title, `columns` pages wide, to draw on from `top` downwards."""

    def __init__(self, title: str, columns: int, height: float) -> None:
        self.width = column(columns) - GAP + MARGIN
        lines = wrap_text(title, self.width - 2 * MARGIN, TITLE, 2)
        self.top = MARGIN + len(lines) * LEADING * TITLE + 12
        self.height = self.top + height + MARGIN
        self.figure = Figure((self.width / 100, self.height / 100), dpi=100 * SCALE, facecolor=LIGHT.paper)
        self.axes = self.figure.add_axes((0, 0, 1, 1))
        self.axes.axis("off")
        self.lines(lines, MARGIN, MARGIN, TITLE, weight="bold")

    def text(
        self, text: str, x: float, y: float, size: float, color: str = LIGHT.ink, va: str = "top", **options: Any
    ) -> None:
        self.axes.text(x, y, text, fontsize=size * POINT, color=color, va=va, **options)

    def lines(
        self, lines: Sequence[str], x: float, y: float, size: float, color: str = LIGHT.ink, **options: Any
    ) -> None:
        for number, line in enumerate(lines):
            self.text(line, x, y + number * LEADING * size, size, color, **options)

    def picture(self, image: Image.Image | None, x: float, y: float, faded: bool = False) -> None:
        """Draw a square picture with rounded corners, or an empty frame where there is none."""
        shape = "round,pad=0,rounding_size=6"
        frame = FancyBboxPatch((x, y), PICTURE, PICTURE, shape, facecolor="none", edgecolor="none")
        self.axes.add_patch(frame)
        if image is None:
            frame.set(edgecolor=LIGHT.faint, linestyle=(0, (3, 4)), linewidth=0.8)
            center = x + PICTURE / 2, y + PICTURE / 2
            self.text("no picture", *center, TEXT, LIGHT.soft, "center", ha="center", style="italic")
            return
        shown = self.axes.imshow(
            np.asarray(image),
            extent=(x, x + PICTURE, y + PICTURE, y),
            aspect="auto",
            interpolation="bicubic",
            alpha=0.4 if faded else 1,
        )
        shown.set_clip_path(frame)

    def tile(
        self, code: int, x: float, y: float, width: float, height: float, edge: str = "none", is_pale: bool = False
    ) -> None:
        """Draw a code's number on a tile of its colour, a pale one on paper."""
        color, ink = (LIGHT.paper, LIGHT.soft) if is_pale else (code_color(code), CODE_INK)
        shape = "round,pad=0,rounding_size=4"
        tile = FancyBboxPatch((x, y), width, height, shape, facecolor=color, edgecolor=edge, linewidth=1.6)
        self.axes.add_patch(tile)
        self.text(str(code), x + width / 2, y + height / 2 + 0.5, SMALL, ink, "center_baseline", ha="center")

    def codes(self, codes: Sequence[int], x: float, y: float, hits: Sequence[bool] = ()) -> None:
        """Draw a step's codes as wide as its picture, hits framed."""
        width = (PICTURE - (TILES_A_ROW - 1) * TILE_GAP) / TILES_A_ROW
        for slot, code in enumerate(codes):
            row, place = divmod(slot, TILES_A_ROW)
            left, top = x + place * (width + TILE_GAP), y + row * (TILE_HEIGHT + TILE_GAP)
            self.tile(code, left, top, width, TILE_HEIGHT, LIGHT.ink if hits and hits[slot] else "none")

    def label(self, title: str, note: str, y: float) -> None:
        """Label a row at its left."""
        lines = wrap_text(title, LABELS - 30, LABEL)  # Bold letters are wider than those measured.
        self.lines(lines, MARGIN, y, LABEL, weight="bold")
        below = y + len(lines) * LEADING * LABEL + 4
        self.lines(wrap_text(note, LABELS - 16, NOTE), MARGIN, below, NOTE, LIGHT.soft)

    def to_image(self) -> Image.Image:
        self.axes.set(xlim=(0, self.width), ylim=(self.height, 0))
        canvas = FigureCanvasAgg(self.figure)
        canvas.draw()
        return Image.fromarray(np.asarray(canvas.buffer_rgba())).convert("RGB")


def column(index: int) -> float:
    """Return the left edge of the page at place `index`."""
    return MARGIN + LABELS + index * (PICTURE + GAP)


def wrap_text(text: str, width: float, size: float, max_lines: int = MAX_LINES) -> list[str]:
    """Split text into at most `max_lines` lines no wider than `width` at a font size."""
    return wrap(text, width, lambda line: text_width(line, size), max_lines)


def text_width(text: str, size: float) -> float:
    """Return the drawn width of `text` at a font size, in the same unit."""
    return text_to_path.get_text_width_height_descent(text, FontProperties(size=size * POINT), False)[0] / POINT
