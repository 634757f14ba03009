"""Fonts of the drawn formats: Source Serif Pro of the extra `books`, and DejaVu, which comes with matplotlib.

A text is set in the first font that has all of its characters; nothing is drawn as empty boxes.
"""

from __future__ import annotations

import unicodedata
from functools import cache
from importlib.util import find_spec
from pathlib import Path

from PIL import ImageFont

from modules.common.errors import UserError
from modules.presentation.text import clean

_MEASURED_AT = 100  # Pixels: widths are proportional to the size.


def choose_font(text: str, own: Path | None = None, bold: bool = False) -> Path:
    """Return the first font that has all characters of a text; `own` is the last one asked.

    Raises UserError if none has, naming the characters.
    """
    needed = {ord(character) for character in clean(text) if not _is_invisible(character)}
    fonts = [*_fonts(bold), *([] if own is None else [own])]
    for font in fonts:
        if needed <= _characters(font):
            return font
    missing = min((sorted(needed - _characters(font)) for font in fonts), key=len)
    names = " ".join(f"{chr(code)} (U+{code:04X})" for code in missing[:5])
    more = f" and {len(missing) - 5} more" if len(missing) > 5 else ""
    where = "the book's fonts" if own is None else f"the book's fonts and {own}"
    raise UserError(f"{where} lack characters of the story, {names}{more}: give a font that has all, with --font")


def width_of(text: str, font: Path, size: float) -> float:
    """Return the width of a line, in the unit of `size`."""
    return _loaded(font, _MEASURED_AT).getlength(text) * size / _MEASURED_AT


@cache
def load_font(font: Path, size: int) -> ImageFont.FreeTypeFont:
    """Return a font for drawing at a size in pixels."""
    return _loaded(font, size)


@cache
def _loaded(font: Path, size: int) -> ImageFont.FreeTypeFont:
    return ImageFont.truetype(font, size)


def _fonts(bold: bool) -> list[Path]:
    weight = ("Semibold", "-Bold") if bold else ("Regular", "")
    places = {
        "font_source_serif_pro": (f"files/SourceSerifPro-{weight[0]}.ttf",),
        "matplotlib": tuple(f"mpl-data/fonts/ttf/DejaVu{name}{weight[1]}.ttf" for name in ("Serif", "Sans")),
    }
    found = []
    for package, names in places.items():
        spec = find_spec(package)
        for folder in (spec.submodule_search_locations or []) if spec else []:
            found += [Path(folder, name) for name in names if Path(folder, name).is_file()]
    return found


@cache
def _characters(font: Path) -> frozenset[int]:
    from fontTools.ttLib import TTFont, TTLibError

    try:
        with TTFont(font, lazy=True) as opened:
            return frozenset(opened.getBestCmap() or {})
    except (OSError, TTLibError) as error:
        raise UserError(f"the font {font} cannot be read ({error}): give a .ttf or .otf file") from None


def _is_invisible(character: str) -> bool:
    return character.isspace() or unicodedata.category(character) == "Cf" or "\ufe00" <= character <= "\ufe0f"
