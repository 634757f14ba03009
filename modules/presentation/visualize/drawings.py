"""Comparisons, timelines and denoising traces as images."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from PIL import Image

from modules.presentation.theme import LIGHT, code_color
from modules.presentation.visualize.canvas import (
    GAP,
    HEAD,
    LEADING,
    MARGIN,
    PICTURE,
    SMALL,
    TEXT,
    TILE_GAP,
    TILE_HEIGHT,
    TILES_A_ROW,
    Canvas,
    column,
    own_style,
    wrap_text,
)
from modules.presentation.visualize.denoising import DenoisingTrace
from modules.presentation.visualize.timeline import repeated_codes, slot_runs
from modules.presentation.visualize.versions import Comparison, PageView, Version

SLOT_HEIGHT, TILE_DROP = 34, 6  # Of the timeline: from slot to slot, and the gap between their tiles.
ROW_GAP = 26
NOISY, GUESSES = (
    ("Picture so far", "where an update starts"),
    ("Prediction", "the finished page that the model predicts from there"),
)


@own_style()
def draw_predictions(comparison: Comparison) -> Image.Image:
    """Draw versions as rows, pages as columns: picture, codes (framed where they are the true page's), bits, text."""
    codes = _codes_height(comparison.pages[0])
    texts = [
        [wrap_text("" if page.is_given else page.text or "", PICTURE, TEXT) for page in version.pages]
        for version in comparison.versions
    ]
    heights = [PICTURE + 8 + codes + 20 + LEADING * TEXT * max(1, *map(len, lines)) for lines in texts]
    canvas = Canvas(comparison.title, len(comparison.pages), sum(heights) + ROW_GAP * (len(heights) - 1))
    y = canvas.top
    for version, lines, height in zip(comparison.versions, texts, heights, strict=True):
        canvas.label(version.title, version.note, y + 4)
        for index, text in enumerate(lines):
            _draw_page(canvas, comparison, version, index, text, y)
        y += height + ROW_GAP
    return canvas.to_image()


def _draw_page(
    canvas: Canvas, comparison: Comparison, version: Version, index: int, text: Sequence[str], y: float
) -> None:
    page, x = version.pages[index], column(index)
    hits = comparison.matches(index, page) if version.is_predicted else []
    canvas.picture(page.image, x, y, faded=page.is_given)
    y += PICTURE + 8
    if page.is_given:
        canvas.text("given", x + PICTURE / 2, y, TEXT, LIGHT.soft, ha="center", style="italic")
        return
    canvas.codes(page.codes, x, y, hits)
    y += _codes_height(page) + 2
    if page.bits is not None:
        canvas.text(bits_caption(page, hits), x, y, SMALL, LIGHT.soft)
        y += 18
    if page.text is None:
        canvas.text("no text", x, y, TEXT, LIGHT.soft, style="italic")
    canvas.lines(text, x, y, TEXT)


@own_style()
def draw_timeline(comparison: Comparison) -> Image.Image:
    """Draw the true pages' codes, slots down and steps across.

    A code that a slot keeps is one long tile, one that returns to its slot is tied, one that the story uses once is
    pale.
    """
    pages, num_slots = comparison.pages, len(comparison.pages[0].codes)
    repeated = repeated_codes([page.codes for page in pages])
    texts = [wrap_text(page.text or "", PICTURE, TEXT) for page in pages]
    board, feet = PICTURE + 20.0, LEADING * TEXT * max(1, *map(len, texts))
    canvas = Canvas(comparison.title, len(pages), board + num_slots * SLOT_HEIGHT + 30 + feet)
    board += canvas.top
    for slot in range(num_slots):
        y = board + slot * SLOT_HEIGHT
        middle = y + (SLOT_HEIGHT - TILE_DROP) / 2
        canvas.text(f"slot {slot + 1}", MARGIN, middle, HEAD, LIGHT.soft, "center_baseline")
        _draw_slot(canvas, [page.codes[slot] for page in pages], repeated, y)
    y = board + num_slots * SLOT_HEIGHT + 8
    for index, (page, text) in enumerate(zip(pages, texts, strict=True)):
        canvas.picture(page.image, column(index), canvas.top)
        canvas.text(bits_caption(page), column(index), y, SMALL, LIGHT.soft)
        canvas.lines(text, column(index), y + 20, TEXT)
    return canvas.to_image()


def _draw_slot(canvas: Canvas, codes: Sequence[int], repeated: set[int], y: float) -> None:
    height = SLOT_HEIGHT - TILE_DROP
    for run in slot_runs(codes):
        x, is_pale = column(run.start), run.code not in repeated
        if run.previous is not None:
            ends, levels = (column(run.previous) + PICTURE - 4, x + 4), [y + height / 2] * 2
            style: dict[str, Any] = {"linewidth": 5, "solid_capstyle": "butt", "zorder": 0.5}
            canvas.axes.plot(ends, levels, color=code_color(run.code), **style)
        width = column(run.end) + PICTURE - x
        canvas.tile(run.code, x, y, width, height, LIGHT.line if is_pale else "none", is_pale)


@own_style()
def draw_denoising(trace: DenoisingTrace) -> Image.Image:
    """Draw a trace from noise to page: what each update starts from above, its prediction below, the true page last."""
    canvas = Canvas(trace.page.text or "A page without a text", len(trace.steps) + 1, 40 + 2 * PICTURE + GAP)
    upper, lower = canvas.top + 40, canvas.top + 40 + PICTURE + GAP
    canvas.label(*NOISY, upper + 4)
    canvas.label(*GUESSES, lower + 4)
    for index, (title, note) in enumerate([*trace_heads(trace), ("true page", "")]):
        canvas.text(title, column(index), canvas.top, HEAD, weight="bold")
        canvas.text(note, column(index), canvas.top + 18, SMALL, LIGHT.soft)
    for index, images in enumerate(zip(trace.noisy, trace.guesses, strict=True)):
        for image, y in zip(images, (upper, lower), strict=True):
            canvas.picture(image, column(index), y)
    last = column(len(trace.steps))
    canvas.picture(trace.page.image, last, upper)
    canvas.text(condition_caption(trace), last, lower + 4, SMALL, LIGHT.soft)
    canvas.codes(trace.page.codes, last, lower + 24)
    return canvas.to_image()


def bits_caption(page: PageView, hits: Sequence[bool] = ()) -> str:
    """Return the bits of a page's codes and, for a prediction, how many codes are the true page's."""
    return f"{page.bits:.1f} bits" + (f"  ·  {sum(hits)} of {len(hits)} same" if hits else "")


def condition_caption(trace: DenoisingTrace) -> str:
    """Return what a page is drawn from."""
    return "drawn from these codes alone" if trace.page.codes else "drawn from the prompt alone"


def trace_heads(trace: DenoisingTrace) -> list[tuple[str, str]]:
    """Return the number of each shown update, and the share of the variance that is signal before it."""
    return [(f"update {step}", _signal_caption(signal)) for step, signal in zip(trace.steps, trace.signal, strict=True)]


def _signal_caption(signal: float) -> str:
    return "noise alone" if signal < 0.0005 else f"{100 * signal:.{0 if signal >= 0.0995 else 1}f} % signal"


def stack(images: Sequence[Image.Image]) -> Image.Image:
    """Return the images one below the other, on paper."""
    whole = Image.new("RGB", (max(image.width for image in images), sum(image.height for image in images)), LIGHT.paper)
    y = 0
    for image in images:
        whole.paste(image, (0, y))
        y += image.height
    return whole


def _codes_height(page: PageView) -> float:
    return math.ceil(len(page.codes) / TILES_A_ROW) * (TILE_HEIGHT + TILE_GAP)
