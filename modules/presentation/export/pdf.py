"""A book as PDF, for the screen or for print: real text, embedded fonts, and the plan in the metadata."""

from __future__ import annotations

import datetime
import io
from pathlib import Path
from typing import TYPE_CHECKING, Any

from modules.common.errors import UserError
from modules.common.progress import track
from modules.presentation.export.book import Book
from modules.presentation.export.enlarging import enlarge_well
from modules.presentation.export.layout import LEADING, Leaf, lay_out
from modules.presentation.export.settings import ExportSettings
from modules.presentation.images import encode_image
from modules.presentation.text import clean
from modules.presentation.theme import LIGHT

if TYPE_CHECKING:
    from fpdf import FPDF

BLEED = 9.0  # Points: 1/8 inch, at every edge.
SCREEN_PIXELS, PRINT_PIXELS = 1200, 2625  # Of a picture as wide as the page: 141 and 300 an inch.
_EPOCH = datetime.datetime(2000, 1, 1, tzinfo=datetime.UTC)  # In place of the time of writing.


def screen(book: Book, settings: ExportSettings) -> bytes:
    """Return pages of 8.5 x 11 inches for reading on a screen or printing at home."""
    return _pdf(book, settings, 0.0, SCREEN_PIXELS)


def print_shop(book: Book, settings: ExportSettings) -> bytes:
    """Return pages that are trimmed to 8.5 x 11 inches, with bleed, pictures at 300 pixels an inch."""
    return _pdf(book, settings, BLEED, PRINT_PIXELS)


def _pdf(book: Book, settings: ExportSettings, bleed: float, pixels: int) -> bytes:
    leaves = lay_out(book, settings)
    document = _document(book, leaves[0], bleed)
    for leaf in track("pages", leaves, visible=len(leaves) > 20):
        _add_leaf(document, leaf, bleed, pixels)
    return bytes(document.output())


def _document(book: Book, first: Leaf, bleed: float) -> FPDF:
    try:
        from fpdf import FPDF
    except ImportError:
        raise UserError("pdf and print need the package fpdf2: pip install 'story-generative-model[books]'") from None
    document = FPDF(unit="pt", format=(first.width + 2 * bleed, first.height + 2 * bleed))
    document.set_creation_date(_EPOCH)
    document.set_auto_page_break(False)
    document.set_margin(0)
    document.c_margin = 0
    document.set_title(clean(book.title))
    document.set_lang(book.lang)
    document.set_creator("story-generative-model")
    if book.author:
        document.set_author(clean(book.author))
    if book.plan:
        document.set_keywords(book.plan)
    try:
        document.set_text_shaping(True)  # Arabic, Indic scripts and right-to-left lines need it.
    except ImportError:
        pass
    return document


def _add_leaf(document: FPDF, leaf: Leaf, bleed: float, pixels: int) -> None:
    document.add_page()
    if bleed:
        _mark_trim(document, leaf, bleed)
    document.set_fill_color(LIGHT.paper)
    document.rect(0, 0, document.w, document.h, style="F")
    if leaf.kind == "page" and leaf.picture is not None:
        document.start_section(f"Page {leaf.number}")
    if leaf.picture is not None:
        _place_picture(document, leaf, bleed, pixels)
    document.set_text_color(LIGHT.ink)
    document.set_font(_family(document, leaf.font), size=leaf.size)
    left, _, width, _ = leaf.words
    for line, baseline in zip(leaf.lines, leaf.baselines(), strict=True):
        top = baseline - leaf.size * (0.33 + LEADING / 2)
        document.set_xy(left + bleed, top + bleed)
        document.cell(width, leaf.size * LEADING, line, align="C")
    if leaf.number and leaf.kind == "page":
        document.set_text_color(LIGHT.faint)
        document.set_font_size(11)
        document.set_xy(left + bleed, leaf.height * 0.978 - 14 + bleed)
        document.cell(width, 14, leaf.number, align="C")


def _place_picture(document: FPDF, leaf: Leaf, bleed: float, pixels: int) -> None:
    """Place the picture; one that touches the edges of the page is drawn into the bleed."""
    assert leaf.picture is not None
    left, top, side, _ = leaf.picture_box
    picture = enlarge_well(leaf.picture, max(1, round(pixels * side / leaf.width)))
    scale = side / max(picture.size)
    width, height = picture.width * scale, picture.height * scale
    x, y = left + (side - width) / 2 + bleed, top + (side - height) / 2 + bleed
    if bleed and side == leaf.width and width == height:
        x, width, height = 0.0, side + 2 * bleed, side + 2 * bleed
        y = 0.0 if top == 0 else document.h - height
    content = io.BytesIO(encode_image(picture, "JPEG", quality=90))
    alt = f"Picture of page {leaf.number}" if leaf.kind == "page" else "Cover picture"
    document.image(content, x, y, width, height, alt_text=alt)


def _mark_trim(document: FPDF, leaf: Leaf, bleed: float) -> None:
    page: Any = document.pages[document.page]
    page.trim_box = f"[{bleed:g} {bleed:g} {leaf.width + bleed:g} {leaf.height + bleed:g}]"
    page.bleed_box = f"[0 0 {leaf.width + 2 * bleed:g} {leaf.height + 2 * bleed:g}]"


def _family(document: FPDF, font: Path) -> str:
    family = font.stem.lower()
    if family not in document.fonts:
        document.add_font(family, fname=font)
    return family
