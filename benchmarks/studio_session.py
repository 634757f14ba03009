"""A studio on an empty project, and a browser to use it with."""

from __future__ import annotations

import shutil
import subprocess
import sys
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

from common import ROOT

from modules.commands.studio import listen
from modules.common.errors import UserError

PROMPT = "Mia the girl looks for her lost crown on the beach"


class Studio(NamedTuple):
    address: str  # http://...
    process_id: int


@contextmanager
def running_studio(checkpoint: str, project: Path) -> Iterator[Studio]:
    """Start the studio on an empty project, and yield it once its sample is finished."""
    with listen("127.0.0.1", 0) as free:
        port = free.getsockname()[1]
    command = [sys.executable, ROOT / "story_generative_model.py", "studio", "--ckpt", checkpoint, "--port", str(port)]
    process = subprocess.Popen([*command, "--project", project], stdout=subprocess.PIPE, text=True)
    try:
        assert process.stdout is not None
        if "studio is at" not in process.stdout.readline():
            raise UserError("the studio did not start: its message is above")
        studio = Studio(f"http://127.0.0.1:{port}", process.pid)
        urllib.request.urlopen(f"{studio.address}/api/project").close()
        yield studio
    finally:
        process.terminate()
        process.wait()


@contextmanager
def open_browser() -> Iterator[Any]:
    """Start the system's Chromium and yield it as a browser of Playwright.

    Raises:
        UserError: one of them is not installed.
    """
    try:
        from playwright.sync_api import sync_playwright
    except ImportError:
        raise UserError("Playwright is not installed: run pip install playwright") from None
    chromium = shutil.which("chromium") or shutil.which("chromium-browser")
    if chromium is None:
        raise UserError("Chromium is not installed: install the system's package")
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=chromium, args=["--no-sandbox"])
        yield browser
        browser.close()
