"""What tests that start a browser need to be installed."""

from __future__ import annotations

import shutil

import pytest


def needs_chromium() -> None:
    """Skip the test where Playwright, the studio's server or Chromium is missing."""
    for name in ("playwright", "fastapi"):
        pytest.importorskip(name, reason=f"{name} is not installed")
    if shutil.which("chromium") is None and shutil.which("chromium-browser") is None:
        pytest.skip("Chromium is not installed")
