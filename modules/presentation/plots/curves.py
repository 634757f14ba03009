"""Training curves of a run, read from its TensorBoard files: one panel a group, a smooth line over the raw one, phases
marked.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import matplotlib.style
import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, LogLocator, MaxNLocator
from PIL import Image
from scipy.ndimage import gaussian_filter1d
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from modules.common.errors import UserError

COLUMNS = 3
SMOOTHED_FROM = 24  # Points. A line of fewer is drawn as it is, each point marked.
LOG_RATIO = 20  # From this ratio of largest to smallest value on, a panel's axis is logarithmic.


@dataclass(frozen=True)
class Theme:
    """Colours of a page: what it is drawn on, with, and in; the palette keeps apart under colour blindness (Okabe and
    Ito).
    """

    paper: str
    ink: str
    soft: str
    line: str
    palette: tuple[str, ...]


LIGHT = Theme(
    "#fffaf0",
    "#35291d",
    "#7d6a54",
    "#e5d8c1",
    ("#0072b2", "#d55e00", "#009e73", "#a8517f", "#b58900", "#4aa3df", "#6b5744", "#7a9a01"),
)
DARK = Theme(
    "#262019",
    "#f1e6d5",
    "#ac9a83",
    "#41372c",
    ("#5ab4f0", "#ff8a4c", "#35c79a", "#e39ac2", "#e6c33c", "#b3a1f0", "#c9b6a0", "#b5d36b"),
)


@dataclass(frozen=True)
class Curve:
    """One scalar of a run: `values` (M,) at updates `steps` (M,), in order, all finite."""

    steps: np.ndarray
    values: np.ndarray


@dataclass(frozen=True)
class Panel:
    """Curves that share an axis, by the name each has in the legend; `exact` ones are drawn as they are, on a linear
    axis.
    """

    title: str
    unit: str = ""
    exact: bool = False
    curves: dict[str, Curve] = field(default_factory=dict)


# What is no phase's own loss: the tags of each panel, whose group names the line. The first that matches counts.
PATTERNS = {
    r"held_out/text_nll_(own|swapped|null)": Panel("Held out: text", "nats a token"),
    r"held_out/diffusion_loss_(own|swapped|null)": Panel(
        "Held out: pictures", "squared error of the velocity, or of the noise"
    ),
    r"held_out/(prior_nll)": Panel("Held out: plan", "nats a code"),
    r"held_out/(.+_gap)": Panel("Held out: what own codes are worth", "difference in loss"),
    r"autoencoder/(psnr)_db": Panel("Held out: autoencoder", "dB"),
    r"codebook/(perplexity)": Panel("Codebook: perplexity", "codes"),
    r"codebook/(used)": Panel("Codebook: share in use"),
    r"gradient_norm/(.+)": Panel("Gradient norms", "before clipping"),
    r"(learning_rate)": Panel("Learning rate", exact=True),
    r"speed/(pictures)_per_second": Panel("Speed: pictures", "a second"),
    r"speed/(tokens)_per_second": Panel("Speed: tokens", "a second"),
    r"(skipped_updates)": Panel("Updates left out", "since the start", exact=True),
}


def read_curves(run: Path) -> dict[str, Curve]:
    """All scalars of a run's folder (or of its `tensorboard` folder) by tag; of updates that a resumed run made again,
    the last.

    Raises:
        UserError: there is no such folder, or no TensorBoard file with scalars in it.
    """
    run = Path(run)
    folder = run / "tensorboard" if (run / "tensorboard").is_dir() else run
    if not folder.is_dir():
        raise UserError(f"the run {run} does not exist: give the folder that `train --output_dir` wrote")
    if not any(folder.glob("*tfevents*")):
        raise UserError(f"{folder} holds no TensorBoard files: give the folder that `train --output_dir` wrote")
    # The accumulator reads the files in the order they were begun, and drops what a restart says will be made again.
    events = EventAccumulator(str(folder), size_guidance={"scalars": 0, "images": 1, "tensors": 1}).Reload()
    curves = {}
    for tag in events.Tags()["scalars"]:
        points = {event.step: event.value for event in events.Scalars(tag) if math.isfinite(event.value)}
        if points:
            steps = sorted(points)
            curves[tag] = Curve(np.array(steps), np.array([points[step] for step in steps]))
    if not curves:
        raise UserError(f"the TensorBoard files in {folder} hold no curves yet: train for longer")
    return curves


def stage_starts(curves: Mapping[str, Curve]) -> dict[str, int]:
    """The phases in order, each with its first update; a phase that quantises from some update on is two stages."""
    stages = {}
    for tag, curve in curves.items():
        phase, _, name = tag.rpartition("/")
        if phase and name == "loss":
            stages[phase] = int(curve.steps[0])
            quantised = curves.get(f"{phase}/prior_nll", curve)
            if quantised.steps[0] > curve.steps[0]:
                stages[f"{phase}, quantised"] = int(quantised.steps[0])
    return dict(sorted(stages.items(), key=lambda item: item[1]))


def group_curves(curves: Mapping[str, Curve]) -> list[Panel]:
    """The panels in the order they are drawn: losses phase by phase, then `PATTERNS`, then what neither knows, by its
    prefix.
    """
    panels = {stage: Panel(f"Losses: {stage} phase") for stage in stage_starts(curves)}
    panels |= {pattern: replace(panel, curves={}) for pattern, panel in PATTERNS.items()}
    for tag, curve in curves.items():
        prefix, _, name = tag.rpartition("/")
        known = ((pattern, match[1]) for pattern in PATTERNS if (match := re.fullmatch(pattern, tag)))
        key, name = next(known, (prefix, name))
        # A curve that is zero throughout (no picture was seen, no update left out) says nothing that its absence does
        # not.
        if curve.values.any():
            panels.setdefault(key, Panel(key or "Other")).curves[name.replace("_", " ")] = curve
    return [panel for panel in panels.values() if panel.curves]


def smooth(values: np.ndarray) -> np.ndarray:
    """Values (M,) under a Gaussian window of about a thirtieth of their number: centred, so that the line lags behind
    nothing.
    """
    return gaussian_filter1d(values, sigma=max(1.0, len(values) / 30), mode="nearest")


def draw_curves(curves: Mapping[str, Curve], theme: Theme = LIGHT) -> Image.Image:
    """Draw all panels of a run as one picture (RGB). matplotlib's own settings are left as they were."""
    panels, stages = group_curves(curves), stage_starts(curves)
    colors = _assign_colors(panels, theme.palette)
    columns = min(COLUMNS, len(panels))
    rows = math.ceil(len(panels) / columns)
    with matplotlib.style.context(["default", _settings(theme)]):
        figure = Figure(figsize=(5.2 * columns, 3.7 * rows), dpi=120, layout="constrained")
        figure.get_layout_engine().set(w_pad=0.14, h_pad=0.14)
        for number, panel in enumerate(panels, 1):
            _draw_panel(figure.add_subplot(rows, columns, number), panel, stages, colors, theme)
        canvas = FigureCanvasAgg(figure)
        canvas.draw()
        return Image.fromarray(np.asarray(canvas.buffer_rgba())).convert("RGB")


def _assign_colors(panels: Sequence[Panel], palette: Sequence[str]) -> dict[str, str]:
    """A colour for each name: the same in all panels, and within a panel no two alike while the palette lasts."""
    colors: dict[str, str] = {}
    for name in (name for panel in panels for name in panel.curves):
        beside = {other for panel in panels if name in panel.curves for other in panel.curves if other != name}
        taken = {colors[other] for other in beside & colors.keys()}
        colors.setdefault(
            name, next((color for color in palette if color not in taken), palette[len(colors) % len(palette)])
        )
    return colors


def _settings(theme: Theme) -> dict[str, object]:
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


def _draw_panel(axes: Axes, panel: Panel, stages: Mapping[str, int], colors: Mapping[str, str], theme: Theme) -> None:
    axes.set_title(panel.title)
    for name, curve in panel.curves.items():
        _draw_curve(axes, name, curve, [] if panel.exact else list(stages.values()), colors[name])
    _set_scale(axes, panel)
    _mark_stages(axes, stages, theme)
    axes.set_xlabel("update")
    axes.set_ylabel(panel.unit)
    axes.xaxis.set_major_locator(MaxNLocator(6, integer=True))
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,.0f}"))
    if len(panel.curves) > 1:
        columns = 3 if max(map(len, panel.curves)) <= 18 else 2
        axes.legend(
            loc="upper center",
            bbox_to_anchor=(0.5, -0.2),
            ncols=columns,
            fontsize=9,
            handlelength=1.2,
            columnspacing=1.4,
        )


def _draw_curve(axes: Axes, name: str, curve: Curve, starts: Sequence[int], color: str) -> None:
    """Many points: each stage's part smoothed by itself, as losses jump between stages.

    Few: one line through all of them.
    """
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
    elif low >= 0 and panel.unit != "dB":  # Decibels have no zero to start from.
        axes.set_ylim(0, 1.08 * high)


def _mark_stages(axes: Axes, stages: Mapping[str, int], theme: Theme) -> None:
    """A line where a stage begins, and the stages' names, where the panel reaches over more than one."""
    left, right = axes.get_xlim()
    axes.set_xlim(left, right)
    edge = 0.03 * (right - left)
    spans = []
    for (stage, start), end in zip(stages.items(), [*list(stages.values())[1:], math.inf], strict=True):
        if left + edge < start < right - edge:
            axes.axvline(start, color=theme.soft, linewidth=1, linestyle=(0, (4, 3)), zorder=1)
        if min(right, end) - max(left, start) > 3 * edge:
            spans.append((stage, (max(left, start) + min(right, end)) / 2))
    for stage, middle in spans if len(spans) > 1 else ():
        axes.text(
            middle,
            1.02,
            stage,
            transform=axes.get_xaxis_transform(),
            ha="center",
            va="bottom",
            fontsize=8.5,
            color=theme.soft,
        )
