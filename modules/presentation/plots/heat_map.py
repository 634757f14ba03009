"""Heat maps and curves of the CSV files that `ablate` writes.

A metric's column may be followed by columns of the same name and "low", "high" (its 95 % interval), "floor" and
"ceiling".
"""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.cm import ScalarMappable
from matplotlib.colors import Normalize
from matplotlib.figure import Figure, SubFigure

from modules.common.errors import UserError
from modules.common.files import write_whole
from modules.common.ownership import MARK
from modules.presentation.theme import LIGHT, MAP_COLORS

CsvRow = dict[str, str]
Values = dict[str, list[str]]  # The values of the settings that an axis shows.
MEANINGS = {"(pp)": "picture against predicted text", "(pg)": "picture against true text"}
PARTS = (" low", " high", " floor", " ceiling")
PANELS_A_ROW = 4


def write_heat_map(table: Path, picture: Path) -> Path:
    """Draw the CSV of `run_ablation` as PNG: a panel for each metric and guidance scale, steps across, strengths down.

    The same CSV gives the same bytes. Raises UserError if the file is no such CSV, or has no rows.
    """
    rows = _read(table, ("steps", "strength", "cfg"))
    metrics = [name for name in rows[0] if name.endswith(tuple(MEANINGS))]
    return _write(_draw_heat_maps(rows, metrics, across="steps", down="strength", others=["cfg"]), picture)


def write_sweep_plot(table: Path, picture: Path, settings: Sequence[str]) -> Path:
    """Draw the CSV of `run_sweep` over `settings` as PNG: curves for one setting, heat maps of the last two for more.

    The same CSV gives the same bytes. Raises UserError if the file is no such CSV, or has no rows.
    """
    rows = _read(table, settings)
    columns = list(rows[0])[len(settings) : -1]  # The last column is the identity.
    metrics = [name for name in columns if not name.endswith(PARTS) and any(row[name] for row in rows)]
    if len(settings) == 1:
        return _write(_draw_curves(rows, metrics, settings[0]), picture)
    *others, down, across = settings
    return _write(_draw_heat_maps(rows, metrics, across, down, others), picture)


# -- heat maps


def _draw_heat_maps(
    rows: Sequence[CsvRow], metrics: Sequence[str], across: str, down: str, others: Sequence[str]
) -> Figure:
    """Draw a block for every metric, with one colour scale and a panel for every combination of the `others`."""
    axes = {name: list(dict.fromkeys(row[name] for row in rows)) for name in (across, down)}
    panels: dict[tuple[str, ...], list[CsvRow]] = {}
    for row in rows:
        panels.setdefault(tuple(row[name] for name in others), []).append(row)
    columns = min(len(panels), PANELS_A_ROW)
    lines = math.ceil(len(panels) / columns)
    width = max(6.0, 1.2 + columns * (0.45 + 0.95 * len(axes[across])))
    height = 0.75 + lines * (0.75 + 0.52 * len(axes[down]))
    figure = _canvas(width, height * len(metrics))
    blocks = figure.subfigures(len(metrics), 1, squeeze=False)[:, 0]
    for name, block in zip(metrics, blocks, strict=True):
        grid = block.subplots(lines, columns, squeeze=False).ravel()
        colors = _color_scale(rows, name)
        for axis, (key, cells) in zip(grid, panels.items(), strict=False):
            _draw_cells(axis, cells, name, axes, colors)
            title = ", ".join(f"{other} = {value}" for other, value in zip(others, key, strict=True))
            axis.set_title(title, fontsize=9.5, color=LIGHT.ink)
        for axis in grid[len(panels) :]:
            axis.set_axis_off()
        _draw_color_bar(block, colors, list(grid))
        block.suptitle(_title(rows, name), fontsize=10.5, color=LIGHT.ink)
    return figure


def _color_scale(rows: Sequence[CsvRow], name: str) -> ScalarMappable:
    values = [value for row in rows if not math.isnan(value := _number(row[name]))] or [0.0]
    return ScalarMappable(Normalize(min(values), max(values)), MAP_COLORS)


def _draw_color_bar(block: SubFigure, colors: ScalarMappable, axes: list[Axes]) -> None:
    bar = block.colorbar(colors, ax=axes, aspect=18, pad=0.015)
    bar.outline.set_visible(False)
    bar.ax.tick_params(length=0, labelsize=8, labelcolor=LIGHT.soft)


def _draw_cells(axis: Axes, rows: Sequence[CsvRow], name: str, axes: Values, colors: ScalarMappable) -> None:
    """Draw one panel: a cell for each row, with its value and, small, its interval; missing values stay blank."""
    (across, xs), (down, ys) = axes.items()
    values = np.full((len(ys), len(xs)), np.nan)
    for row in rows:
        x, y, value = xs.index(row[across]), ys.index(row[down]), _number(row[name])
        values[y, x] = value
        if math.isnan(value):
            continue
        ink = _readable_ink(colors, value)
        low, high = (_number(row.get(name + part, "")) for part in (" low", " high"))
        has_interval = not math.isnan(low)
        axis.text(x, y - 0.1 * has_interval, _short(value), ha="center", va="center", fontsize=9.5, color=ink)
        if has_interval:
            interval = f"{_short(low)} to {_short(high)}"
            axis.text(x, y + 0.24, interval, ha="center", va="center", fontsize=6.5, color=ink)
    low, high = colors.get_clim()
    axis.imshow(values, cmap=colors.cmap, vmin=low, vmax=high, aspect="auto")
    axis.set_xticks(range(len(xs)), xs)
    axis.set_yticks(range(len(ys)), ys)
    axis.set_xlabel(across, fontsize=8.5, color=LIGHT.soft)
    axis.set_ylabel(down, fontsize=8.5, color=LIGHT.soft)
    axis.tick_params(length=0, labelsize=8.5, labelcolor=LIGHT.ink)
    axis.spines[:].set_visible(False)


def _readable_ink(colors: ScalarMappable, value: float) -> str:
    """Return dark ink on a light colour, white on a dark one."""
    red, green, blue, _ = colors.to_rgba(np.array([value]))[0]
    return LIGHT.ink if 0.3 * red + 0.59 * green + 0.11 * blue > 0.5 else "white"


# -- curves


def _draw_curves(rows: Sequence[CsvRow], metrics: Sequence[str], setting: str) -> Figure:
    """Draw a panel for each metric: its value by the setting's, with the interval as a band where there is one."""
    columns = min(len(metrics), PANELS_A_ROW)
    lines = math.ceil(len(metrics) / columns)
    figure = _canvas(max(4.5, 3.4 * columns), 2.7 * lines)
    rows, places = _place(rows, setting)
    grid = figure.subplots(lines, columns, squeeze=False).ravel()
    for axis, name in zip(grid, metrics, strict=False):
        values, low, high = ([_number(row.get(name + part, "")) for row in rows] for part in ("", " low", " high"))
        axis.fill_between(places, low, high, color=LIGHT.cold, alpha=0.18, linewidth=0)
        axis.plot(places, values, "o-", color=LIGHT.cold, markersize=4.5, linewidth=1.6)
        axis.set_title(name, fontsize=10, color=LIGHT.ink)
        axis.set_xlabel(setting, fontsize=8.5, color=LIGHT.soft)
        axis.set_xticks(places, [row[setting] for row in rows])
        axis.tick_params(length=0, labelsize=8.5, labelcolor=LIGHT.ink)
        axis.grid(axis="y", color=LIGHT.line, linewidth=0.7)
        axis.spines[["top", "right", "left"]].set_visible(False)
    for axis in grid[len(metrics) :]:
        axis.set_axis_off()
    return figure


def _place(rows: Sequence[CsvRow], setting: str) -> tuple[Sequence[CsvRow], list[float]]:
    """Return the rows and their places on the axis.

    Numbers are placed by size, or by its logarithm if they span much; other values side by side in the order given.
    """
    values = [_number(row[setting]) for row in rows]
    if any(math.isnan(value) for value in values):
        return rows, [float(place) for place in range(len(rows))]
    rows, values = sorted(rows, key=lambda row: _number(row[setting])), sorted(values)
    is_wide = values[0] > 0 and values[-1] / values[0] > 3
    return rows, [math.log(value) for value in values] if is_wide else values


# -- files


def _read(table: Path, required: Sequence[str]) -> list[CsvRow]:
    try:
        with open(table, newline="", encoding="utf-8") as file:
            rows = list(csv.DictReader(file))
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise UserError(f"{table} is no readable CSV ({error}): give one that ablate wrote") from error
    missing = [name for name in required if not rows or name not in rows[0]]
    if missing:
        raise UserError(f"{table} has no results with a column {missing[0]}: give one that ablate wrote")
    return rows


def _title(rows: Sequence[CsvRow], name: str) -> str:
    """Return a metric's name and, in a second line, its meaning, floor and ceiling as far as they are known."""
    notes = [MEANINGS[name[-4:]]] if name.endswith(tuple(MEANINGS)) else []
    for part, meaning in ((" floor", "other stories' texts"), (" ceiling", "true pages")):
        values = [value for row in rows if not math.isnan(value := _number(row.get(name + part, "")))]
        if values and notes:
            notes.append(f"{meaning} {_short(sum(values) / len(values))}")
    return "\n".join([name, " · ".join(notes)]).rstrip()


def _number(text: str) -> float:
    try:
        return float(text)
    except ValueError:
        return math.nan


def _short(value: float) -> str:
    """Format three significant digits, trailing zeros included."""
    return f"{value:#.3g}".rstrip(".")


def _canvas(width: float, height: float) -> Figure:
    """Return a figure, in inches, apart from pyplot, whose state is the user's."""
    figure = Figure(figsize=(width, height), dpi=150, layout="constrained", facecolor=LIGHT.paper)
    FigureCanvasAgg(figure)
    return figure


def _write(figure: Figure, picture: Path) -> Path:
    """Write a PNG without matplotlib's version in it."""
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", metadata={"Software": MARK})
    return write_whole(picture, buffer.getvalue())
