"""The recorder of the studio's animation: a session of the tiny model, from the first line to the last page."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from PIL import Image

from tests.support.browsers import needs_chromium

ROOT = Path(__file__).parents[2]


@pytest.mark.slow
@pytest.mark.exhaustive
def test_a_session_is_recorded(tiny_checkpoint, tmp_path):
    needs_chromium()
    file = tmp_path / "studio.webp"
    command = [sys.executable, ROOT / "benchmarks/record_studio.py", "--ckpt", tiny_checkpoint, "--output", file]
    subprocess.run([*command, "--quality", "5"], cwd=ROOT, env=os.environ | {"HF_HUB_OFFLINE": "1"}, check=True)
    with Image.open(file) as film:
        assert film.format == "WEBP" and film.n_frames > 20 and film.size == (1280, 800)
