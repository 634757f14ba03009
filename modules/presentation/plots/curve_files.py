"""Training curves of a run, read from its TensorBoard files."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from modules.common.errors import UserError


@dataclass(frozen=True)
class Curve:
    """One scalar of a run: `values` (M,) at updates `steps` (M,), in order, all finite."""

    steps: np.ndarray
    values: np.ndarray


def read_curves(run: Path) -> dict[str, Curve]:
    """Read all scalars of a run folder (or of its `tensorboard` folder), by tag.

    Where a resumed run repeated an update, the last value counts.

    Raises:
        UserError: there is no such folder, or no TensorBoard file with scalars in it.
    """
    run = Path(run)
    folder = run / "tensorboard" if (run / "tensorboard").is_dir() else run
    if not folder.is_dir():
        raise UserError(f"the run {run} does not exist: give the folder that `train --output_dir` wrote")
    if not any(folder.glob("*tfevents*")):
        raise UserError(f"{folder} contains no TensorBoard files: give the folder that `train --output_dir` wrote")
    # The accumulator reads the files in the order they were started and drops the updates that a restart repeats.
    events = EventAccumulator(str(folder), size_guidance={"scalars": 0, "images": 1, "tensors": 1}).Reload()
    curves = {}
    for tag in events.Tags()["scalars"]:
        points = {event.step: event.value for event in events.Scalars(tag) if math.isfinite(event.value)}
        if points:
            steps = sorted(points)
            curves[tag] = Curve(np.array(steps), np.array([points[step] for step in steps]))
    if not curves:
        raise UserError(f"the TensorBoard files in {folder} contain no curves yet: train for longer")
    return curves


def phase_starts(curves: Mapping[str, Curve]) -> dict[str, int]:
    """Return the phases in order, each with its first update; a phase that starts to quantise later counts twice."""
    phases = {}
    for tag, curve in curves.items():
        phase, _, name = tag.rpartition("/")
        if phase and name == "loss":
            phases[phase] = int(curve.steps[0])
            quantised = curves.get(f"{phase}/prior_nll", curve)
            if quantised.steps[0] > curve.steps[0]:
                phases[f"{phase}, quantised"] = int(quantised.steps[0])
    return dict(sorted(phases.items(), key=lambda item: item[1]))
