"""`benchmarks/studio.py`: seconds from the browser, megabytes of the server."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.browsers import needs_chromium

ROOT = Path(__file__).parents[2]


@pytest.mark.slow
def test_seconds_and_memory_are_reported(tiny_checkpoint, tmp_path):
    needs_chromium()
    report = tmp_path / "studio.json"
    flags = ["--repeats", "1", "--num_pages", "2", "--num_stories", "2", "--json", report]
    command = [sys.executable, ROOT / "benchmarks/studio.py", "--ckpt", tiny_checkpoint, *flags]
    subprocess.run(command, cwd=ROOT, env=os.environ | {"HF_HUB_OFFLINE": "1"}, check=True)
    found = json.loads(report.read_text())
    seconds = {name: values[0] for name, values in found["seconds"].items()}
    assert 0 < seconds["words"] <= seconds["book"] and seconds["preview"] <= seconds["book"] and seconds["sample"] > 0
    assert list(found["memory_mib"]) == ["0", "2"] and min(found["memory_mib"].values()) > 100
