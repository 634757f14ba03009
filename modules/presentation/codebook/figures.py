"""The figures of the codebook page, each a piece of HTML or SVG that takes its colours from the page's style sheet."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from PIL import Image

from modules.presentation.markup import data_uri, encode_image, escape

PALETTE = 10  # Colours --c0 to --c9 of the style sheet.
Figure = Mapping[str, float | None]


@dataclass(frozen=True)
class Cell:
    """A table cell: what stands in it, how strong its colour is (0 to 1), what a pointer over it says, and whether it
    may be chance.
    """

    text: str
    strength: float = 0.0
    title: str = ""
    faint: bool = False


@dataclass(frozen=True)
class Column:
    """A column of a heat table under the heading `name`; columns of the same `group` stand together."""

    name: str
    cells: Sequence[Cell]
    group: str = ""


def jpeg(image: Image.Image, quality: int) -> str:
    """A picture as a data URI."""
    return data_uri(encode_image(image.convert("RGB"), "JPEG", quality=quality, optimize=True), "jpeg")


def number(value: float | None, digits: int = 2) -> str:
    """0.123 -> .12; what could not be measured is a dash."""
    if value is None:
        return "–"
    text = f"{value:.{digits}f}"
    return (text.replace("0.", ".", 1) if text.startswith(("0.", "-0.")) else text).replace("-", "−")


def percent(value: float | None) -> str:
    return "–" if value is None else str(round(100 * value)).replace("-", "−")


def spread(figure: Figure, digits: int = 2) -> str:
    """The 95 % interval."""
    return "" if figure["low"] is None else f"95 %: {number(figure['low'], digits)} to {number(figure['high'], digits)}"


def interval(figure: Figure, digits: int = 2) -> str:
    """What is known around a value: its 95 % interval, its floor and its ceiling."""
    parts = [f"{name} {number(figure[name], digits)}" for name in ("floor", "ceiling") if figure[name] is not None]
    return "; ".join(filter(None, [spread(figure, digits), *parts]))


def share_cell(figure: Figure, title: str = "", faint: bool = False) -> Cell:
    """A share as a percentage."""
    value = figure["value"]
    return Cell(percent(value), min(1.0, max(0.0, value or 0.0)), f"{title}{interval(figure)}", faint)


def scaled_cells(figures: Sequence[Figure], digits: int) -> list[Cell]:
    """Amounts without a common scale: the largest, as a rule that of all slots together, has the full colour."""
    values = [max(0.0, figure["value"] or 0.0) for figure in figures]
    full = max(values, default=0.0) or 1.0
    pairs = zip(figures, values, strict=True)
    return [Cell(number(figure["value"], digits), value / full, interval(figure, digits)) for figure, value in pairs]


def heat_table(rows: Sequence[str], columns: Sequence[Column], corner: str = "") -> str:
    """A table whose cells are coloured by strength; a row named "all" or "floor" is set apart."""
    groups: list[list[Any]] = []
    for column in columns:
        if groups and groups[-1][0] == column.group:
            groups[-1][1] += 1
        else:
            groups.append([column.group, 1])
    spans = "".join(f'<th colspan="{count}" scope="colgroup">{escape(name)}</th>' for name, count in groups)
    top = f'<tr class="groups"><td></td>{spans}</tr>' if any(name for name, _ in groups) else ""
    names = "".join(f'<th scope="col">{escape(column.name)}</th>' for column in columns)
    body = "".join(
        f'<tr{" class=apart" if name in ("all", "floor") else ""}><th scope="row">{escape(name)}</th>'
        f"{''.join(_cell(column.cells[index]) for column in columns)}</tr>"
        for index, name in enumerate(rows)
    )
    return (
        f'<div class="scroll"><table class="heat"><thead>{top}<tr><th scope="col">{escape(corner)}</th>{names}</tr></thead>'
        f"<tbody>{body}</tbody></table></div>"
    )


def _cell(cell: Cell) -> str:
    classes = " ".join(name for name, on in (("deep", cell.strength > 0.55), ("faint", cell.faint)) if on)
    kind = f' class="{classes}"' if classes else ""
    return f'<td{kind} style="--v:{cell.strength:.3f}" title="{escape(cell.title)}">{escape(cell.text)}</td>'


def range_plot(figures: Mapping[str, Figure]) -> str:
    """Figures between 0 and 1: a dot with its interval, and a tick for the floor."""
    left, width, row = 130, 400, 34
    parts = []
    for index, (name, figure) in enumerate(figures.items()):
        y = row * index + 20
        parts.append(f'<text x="0" y="{y + 4}">{escape(name)}</text><path class="rail" d="M{left} {y}h{width}"/>')
        if figure["floor"] is not None:
            parts.append(f'<path class="floor" d="M{left + width * figure["floor"]:.1f} {y - 8}v16"/>')
        if figure["value"] is None:
            continue
        if figure["low"] is not None:
            low, high = (left + width * min(1.0, max(0.0, figure[end])) for end in ("low", "high"))
            parts.append(f'<path class="spread" d="M{low:.1f} {y}H{high:.1f}"/>')
        x = left + width * min(1.0, max(0.0, figure["value"]))
        parts.append(
            f'<circle class="dot" cx="{x:.1f}" cy="{y}" r="5"><title>{escape(interval(figure))}</title></circle>'
        )
        parts.append(f'<text class="value" x="{left + width + 14}" y="{y + 4}">{number(figure["value"])}</text>')
    height = row * len(figures) + 26
    axis = "".join(
        f'<text class="axis" x="{left + width * tick / 4}" y="{height - 4}" text-anchor="middle">{number(tick / 4)}</text>'
        for tick in range(5)
    )
    return f'<svg class="ranges" viewBox="0 0 600 {height}" role="img">{"".join(parts)}{axis}</svg>'


def rank_plot(counts: Mapping[str, Sequence[int]]) -> str:
    """Uses of every code, the most used first, on a logarithmic axis: one line for each set of stories."""
    width, height, left = 540, 220, 44
    size = max(len(values) for values in counts.values())
    top = math.log10(max(2, max(max(values) for values in counts.values())))

    def place(rank: int, count: int) -> tuple[float, float]:
        return left + (width - left) * rank / max(1, size - 1), height * (1 - math.log10(count) / top)

    parts = []
    for power in range(int(top) + 1):
        y = place(0, 10**power)[1]
        parts.append(f'<path class="rail" d="M{left} {y:.1f}H{width}"/>')
        parts.append(f'<text class="axis" x="{left - 8}" y="{y + 4:.1f}" text-anchor="end">{10**power}</text>')
    for index, values in enumerate(counts.values()):
        ranked = sorted((value for value in values if value), reverse=True)
        points = "L".join(f"{x:.1f} {y:.1f}" for x, y in (place(rank, count) for rank, count in enumerate(ranked)))
        parts.append(f'<path class="line" style="stroke:var(--c{index})" d="M{points}"/>')
    for rank, anchor in ((1, "start"), (size // 2, "middle"), (size, "end")):
        x = place(rank - 1, 1)[0]
        parts.append(f'<text class="axis" x="{x:.0f}" y="{height + 18}" text-anchor="{anchor}">{rank}</text>')
    return f'<svg class="plot" viewBox="0 -10 {width} {height + 34}" role="img">{"".join(parts)}</svg>'


def dendrogram(tree: Mapping[str, Any], looks: Mapping[int, tuple[int, int]]) -> str:
    """The tree over the codes, and under each leaf two marks, for its attribute and its slot: `looks` are their
    colours' numbers.
    """
    codes, width, height = tree["codes"], 1120.0, 170.0
    step, tallest = width / len(codes), max(merge[2] for merge in tree["merges"]) or 1.0
    places = [(step * (leaf + 0.5), height) for leaf in range(len(codes))]
    parts = []
    for first, second, distance, _ in tree["merges"]:
        (x1, y1), (x2, y2) = places[first], places[second]
        y = height - (height - 6) * distance / tallest
        parts.append(f"M{x1:.1f} {y1:.1f}V{y:.1f}H{x2:.1f}V{y2:.1f}")
        places.append(((x1 + x2) / 2, y))
    marks = "".join(
        f'<g data-code="{code}" transform="translate({step * leaf:.1f})"><rect y="{height + 5}" width="{step:.2f}" height="16" '
        f'fill="var(--c{looks[code][0]})"/><rect y="{height + 24}" width="{step:.2f}" height="16" fill="var(--c{looks[code][1]})"/></g>'
        for leaf, code in enumerate(codes)
    )
    names = f'<text class="axis" x="{width + 6}" y="{height + 17}">tells</text><text class="axis" x="{width + 6}" y="{height + 36}">slot</text>'
    return f'<svg class="tree" viewBox="0 0 {width + 40} {height + 42}" role="img"><path d="{"".join(parts)}"/>{marks}{names}</svg>'


def scatter(
    points: Mapping[str, Sequence[float]], uses: Mapping[int, int], looks: Mapping[int, tuple[int, int]]
) -> str:
    """Codes as dots, as large as they are often used; the style sheet picks one of the two colours of `looks`."""
    width, height, margin = 760.0, 520.0, 16.0
    low = [min(point[axis] for point in points.values()) for axis in (0, 1)]
    span = [(max(point[axis] for point in points.values()) - low[axis]) or 1.0 for axis in (0, 1)]
    most = max(uses.values())
    dots = []
    for code in sorted(map(int, points), key=lambda code: -uses[code]):  # Small ones last, so that none is hidden.
        across, up = ((point - start) / size for point, start, size in zip(points[str(code)], low, span, strict=True))
        x, y = margin + (width - 2 * margin) * across, height - margin - (height - 2 * margin) * up
        radius, (tells, slot) = 2.5 + 7 * math.sqrt(uses[code] / most), looks[code]
        dots.append(
            f'<circle data-code="{code}" cx="{x:.1f}" cy="{y:.1f}" r="{radius:.1f}" style="--a:var(--c{tells});--s:var(--c{slot})"/>'
        )
    return f'<svg class="map" viewBox="0 0 {width:.0f} {height:.0f}" role="img">{"".join(dots)}</svg>'


def matrix(
    codes: Sequence[int], values: Sequence[Sequence[float | None]], full: float, what: str, colors: Sequence[int]
) -> str:
    """A square of codes by codes, full colour at `full`, blank where there is little; `colors` are the codes' own, at
    the margins.
    """
    side, edge = 10, 14
    size = edge + side * len(codes)
    parts = [f'<rect class="ground" x="{edge}" y="{edge}" width="{size - edge}" height="{size - edge}"/>']
    for index, color in enumerate(colors):
        at = edge + side * index
        parts.append(
            f'<rect x="{at}" width="9" height="8" fill="var(--c{color})"/><rect y="{at}" width="8" height="9" fill="var(--c{color})"/>'
        )
    for row, line in enumerate(values):
        for column, value in enumerate(line):
            if value is None or value < 0.05 * full:
                continue
            parts.append(
                f'<rect class="hot" x="{edge + side * column}" y="{edge + side * row}" width="9" height="9" '
                f'fill-opacity="{min(1.0, value / full):.2f}" data-code="{codes[row]}"><title>{codes[row]} {what} {codes[column]}: '
                f"{number(value)}</title></rect>"
            )
    return f'<svg class="matrix" viewBox="0 0 {size} {size}" role="img">{"".join(parts)}</svg>'
