"""`benchmarks/gpu.sh`, rehearsed on the CPU at tiny size, and its Python parts."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from modules import StoryPipeline
from modules.common.errors import UserError
from modules.config import load_config
from modules.presets import PRESETS, TINY
from tests.support.benchmarks import load

gpu_report = load("gpu_report")
ROOT = Path(__file__).parents[2]


def test_learning_rates_grow_with_the_root_of_the_batch():
    base = PRESETS["storyworld"]
    assert gpu_report.scaled_config(base, 12) == base
    rates = [gpu_report.scaled_config(base, size).training.learning_rate for size in (48, 108, 1200)]
    assert rates == pytest.approx([2e-3, 3e-3, 3e-3])


def test_losses_of_a_phase_are_means_over_its_last_tenth():
    lines = [{"global_step": step, "phase": "joint", "step": step, "loss": float(step)} for step in range(40)]
    assert gpu_report.last_losses(lines) == {"updates": 40, "loss": (36 + 37 + 38 + 39) / 4}


def test_a_folder_without_a_run_is_reported(tmp_path):
    with pytest.raises(UserError, match="contains no checkpoint"):
        gpu_report.summarise_run(tmp_path)


@pytest.mark.slow
@pytest.mark.exhaustive
def test_the_kit_is_rehearsed_and_goes_on_from_its_weights(tmp_path):
    first, second = tmp_path / "first", tmp_path / "second"
    options = {"PYTHON": sys.executable, "PRESET": "tiny", "MINUTES": "0.1", "BATCH": "4"}
    options |= {"STORIES": "4", "DRAWN": "2", "OMP_NUM_THREADS": "1"}
    for out, start, full_size in ((first, "", "tiny"), (second, first / "weights", "")):
        command = ["bash", "benchmarks/gpu.sh"]
        environment = os.environ | options | {"OUT": str(out), "START": str(start), "FULL_SIZE": full_size}
        done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=600)
        assert done.returncode == 0, done.stdout[-2000:]
        assert "not graded" not in done.stdout and "not timed" not in done.stdout
        report = json.loads((out / "report.json").read_text())
        assert not full_size or report[full_size]["pages_a_second"] > 0
        assert report["run"]["updates"] == sum(phase["updates"] for phase in report["run"]["phases"].values())
        assert load_config(out / "weights" / "config.json").preset == TINY.preset
    assert list(report["run"]["phases"]) == ["illustration", "planning"]
    assert StoryPipeline.from_pretrained(second / "weights").config.training.batch_size == 4
