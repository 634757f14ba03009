"""The architecture figure: four factors, and what trains in each phase.

python -m modules.presentation.plots.architecture assets/architecture.svg
"""

from __future__ import annotations

import sys
from html import escape
from pathlib import Path

from modules.common.files import write_whole
from modules.training.autoencoder_phase import AutoencoderPhase
from modules.training.phases import PHASES

WIDTH, HEIGHT = 980, 560
INK, MUTED, LINE, PAPER = "#1f2933", "#5f6b7a", "#9aa5b1", "#ffffff"
TRAINED, FROZEN = "#2f7f5f", "#d9dee5"
FACTOR_COLORS = {
    "storyboard": "#e8d9f5",
    "prior": "#fbe3c0",
    "text_decoder": "#cfe6f7",
    "image_decoder": "#d5efd6",
    "autoencoder": "#eceff3",
    "aids": "#f7dfe3",
}
ROWS = {  # Parts of the model, and how the table calls them.
    "autoencoder": "Autoencoder: pictures to latents",
    "storyboard": "Storyboard encoder and codebook",
    "aids": "Auxiliary losses of the encoder",
    "prior": "Prior",
    "text_decoder": "Text decoder",
    "image_decoder": "Image decoder",
}


def trained_parts() -> dict[str, tuple[str, ...]]:
    """Return the parts that each phase trains, in the order of training."""
    return {AutoencoderPhase.name: ("autoencoder",), **{phase.name: phase.trains for phase in PHASES}}


def text(
    x: float, y: float, words: str, size: int = 14, color: str = INK, anchor: str = "middle", style: str = ""
) -> str:
    """Return one line of text whose baseline is at y."""
    return (
        f'<text x="{x}" y="{y}" font-size="{size}" fill="{color}" text-anchor="{anchor}" {style}>{escape(words)}</text>'
    )


def box(x: float, y: float, width: float, height: float, color: str, *lines: str) -> str:
    """Return a rounded box with centred lines, the first of them bold."""
    parts = [f'<rect x="{x}" y="{y}" width="{width}" height="{height}" rx="10" fill="{color}" stroke="{LINE}"/>']
    top = y + height / 2 - 9 * (len(lines) - 1) + 5
    for number, line in enumerate(lines):
        style = 'font-weight="600"' if number == 0 else ""
        parts.append(text(x + width / 2, top + 18 * number, line, 15 if number == 0 else 13, style=style))
    return "".join(parts)


def arrow(*points: tuple[float, float], dashed: bool = False) -> str:
    """Return a polyline with an arrow head at its last point."""
    path = " ".join(f"{x},{y}" for x, y in points)
    dash = ' stroke-dasharray="5 4"' if dashed else ""
    return f'<polyline points="{path}" fill="none" stroke="{MUTED}" stroke-width="1.6" marker-end="url(#head)"{dash}/>'


def codes(x: float, y: float) -> str:
    """Return the eight codes of a page as a row of cells."""
    cell = '<rect x="{}" y="{}" width="14" height="26" rx="3" fill="#6b4fa0" opacity="{:.2f}"/>'
    return "".join(cell.format(x + 17 * slot, y, 0.45 + 0.07 * slot) for slot in range(8))


def model(y: float) -> str:
    """Return the upper half: how a page goes through the four factors."""
    middle = y + 115
    title, note = "z: the discrete storyboard", "to generate: sample the codes of all pages"
    labels = [
        text(473, middle + 42, "8 codes of each page;", 13, MUTED),
        text(473, middle + 60, "decoders read the whole plan", 13, MUTED),
        text(473, middle - 20, title, 14, INK, style='font-weight="600"'),
        text(488, y + 14, note, 12, MUTED, "start"),
    ]
    return "".join([*boxes(y), codes(405, middle - 8), *labels, *arrows(y, middle)])


def boxes(y: float) -> list[str]:
    """Return the inputs, the four factors, the autoencoder and the outputs."""
    storyboard = ("Storyboard", "q(z | s, x)", "encode, pool, quantise")
    return [
        box(20, y + 2, 120, 40, PAPER, "prompt c"),
        box(20, y + 70, 120, 40, PAPER, "page text s"),
        box(20, y + 130, 120, 40, PAPER, "picture x"),
        box(185, y, 175, 44, FACTOR_COLORS["prior"], "Prior  p(z | c)"),
        box(185, y + 70, 175, 100, FACTOR_COLORS["storyboard"], *storyboard),
        box(600, y + 32, 170, 70, FACTOR_COLORS["text_decoder"], "Text decoder", "p(s | z): GPT-2"),
        box(600, y + 138, 170, 70, FACTOR_COLORS["image_decoder"], "Image decoder", "p(x | z): UNet"),
        box(830, y + 47, 130, 40, PAPER, "page text"),
        box(830, y + 138, 130, 70, FACTOR_COLORS["autoencoder"], "Autoencoder", "latents to picture"),
    ]


def arrows(y: float, middle: float) -> list[str]:
    """Return the arrows between the boxes; `middle` is the height of the codes."""
    return [
        arrow((140, y + 22), (183, y + 22)),
        arrow((140, y + 90), (183, y + 90)),
        arrow((140, y + 150), (183, y + 150)),
        arrow((360, y + 22), (473, y + 22), (473, middle - 38), dashed=True),
        arrow((360, middle + 5), (401, middle + 5)),
        arrow((545, middle + 5), (572, middle + 5), (572, y + 67), (598, y + 67)),
        arrow((545, middle + 5), (572, middle + 5), (572, y + 173), (598, y + 173)),
        arrow((770, y + 67), (828, y + 67)),
        arrow((770, y + 173), (828, y + 173)),
    ]


def phases(y: float) -> str:
    """Return the lower half: a table of parts and phases."""
    trained, left, step, height = trained_parts(), 320, 94, 32
    parts = [text(20, y, "What trains in each phase", 15, anchor="start", style='font-weight="600"')]
    for column, name in enumerate(trained):
        parts.append(text(left + step * column + step / 2, y + 30, name, 14))
    for row, (part, label) in enumerate(ROWS.items()):
        top = y + 42 + height * row
        parts.append(
            f'<rect x="20" y="{top + 5}" width="16" height="20" rx="4" fill="{FACTOR_COLORS[part]}" stroke="{LINE}"/>'
        )
        parts.append(text(46, top + 20, label, 14, anchor="start"))
        for column, names in enumerate(trained.values()):
            trains, x = part in names, left + step * column + 8
            fill, ink = (TRAINED, PAPER) if trains else (FROZEN, MUTED)
            parts.append(
                f'<rect x="{x}" y="{top + 2}" width="{step - 16}" height="{height - 6}" rx="6" fill="{fill}"/>'
            )
            parts.append(text(x + step / 2 - 8, top + 20, "trains" if trains else "frozen", 12, ink))
    return "".join(parts)


def architecture_svg() -> str:
    """Return the whole figure as SVG."""
    tip = f'<path d="M0,0 L8,4 L0,8 z" fill="{MUTED}"/>'
    head = f'<marker id="head" markerWidth="9" markerHeight="8" refX="7" refY="4" orient="auto">{tip}</marker>'
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}" width="{WIDTH}" height="{HEIGHT}"'
        ' font-family="Helvetica, Arial, sans-serif" role="img" aria-label="Architecture and training phases">'
        f'<defs>{head}</defs><rect width="{WIDTH}" height="{HEIGHT}" rx="14" fill="{PAPER}"/>'
        f"{model(30)}{phases(290)}</svg>\n"
    )


if __name__ == "__main__":
    write_whole(Path(sys.argv[1]), architecture_svg().encode())
