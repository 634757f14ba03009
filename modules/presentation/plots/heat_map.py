"""Ablations and sweeps at a glance: heat maps and curves of the CSV files that `ablate` writes.

A figure's column may be followed by columns of the same name and "low", "high" (its 95 % interval), "floor" and
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
from matplotlib.figure import Figure

from modules.common.errors import UserError
from modules.common.files import write_whole

Row = dict[str, str]
MEANINGS = {"(pp)": "picture against predicted text", "(pg)": "picture against true text"}
PARTS = (" low", " high", " floor", " ceiling")
PANELS_A_ROW = 4
INK, SOFT, LINE = "#2b2b2b", "#6f6f6f", "#2f6c8f"


def write_heat_map(table: Path, picture: Path) -> Path:
    """Draw the CSV of `run_ablation` as PNG: for both figures a panel a guidance scale, steps across and strengths
    down.

    The same CSV gives the same bytes. Raises UserError where there is no such CSV, or no row in it.
    """
    rows = _read(table, ("steps", "strength", "cfg"))
    figures = [name for name in rows[0] if name.endswith(tuple(MEANINGS))]
    _write(_heat_maps(rows, figures, across="steps", down="strength", others=["cfg"]), picture)
    return picture


def write_sweep_plot(table: Path, picture: Path, settings: Sequence[str]) -> Path:
    """Draw the CSV of `run_sweep` over `settings` as PNG: curves for one setting, for more heat maps of the last two.

    The same CSV gives the same bytes. Raises UserError where there is no such CSV, or no row in it.
    """
    rows = _read(table, settings)
    figures = [
        name for name in list(rows[0])[len(settings) : -1] if not name.endswith(PARTS)
    ]  # The last column is the identity.
    figures = [name for name in figures if any(row[name] for row in rows)]
    if len(settings) == 1:
        figure = _curves(rows, figures, settings[0])
    else:
        *others, down, across = settings
        figure = _heat_maps(rows, figures, across, down, others)
    _write(figure, picture)
    return picture


# -- heat maps
# ----------------------------------------------------------------------------------------------------------


def _heat_maps(rows: Sequence[Row], figures: Sequence[str], across: str, down: str, others: Sequence[str]) -> Figure:
    """A block of panels for every figure, a panel for every combination of the `others`; a block has one scale of
    colours.
    """
    axes = {name: list(dict.fromkeys(row[name] for row in rows)) for name in (across, down)}
    panels = list(dict.fromkeys(tuple(row[name] for name in others) for row in rows))
    columns = min(len(panels), PANELS_A_ROW)
    lines = math.ceil(len(panels) / columns)
    width = max(6.0, 1.2 + columns * (0.45 + 0.95 * len(axes[across])))
    height = 0.75 + lines * (0.75 + 0.52 * len(axes[down]))
    whole = _canvas(width, height * len(figures))
    for name, block in zip(figures, whole.subfigures(len(figures), 1, squeeze=False)[:, 0], strict=True):
        values = [value for row in rows if not math.isnan(value := _number(row[name]))] or [0.0]
        shades = ScalarMappable(Normalize(min(values), max(values)), "viridis")
        grid = block.subplots(lines, columns, squeeze=False).ravel()
        for panel, key in zip(grid, panels, strict=False):
            _draw_cells(
                panel, [row for row in rows if tuple(row[other] for other in others) == key], name, axes, shades
            )
            panel.set_title(
                ", ".join(f"{other} = {value}" for other, value in zip(others, key, strict=True)),
                fontsize=9.5,
                color=INK,
            )
        for panel in grid[len(panels) :]:
            panel.set_axis_off()
        bar = block.colorbar(shades, ax=list(grid), aspect=18, pad=0.015)
        bar.outline.set_visible(False)
        bar.ax.tick_params(length=0, labelsize=8, labelcolor=SOFT)
        block.suptitle(_title(rows, name), fontsize=10.5, color=INK)
    return whole


def _draw_cells(
    panel: Axes, rows: Sequence[Row], name: str, axes: dict[str, list[str]], shades: ScalarMappable
) -> None:
    """One panel: a cell a row, with its value and, small, its interval; what is not measured stays white."""
    (across, xs), (down, ys) = axes.items()
    values = np.full((len(ys), len(xs)), np.nan)
    for row in rows:
        x, y, value = xs.index(row[across]), ys.index(row[down]), _number(row[name])
        values[y, x] = value
        if math.isnan(value):
            continue
        red, green, blue, _ = shades.to_rgba(value)
        ink = INK if 0.3 * red + 0.59 * green + 0.11 * blue > 0.5 else "white"
        low, high = (_number(row.get(name + part, "")) for part in (" low", " high"))
        has_interval = not math.isnan(low)
        panel.text(x, y - 0.1 * has_interval, _short(value), ha="center", va="center", fontsize=9.5, color=ink)
        if has_interval:
            panel.text(
                x, y + 0.24, f"{_short(low)} to {_short(high)}", ha="center", va="center", fontsize=6.5, color=ink
            )
    panel.imshow(values, cmap=shades.cmap, norm=shades.norm, aspect="auto")
    panel.set_xticks(range(len(xs)), xs)
    panel.set_yticks(range(len(ys)), ys)
    panel.set_xlabel(across, fontsize=8.5, color=SOFT)
    panel.set_ylabel(down, fontsize=8.5, color=SOFT)
    panel.tick_params(length=0, labelsize=8.5, labelcolor=INK)
    panel.spines[:].set_visible(False)


# -- curves
# -------------------------------------------------------------------------------------------------------------


def _curves(rows: Sequence[Row], figures: Sequence[str], setting: str) -> Figure:
    """A panel a figure: its value over the setting's, with the interval as a band where there is one."""
    columns = min(len(figures), PANELS_A_ROW)
    lines = math.ceil(len(figures) / columns)
    whole = _canvas(max(4.5, 3.4 * columns), 2.7 * lines)
    rows, places = _in_place(rows, setting)
    grid = whole.subplots(lines, columns, squeeze=False).ravel()
    for panel, name in zip(grid, figures, strict=False):
        values, low, high = ([_number(row.get(name + part, "")) for row in rows] for part in ("", " low", " high"))
        panel.fill_between(places, low, high, color=LINE, alpha=0.18, linewidth=0)
        panel.plot(places, values, "o-", color=LINE, markersize=4.5, linewidth=1.6)
        panel.set_title(name, fontsize=10, color=INK)
        panel.set_xlabel(setting, fontsize=8.5, color=SOFT)
        panel.set_xticks(places, [row[setting] for row in rows])
        panel.tick_params(length=0, labelsize=8.5, labelcolor=INK)
        panel.grid(axis="y", color="#e3e3e3", linewidth=0.7)
        panel.spines[["top", "right", "left"]].set_visible(False)
    for panel in grid[len(figures) :]:
        panel.set_axis_off()
    return whole


def _in_place(rows: Sequence[Row], setting: str) -> tuple[Sequence[Row], list[float]]:
    """Rows and where they stand: numbers by size, or by its logarithm if they span much; other values side by side as
    they come.
    """
    values = [_number(row[setting]) for row in rows]
    if any(math.isnan(value) for value in values):
        return rows, list(range(len(rows)))
    rows, values = sorted(rows, key=lambda row: _number(row[setting])), sorted(values)
    wide = values[0] > 0 and values[-1] / values[0] > 3
    return rows, [math.log(value) for value in values] if wide else values


# -- files
# --------------------------------------------------------------------------------------------------------------


def _read(table: Path, needed: Sequence[str]) -> list[Row]:
    try:
        with open(table, newline="", encoding="utf-8") as file:
            rows = list(csv.DictReader(file))
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise UserError(f"{table} is no readable CSV ({error}): give one that ablate wrote") from error
    missing = [name for name in needed if not rows or name not in rows[0]]
    if missing:
        raise UserError(f"{table} has no results with a column {missing[0]}: give one that ablate wrote")
    return rows


def _title(rows: Sequence[Row], name: str) -> str:
    """The figure's name and, in a second line, what it measures and between which values it stands, where that is
    known.
    """
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
    """Three digits, zeros at the end too."""
    return f"{value:#.3g}".rstrip(".")


def _canvas(width: float, height: float) -> Figure:
    """A figure of its own in inches: pyplot's state is the user's."""
    figure = Figure(figsize=(width, height), dpi=150, layout="constrained", facecolor="white")
    FigureCanvasAgg(figure)
    return figure


def _write(figure: Figure, picture: Path) -> None:
    """Write a PNG without matplotlib's version in it."""
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", metadata={"Software": None})
    write_whole(picture, buffer.getvalue())
