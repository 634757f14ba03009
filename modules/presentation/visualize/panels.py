"""Studies and denoising trails as pictures. Lengths are hundredths of an inch, drawn at `SCALE` pixels each."""

from __future__ import annotations

import math
import warnings
from bisect import bisect_right
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import matplotlib.style
import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.font_manager import FontProperties
from matplotlib.patches import FancyBboxPatch
from matplotlib.textpath import text_to_path
from PIL import Image

from modules.presentation.markup import clean
from modules.presentation.plots.curves import LIGHT
from modules.presentation.story.book import code_color
from modules.presentation.visualize.tellings import Cell, Study, Telling, Trail, repeated_codes, slot_runs

SCALE = 1.6
POINT = 0.72  # Units to points.
MARGIN, LABELS, GAP, PICTURE = 30, 128, 16, 148
TILES_A_ROW, TILE_HEIGHT, TILE_GAP = 4, 19, 3
SLOT_HEIGHT = 34  # Of the timeline.
TITLE, TEXT, SMALL = 20, 11.5, 10.5
LEADING = 1.36
MAX_LINES = 9  # Of a page's text; the HTML page has it whole.
DARK_INK = "#160f08"


@contextmanager
def _own_style() -> Iterator[None]:
    """The user's matplotlib settings neither count nor change.

    Scripts that the font lacks come out as boxes, and right in the HTML.
    """
    with matplotlib.style.context(["default", {"text.parse_math": False}]), warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Glyph")
        yield


class Sheet:
    """Paper under a title, `columns` pages wide, to draw on from `top` downwards."""

    def __init__(self, title: str, columns: int, height: float) -> None:
        self.width = _column(columns) - GAP + MARGIN
        lines = wrap(title, self.width - 2 * MARGIN, TITLE, 2)
        self.top = MARGIN + len(lines) * LEADING * TITLE + 12
        self.height = self.top + height + MARGIN
        self.figure = Figure((self.width / 100, self.height / 100), dpi=100 * SCALE, facecolor=LIGHT.paper)
        self.axes = self.figure.add_axes((0, 0, 1, 1))
        self.axes.axis("off")
        self.lines(lines, MARGIN, MARGIN, TITLE, weight="bold")

    def text(
        self, text: str, x: float, y: float, size: float, color: str = LIGHT.ink, va: str = "top", **options
    ) -> None:
        self.axes.text(x, y, text, fontsize=size * POINT, color=color, va=va, **options)

    def lines(self, lines: Sequence[str], x: float, y: float, size: float, color: str = LIGHT.ink, **options) -> None:
        for number, line in enumerate(lines):
            self.text(line, x, y + number * LEADING * size, size, color, **options)

    def picture(self, image: Image.Image | None, x: float, y: float, faded: bool = False) -> None:
        """A square picture with rounded corners, or the place where one is missing."""
        frame = FancyBboxPatch(
            (x, y), PICTURE, PICTURE, "round,pad=0,rounding_size=6", facecolor="none", edgecolor="none"
        )
        self.axes.add_patch(frame)
        if image is None:
            frame.set(edgecolor=LIGHT.soft, linestyle=(0, (3, 4)), linewidth=0.8)
            self.text(
                "no picture", x + PICTURE / 2, y + PICTURE / 2, TEXT, LIGHT.soft, "center", ha="center", style="italic"
            )
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
        """A code's number on a tile of its colour."""
        color, ink = (LIGHT.paper, LIGHT.soft) if is_pale else (code_color(code), DARK_INK)
        shape = "round,pad=0,rounding_size=4"
        self.axes.add_patch(
            FancyBboxPatch((x, y), width, height, shape, facecolor=color, edgecolor=edge, linewidth=1.6)
        )
        self.text(str(code), x + width / 2, y + height / 2 + 0.5, SMALL, ink, "center_baseline", ha="center")

    def codes(self, codes: Sequence[int], x: float, y: float, hits: Sequence[bool] = ()) -> None:
        """A step's codes as wide as its picture, the true page's framed."""
        width = (PICTURE - (TILES_A_ROW - 1) * TILE_GAP) / TILES_A_ROW
        for slot, code in enumerate(codes):
            row, column = divmod(slot, TILES_A_ROW)
            edge = LIGHT.ink if hits and hits[slot] else "none"
            self.tile(
                code, x + column * (width + TILE_GAP), y + row * (TILE_HEIGHT + TILE_GAP), width, TILE_HEIGHT, edge
            )

    def label(self, title: str, note: str, y: float) -> None:
        """What a row is, left of it."""
        lines = wrap(title, LABELS - 30, 13)  # Bold letters are wider than those measured.
        self.lines(lines, MARGIN, y, 13, weight="bold")
        self.lines(wrap(note, LABELS - 16, 11), MARGIN, y + len(lines) * LEADING * 13 + 4, 11, LIGHT.soft)

    def to_image(self) -> Image.Image:
        self.axes.set(xlim=(0, self.width), ylim=(self.height, 0))
        canvas = FigureCanvasAgg(self.figure)
        canvas.draw()
        return Image.fromarray(np.asarray(canvas.buffer_rgba())).convert("RGB")


@_own_style()
def draw_predictions(study: Study) -> Image.Image:
    """Rows of tellings, columns of pages: each page's picture, its codes (framed where a guess has the true page's),
    bits and text.
    """
    codes = _codes_height(study.cells[0])
    texts = [
        [wrap("" if cell.is_given else cell.text or "", PICTURE, TEXT) for cell in telling.cells]
        for telling in study.tellings
    ]
    heights = [PICTURE + 8 + codes + 20 + LEADING * TEXT * max(1, *map(len, lines)) for lines in texts]
    sheet = Sheet(_title(study), len(study.cells), sum(heights) + 26 * (len(heights) - 1))
    y = sheet.top
    for telling, lines, height in zip(study.tellings, texts, heights, strict=True):
        sheet.label(telling.title, telling.note, y + 4)
        for index, text in enumerate(lines):
            _draw_cell(sheet, study, telling, index, text, y)
        y += height + 26
    return sheet.to_image()


def _draw_cell(sheet: Sheet, study: Study, telling: Telling, index: int, text: Sequence[str], y: float) -> None:
    cell, x = telling.cells[index], _column(index)
    hits = study.matches(index, cell) if telling.is_guess else []
    sheet.picture(cell.image, x, y, faded=cell.is_given)
    y += PICTURE + 8
    if cell.is_given:
        sheet.text("given", x + PICTURE / 2, y, TEXT, LIGHT.soft, ha="center", style="italic")
        return
    sheet.codes(cell.codes, x, y, hits)
    y += _codes_height(cell) + 2
    if cell.bits is not None:
        sheet.text(caption(cell, hits), x, y, SMALL, LIGHT.soft)
        y += 18
    if cell.text is None:
        sheet.text("no text", x, y, TEXT, LIGHT.soft, style="italic")
    sheet.lines(text, x, y, TEXT)


@_own_style()
def draw_timeline(study: Study) -> Image.Image:
    """Slots x steps of the true pages' codes; what a slot keeps is one tile, what comes again in it is tied, what comes
    once is pale.
    """
    cells, num_slots = study.cells, len(study.cells[0].codes)
    repeated = repeated_codes(cells)
    texts = [wrap(cell.text or "", PICTURE, TEXT) for cell in cells]
    board_height = num_slots * SLOT_HEIGHT
    sheet = Sheet(
        _title(study), len(cells), PICTURE + 20 + board_height + 30 + LEADING * TEXT * max(1, *map(len, texts))
    )
    board = sheet.top + PICTURE + 20
    for slot in range(num_slots):
        y = board + slot * SLOT_HEIGHT
        sheet.text(f"slot {slot + 1}", MARGIN, y + (SLOT_HEIGHT - 6) / 2, 12, LIGHT.soft, "center_baseline")
        _draw_slot(sheet, [cell.codes[slot] for cell in cells], repeated, y)
    for index, (cell, text) in enumerate(zip(cells, texts, strict=True)):
        sheet.picture(cell.image, _column(index), sheet.top)
        sheet.text(caption(cell), _column(index), board + board_height + 8, SMALL, LIGHT.soft)
        sheet.lines(text, _column(index), board + board_height + 28, TEXT)
    return sheet.to_image()


def _draw_slot(sheet: Sheet, codes: Sequence[int], repeated: set[int], y: float) -> None:
    height = SLOT_HEIGHT - 6
    for run in slot_runs(codes):
        x, is_pale = _column(run.start), run.code not in repeated
        if run.previous is not None:
            ends = _column(run.previous) + PICTURE - 4, x + 4
            sheet.axes.plot(
                ends, [y + height / 2] * 2, color=code_color(run.code), linewidth=5, solid_capstyle="butt", zorder=0.5
            )
        sheet.tile(run.code, x, y, _column(run.end) + PICTURE - x, height, LIGHT.line if is_pale else "none", is_pale)


@_own_style()
def draw_denoising(trail: Trail) -> Image.Image:
    """The trail from noise to page: above what each update starts from, below the page that it aims at; the true page
    at the end.
    """
    sheet = Sheet(trail.cell.text or "A page without a text", len(trail.steps) + 1, 40 + 2 * PICTURE + GAP)
    captions = [
        (f"update {step}", signal_caption(signal)) for step, signal in zip(trail.steps, trail.signal, strict=True)
    ]
    upper, lower = sheet.top + 40, sheet.top + 40 + PICTURE + GAP
    sheet.label("Picture so far", "what an update starts from", upper + 4)
    sheet.label("Aimed at", "the finished page that the model expects from there", lower + 4)
    for index, (title, note) in enumerate([*captions, ("true page", "")]):
        sheet.text(title, _column(index), sheet.top, 12, weight="bold")
        sheet.text(note, _column(index), sheet.top + 18, SMALL, LIGHT.soft)
    for index, images in enumerate(zip(trail.noisy, trail.guesses, strict=True)):
        for image, y in zip(images, (upper, lower), strict=True):
            sheet.picture(image, _column(index), y)
    last = _column(len(trail.steps))
    sheet.picture(trail.cell.image, last, upper)
    sheet.text(known(trail), last, lower + 4, SMALL, LIGHT.soft)
    sheet.codes(trail.cell.codes, last, lower + 24)
    return sheet.to_image()


def caption(cell: Cell, hits: Sequence[bool] = ()) -> str:
    """What a page's codes cost, and for a guess how many of them are the true page's."""
    return f"{cell.bits:.1f} bits" + (f"  ·  {sum(hits)} of {len(hits)} same" if hits else "")


def known(trail: Trail) -> str:
    """What a page is drawn from."""
    return "its codes, all that is known" if trail.cell.codes else "the prompt is all that is known"


def signal_caption(signal: float) -> str:
    """How much of a noisy picture's variance is picture."""
    return "noise alone" if signal < 0.0005 else f"{100 * signal:.{0 if signal >= 0.0995 else 1}f} % signal"


def stack(images: Sequence[Image.Image]) -> Image.Image:
    """Pictures one below the other, on paper."""
    sheet = Image.new("RGB", (max(image.width for image in images), sum(image.height for image in images)), LIGHT.paper)
    y = 0
    for image in images:
        sheet.paste(image, (0, y))
        y += image.height
    return sheet


def wrap(text: str, width: float, size: float, max_lines: int = MAX_LINES) -> list[str]:
    """Lines of `text` no wider than `width`, at most `max_lines`, the last one ending in an ellipsis where text is left
    out.
    """
    lines, line = [], ""
    for word in clean(text).split():
        if line and text_width(f"{line} {word}", size) > width:
            lines.append(line)
            line = ""
        line = f"{line} {word}".strip()
        while (
            len(line) > 1 and text_width(line[:200], size) > width
        ):  # A word wider than a line, or a script without spaces.
            ends = range(2, min(len(line), 200))
            cut = 1 + bisect_right(ends, width, key=lambda end, rest=line: text_width(rest[:end], size))
            lines.append(line[:cut])
            line = line[cut:]
        if len(lines) > max_lines:
            break
    lines = [*lines, line] if line else lines
    if len(lines) > max_lines:
        last = lines[max_lines - 1]
        while last and text_width(last + "…", size) > width:
            last = last[:-1]
        lines = [*lines[: max_lines - 1], last + "…"]
    return lines


def text_width(text: str, size: float) -> float:
    """How wide `text` is drawn at `size`, in the same unit."""
    return text_to_path.get_text_width_height_descent(text, FontProperties(size=size * POINT), False)[0] / POINT


def _codes_height(cell: Cell) -> float:
    return math.ceil(len(cell.codes) / TILES_A_ROW) * (TILE_HEIGHT + TILE_GAP)


def _column(index: int) -> float:
    return MARGIN + LABELS + index * (PICTURE + GAP)


def _title(study: Study) -> str:
    return study.prompt.strip() or "A story without a prompt"
