"""Geometry of the codebook page's SVG plots; macros.html draws them."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from modules.presentation.codebook.tables import Estimate, bounds, clip, number

CodeColors = Mapping[int, tuple[int, int]]  # Of each code the palette's numbers of its attribute and of its slot.
Label = tuple[float, str]  # A place on an axis, and its text.


@dataclass(frozen=True)
class RangeRow:
    """An estimate between 0 and 1: x of its dot, interval and floor; None if not measured."""

    name: str
    y: float
    x: float | None
    ends: tuple[float, float] | None
    floor: float | None
    value: str
    title: str


@dataclass(frozen=True)
class RangePlot:
    """Estimates as dots with their intervals, a tick for the floor."""

    left: int
    right: int
    height: float
    rows: list[RangeRow]
    ticks: list[Label]


def range_plot(estimates: Mapping[str, Estimate]) -> RangePlot:
    """Lay out estimates between 0 and 1, one below the other."""
    left, width, pitch = 130, 400, 34

    def place(value: float | None) -> float | None:
        return None if value is None else round(left + width * clip(value), 1)

    rows = []
    for index, (name, estimate) in enumerate(estimates.items()):
        low, high = place(estimate["low"]), place(estimate["high"])
        ends = None if low is None or high is None else (low, high)
        x, floor = place(estimate["value"]), place(estimate["floor"])
        value, title = number(estimate["value"]), bounds(estimate)
        rows.append(RangeRow(name, pitch * index + 20, x, ends, floor, value, title))
    ticks = [(left + width * tick / 4, number(tick / 4)) for tick in range(5)]
    return RangePlot(left, left + width, pitch * len(rows) + 26, rows, ticks)


@dataclass(frozen=True)
class RankPlot:
    """Uses of each code, the most used first, on a logarithmic axis: one line for each set of stories."""

    width: int
    height: int
    left: int
    lines: list[list[tuple[float, float]]]
    ranks: list[Label]
    powers: list[Label]


def rank_plot(counts: Mapping[str, Sequence[int]]) -> RankPlot:
    """Lay out the uses of all codes by rank."""
    width, height, left = 540, 220, 44
    size = max(len(values) for values in counts.values())
    top = math.log10(max(2, max(max(values) for values in counts.values())))

    def place(rank: int, count: int) -> tuple[float, float]:
        x = left + (width - left) * rank / max(1, size - 1)
        return round(x, 1), round(height * (1 - math.log10(count) / top), 1)

    lines = [
        [place(rank, count) for rank, count in enumerate(sorted(filter(None, values), reverse=True))]
        for values in counts.values()
    ]
    ranks = [(place(rank - 1, 1)[0], str(rank)) for rank in (1, size // 2, size)]
    powers = [(place(0, 10**power)[1], str(10**power)) for power in range(int(top) + 1)]
    return RankPlot(width, height, left, lines, ranks, powers)


@dataclass(frozen=True)
class Leaf:
    """A code below a tree: its left edge and its two colours."""

    code: int
    x: float
    attribute: int
    slot: int


@dataclass(frozen=True)
class Tree:
    """A dendrogram over codes: the SVG path of its branches, and its leaves."""

    width: float
    height: float
    step: float
    path: str
    leaves: list[Leaf]


def dendrogram(tree: Mapping[str, Any], colors: CodeColors) -> Tree:
    """Lay out a clustering of codes."""
    codes, width, height = tree["codes"], 1120.0, 170.0
    step, tallest = width / len(codes), max(merge[2] for merge in tree["merges"]) or 1.0
    places = [(step * (leaf + 0.5), height) for leaf in range(len(codes))]
    path = []
    for first, second, distance, _ in tree["merges"]:
        (x1, y1), (x2, y2) = places[first], places[second]
        y = height - (height - 6) * distance / tallest
        path.append(f"M{x1:.1f} {y1:.1f}V{y:.1f}H{x2:.1f}V{y2:.1f}")
        places.append(((x1 + x2) / 2, y))
    leaves = [Leaf(code, round(step * index, 1), *colors[code]) for index, code in enumerate(codes)]
    return Tree(width, height, round(step, 2), "".join(path), leaves)


@dataclass(frozen=True)
class Dot:
    """A code on the map, its area proportional to its uses."""

    code: int
    x: float
    y: float
    radius: float
    attribute: int
    slot: int


@dataclass(frozen=True)
class Scatter:
    """Codes as dots on a plane."""

    width: int
    height: int
    dots: list[Dot]


def scatter(points: Mapping[str, Sequence[float]], uses: Mapping[int, int], colors: CodeColors) -> Scatter:
    """Lay out codes by their coordinates; small dots come last, so that none is hidden."""
    width, height, margin = 760, 520, 16
    low = [min(point[axis] for point in points.values()) for axis in (0, 1)]
    span = [(max(point[axis] for point in points.values()) - low[axis]) or 1.0 for axis in (0, 1)]
    most = max(uses.values())
    dots = []
    for code in sorted(map(int, points), key=lambda code: -uses[code]):
        across, up = ((point - start) / size for point, start, size in zip(points[str(code)], low, span, strict=True))
        x, y = margin + (width - 2 * margin) * across, height - margin - (height - 2 * margin) * up
        radius = 2.5 + 7 * math.sqrt(uses[code] / most)
        dots.append(Dot(code, round(x, 1), round(y, 1), round(radius, 1), *colors[code]))
    return Scatter(width, height, dots)


@dataclass(frozen=True)
class MatrixCell:
    """A pair of codes with a value worth showing."""

    code: int
    x: int
    y: int
    opacity: float
    title: str


@dataclass(frozen=True)
class Matrix:
    """A square of codes by codes; `margins` are each code's place and colour."""

    size: int
    edge: int
    margins: list[tuple[int, int]]
    cells: list[MatrixCell]


def matrix(
    codes: Sequence[int], values: Sequence[Sequence[float | None]], full: float, relation: str, colors: Sequence[int]
) -> Matrix:
    """Lay out values of pairs of codes, full colour at `full`; small ones are left blank."""
    side, edge = 10, 14
    cells = [
        MatrixCell(
            codes[row],
            edge + side * column,
            edge + side * row,
            round(min(1.0, value / full), 2),
            f"{codes[row]} {relation} {codes[column]}: {number(value)}",
        )
        for row, line in enumerate(values)
        for column, value in enumerate(line)
        if value is not None and value >= 0.05 * full
    ]
    margins = [(edge + side * index, color) for index, color in enumerate(colors)]
    return Matrix(edge + side * len(codes), edge, margins, cells)
