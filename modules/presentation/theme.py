"""Colours and fonts of every page and plot, in a light and a dark variant."""

from __future__ import annotations

import colorsys
from dataclasses import dataclass

SERIF = "ui-serif, Iowan Old Style, Palatino Linotype, Palatino, Book Antiqua, Georgia, serif"
SANS = "system-ui, -apple-system, Segoe UI, Roboto, sans-serif"
CODE_INK = "#160f08"  # Numbers on a code's colour.
MAP_COLORS = "viridis"  # matplotlib's colour map of heat maps.


@dataclass(frozen=True)
class Theme:
    """Colours by their purpose; the first eight of the palette differ under colour blindness (after Okabe and Ito)."""

    table: str  # Behind the sheets of a book.
    paper: str  # The page.
    card: str  # Panels and cards on the page.
    ink: str
    soft: str  # Secondary text.
    faint: str  # Page numbers and outlines.
    line: str
    shadow: str
    accent: str
    heat: str  # The full colour of a heat table; white text is readable on it.
    cold: str  # The second accent.
    palette: tuple[str, ...]


LIGHT = Theme(
    table="#e9dfcd",
    paper="#fffaf0",
    card="#ffffff",
    ink="#35291d",
    soft="#7d6a54",
    faint="#8a7861",
    line="#e5d8c1",
    shadow="#6b4a1f",
    accent="#b4552d",
    heat="#b8481b",
    cold="#2f6c8f",
    palette=(
        *("#0072b2", "#d55e00", "#009e73", "#a8517f", "#b58900"),
        *("#4aa3df", "#6b5744", "#7a9a01", "#f08fa8", "#8d8d8d"),
    ),
)
DARK = Theme(
    table="#14110e",
    paper="#262019",
    card="#302820",
    ink="#f1e6d5",
    soft="#ac9a83",
    faint="#8f7f6b",
    line="#41372c",
    shadow="#000000",
    accent="#e79a6b",
    heat="#c4602a",
    cold="#6db3ea",
    palette=(
        *("#5ab4f0", "#ff8a4c", "#35c79a", "#e39ac2", "#e6c33c"),
        *("#b3a1f0", "#c9b6a0", "#b5d36b", "#ff8080", "#9a9a9a"),
    ),
)


def css_variables(theme: Theme) -> dict[str, str]:
    """Return a theme's colours by CSS variable name; the palette is `c0`, `c1` and so on."""
    colors = {name: value for name, value in vars(theme).items() if isinstance(value, str)}
    return colors | {f"c{index}": color for index, color in enumerate(theme.palette)}


def code_color(code: int) -> str:
    """Return a code's own light colour, `#rrggbb`; consecutive codes are a golden angle apart in hue."""
    hue = code * 0.381966 % 1.0
    red, green, blue = colorsys.hls_to_rgb(hue, 0.68 + 0.05 * (code % 3), 0.60 + 0.15 * (code // 3 % 2))
    return f"#{round(red * 255):02x}{round(green * 255):02x}{round(blue * 255):02x}"


def hue_color(hue: float) -> str:
    """Return a light colour of a hue from 0 to 1, `#rrggbb`, on which `CODE_INK` is readable."""
    red, green, blue = colorsys.hls_to_rgb(hue, 0.73, 0.62)
    return f"#{round(red * 255):02x}{round(green * 255):02x}{round(blue * 255):02x}"
