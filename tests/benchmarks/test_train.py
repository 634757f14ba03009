"""`benchmarks/train.py` at tiny size: the real loop runs, and its updates are compared with their parts."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


@pytest.mark.slow
def test_updates_are_timed_beside_their_parts(tmp_path):
    report = tmp_path / "train.json"
    flags = ["--preset", "tiny", "--num_stories", "24", "--repeats", "6", "--warmups", "1", "--json", report]
    environment = os.environ | {"HF_HUB_OFFLINE": "1"}
    subprocess.run([sys.executable, ROOT / "benchmarks/train.py", *flags], cwd=ROOT, env=environment, check=True)
    found = json.loads(report.read_text())
    for state in ("continuous", "quantised"):
        assert found[state]["pages_a_second"]["median"] > 0
        assert {"storyboard", "text_decoder", "image_decoder"} <= found[state]["seconds_of_parts_alone"].keys()
