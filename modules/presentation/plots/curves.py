"""Plots of training curves: one panel a group, a smooth line over the raw one, phases marked."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import matplotlib.style
import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, LogLocator, MaxNLocator
from PIL import Image
from scipy.ndimage import gaussian_filter1d

from modules.presentation.plots.curve_files import Curve, phase_starts
from modules.presentation.theme import LIGHT, Theme

COLUMNS = 3
SMOOTHED_FROM = 24  # Points. Shorter curves are drawn unsmoothed, each point marked.
LOG_RATIO = 20  # From this ratio of largest to smallest value on, a panel's axis is logarithmic.


@dataclass(frozen=True)
class Panel:
    """Curves that share an axis, by legend name; `exact` ones are drawn unsmoothed on a linear axis."""

    title: str
    unit: str = ""
    exact: bool = False
    curves: dict[str, Curve] = field(default_factory=dict)


# Panels other than a phase's own losses, by the pattern of their tags, whose group names the line. The first match
# counts.
PATTERNS = {
    r"held_out/text_nll_(own|swapped|null)": Panel("Held out: text", "nats a token"),
    r"held_out/diffusion_loss_(own|swapped|null)": Panel(
        "Held out: pictures", "squared error of the velocity, or of the noise"
    ),
    r"held_out/(prior_nll)": Panel("Held out: plan", "nats a code"),
    r"held_out/(.+_gap)": Panel("Held out: value of own codes", "difference in loss"),
    r"autoencoder/(psnr)_db": Panel("Held out: autoencoder", "dB"),
    r"codebook/(perplexity)": Panel("Codebook: perplexity", "codes"),
    r"codebook/(used)": Panel("Codebook: share in use"),
    r"gradient_norm/(.+)": Panel("Gradient norms", "before clipping"),
    r"(learning_rate)": Panel("Learning rate", exact=True),
    r"speed/(pictures)_per_second": Panel("Speed: pictures", "a second"),
    r"speed/(tokens)_per_second": Panel("Speed: tokens", "a second"),
    r"(skipped_updates)": Panel("Skipped updates", "since the start", exact=True),
}


def group_curves(curves: Mapping[str, Curve]) -> list[Panel]:
    """Return the panels in drawing order: each phase's losses, then `PATTERNS`, then all others by their prefix.

    A curve that is zero throughout is left out.
    """
    panels = {phase: Panel(f"Losses: {phase} phase") for phase in phase_starts(curves)}
    panels |= {pattern: replace(panel, curves={}) for pattern, panel in PATTERNS.items()}
    for tag, curve in curves.items():
        prefix, _, name = tag.rpartition("/")
        matches = ((pattern, match[1]) for pattern in PATTERNS if (match := re.fullmatch(pattern, tag)))
        key, name = next(matches, (prefix, name))
        if curve.values.any():
            panels.setdefault(key, Panel(key or "Other")).curves[name.replace("_", " ")] = curve
    return [panel for panel in panels.values() if panel.curves]


def smooth(values: np.ndarray) -> np.ndarray:
    """Smooth values (M,) by a Gaussian window of about M / 30; it is centred, so the line does not lag behind."""
    return gaussian_filter1d(values, sigma=max(1.0, len(values) / 30), mode="nearest")


def draw_curves(curves: Mapping[str, Curve], theme: Theme = LIGHT) -> Image.Image:
    """Draw all panels of a run as one RGB image; matplotlib's settings stay unchanged."""
    panels, phases = group_curves(curves), phase_starts(curves)
    colors = _assign_colors(panels, theme.palette)
    columns = min(COLUMNS, len(panels))
    rows = math.ceil(len(panels) / columns)
    with matplotlib.style.context(["default", _settings(theme)]):
        figure = Figure(figsize=(5.2 * columns, 3.7 * rows), dpi=120, layout="constrained")
        figure.set_layout_engine("constrained", w_pad=0.14, h_pad=0.14)
        for number, panel in enumerate(panels, 1):
            _draw_panel(figure.add_subplot(rows, columns, number), panel, phases, colors, theme)
        canvas = FigureCanvasAgg(figure)
        canvas.draw()
        return Image.fromarray(np.asarray(canvas.buffer_rgba())).convert("RGB")


def _assign_colors(panels: Sequence[Panel], palette: Sequence[str]) -> dict[str, str]:
    """Return a colour for each name: the same in all panels, different within a panel while the palette lasts."""
    colors: dict[str, str] = {}
    for name in (name for panel in panels for name in panel.curves):
        beside = {other for panel in panels if name in panel.curves for other in panel.curves if other != name}
        taken = {colors[other] for other in beside & colors.keys()}
        free = (color for color in palette if color not in taken)
        colors.setdefault(name, next(free, palette[len(colors) % len(palette)]))
    return colors


def _settings(theme: Theme) -> dict[str, Any]:
    return {
        "figure.facecolor": theme.paper,
        "axes.facecolor": theme.paper,
        "axes.edgecolor": theme.line,
        "axes.labelcolor": theme.soft,
        "text.color": theme.ink,
        "xtick.color": theme.soft,
        "ytick.color": theme.soft,
        "grid.color": theme.line,
        "axes.grid": True,
        "axes.axisbelow": True,
        "axes.spines.top": False,
        "axes.spines.right": False,
        "font.size": 10,
        "axes.titlesize": 12.5,
        "axes.titleweight": "bold",
        "axes.titlelocation": "left",
        "axes.titlepad": 20,
        "xtick.major.size": 0,
        "ytick.major.size": 0,
        "ytick.minor.size": 0,
        "legend.frameon": False,
        "lines.solid_capstyle": "round",
        "text.parse_math": False,
        "axes.xmargin": 0.02,
    }


def _draw_panel(axes: Axes, panel: Panel, phases: Mapping[str, int], colors: Mapping[str, str], theme: Theme) -> None:
    axes.set_title(panel.title)
    for name, curve in panel.curves.items():
        _draw_curve(axes, name, curve, [] if panel.exact else list(phases.values()), colors[name])
    _set_scale(axes, panel)
    _mark_phases(axes, phases, theme)
    axes.set_xlabel("update")
    axes.set_ylabel(panel.unit)
    axes.xaxis.set_major_locator(MaxNLocator(6, integer=True))
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,.0f}"))
    if len(panel.curves) > 1:
        columns = 3 if max(map(len, panel.curves)) <= 18 else 2
        style = {"ncols": columns, "fontsize": 9, "handlelength": 1.2, "columnspacing": 1.4}
        axes.legend(loc="upper center", bbox_to_anchor=(0.5, -0.2), **style)


def _draw_curve(axes: Axes, name: str, curve: Curve, starts: Sequence[int], color: str) -> None:
    """Draw a long curve raw and smoothed within each phase, as losses jump between phases; a short one as one line."""
    if len(curve.steps) < SMOOTHED_FROM or not starts:
        marker = "o" if len(curve.steps) < SMOOTHED_FROM else None
        axes.plot(curve.steps, curve.values, color=color, linewidth=1.8, marker=marker, markersize=3.5, label=name)
        return
    axes.plot([], [], color=color, linewidth=1.8, label=name)
    for part in np.split(np.arange(len(curve.steps)), np.searchsorted(curve.steps, starts)):
        axes.plot(curve.steps[part], curve.values[part], color=color, linewidth=0.8, alpha=0.28)
        if len(part):
            axes.plot(curve.steps[part], smooth(curve.values[part]), color=color, linewidth=1.8)


def _set_scale(axes: Axes, panel: Panel) -> None:
    values = np.concatenate([curve.values for curve in panel.curves.values()])
    low, high = values.min(), values.max()
    if not panel.exact and low > 0 and high / low > LOG_RATIO:
        axes.set_yscale("log")
        axes.yaxis.set_major_locator(LogLocator(10, subs=(1, 2, 5) if high / low < 1000 else (1,)))
        axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
        axes.minorticks_off()
    elif low >= 0 and panel.unit != "dB":  # Decibels have no natural zero.
        axes.set_ylim(0, 1.08 * high)


def _mark_phases(axes: Axes, phases: Mapping[str, int], theme: Theme) -> None:
    """Draw a line where a phase begins, and the phases' names where the panel spans more than one."""
    left, right = axes.get_xlim()
    axes.set_xlim(left, right)
    edge = 0.03 * (right - left)
    spans = []
    for (phase, start), end in zip(phases.items(), [*list(phases.values())[1:], math.inf], strict=True):
        if left + edge < start < right - edge:
            axes.axvline(start, color=theme.soft, linewidth=1, linestyle=(0, (4, 3)), zorder=1)
        if min(right, end) - max(left, start) > 3 * edge:
            spans.append((phase, (max(left, start) + min(right, end)) / 2))
    style: dict[str, Any] = {"ha": "center", "va": "bottom", "fontsize": 8.5, "color": theme.soft}
    for phase, middle in spans if len(spans) > 1 else ():
        axes.text(middle, 1.02, phase, transform=axes.get_xaxis_transform(), **style)
