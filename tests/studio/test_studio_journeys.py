"""Browsers use the studio: Debian's Chromium and Firefox, the tiny model, and no request that leaves the machine."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from pathlib import Path
from typing import Any

import pytest

from tests.studio.conftest import in_chromium, new_page, type_into, until

pytestmark = pytest.mark.slow
ROOT = Path(__file__).parents[2]


def text(page: Any) -> str:
    return page.inner_text(".words")


def test_a_story_is_made(page):
    type_into(page, "[data-field=prompt]", "A bear and a balloon")
    type_into(page, "[data-field=pages]", "3")
    page.keyboard.press("Control+Enter")
    until(page, "document.querySelectorAll('.film .cell').length === 3")
    assert page.inner_text("h1") == "A bear and a balloon"
    assert page.locator(".shelf li").count() >= 2


def test_words_are_edited_and_undone_all_the_way(page):
    first = text(page)
    page.keyboard.press("e")
    page.keyboard.press("Control+a")
    page.keyboard.type("A fox sat on a moon.")
    page.keyboard.press("Control+s")
    until(page, "!document.querySelector('[data-do=undo]').disabled")
    assert text(page) == "A fox sat on a moon."
    page.keyboard.press("Control+z")
    until(page, "first => document.querySelector('.words').textContent === first", first)
    page.keyboard.press("Control+y")
    until(page, "document.querySelector('.words').textContent === 'A fox sat on a moon.'")
    page.reload()
    page.wait_for_selector(".leaf img")
    assert text(page) == "A fox sat on a moon."
    page.keyboard.press("Control+z")
    until(page, "document.querySelector('[data-do=undo]').disabled")
    assert text(page) == first
    page.keyboard.press("Control+y")
    until(page, "document.querySelector('.words').textContent === 'A fox sat on a moon.'")


def test_words_are_drawn_by_a_click(page):
    """What was typed outlives the loss of focus, and turning the page."""
    page.keyboard.press("ArrowRight")
    page.click(".words")
    page.keyboard.press("Control+a")
    page.keyboard.type("Two birds sang.")
    page.click("h1")
    page.keyboard.press("ArrowLeft")
    page.keyboard.press("ArrowRight")
    until(page, "document.querySelector('.words').textContent === 'Two birds sang.'")
    before = page.get_attribute(".frame img", "src")
    page.click("[data-do=drawWords]")
    until(
        page,
        "src => ![null, src].includes(document.querySelector('.leaf:not(.busy) img')?.getAttribute('src') ?? null)",
        before,
    )
    assert text(page) == "Two birds sang." and page.locator(".typed:visible").count() == 0


def test_candidates_are_compared_and_picked(page):
    first = page.get_attribute(".frame img", "src")
    page.keyboard.press("ArrowRight")
    until(page, "src => document.querySelector('.frame img').getAttribute('src') !== src", first)
    before = page.get_attribute(".frame img", "src")
    page.keyboard.press("r")
    page.wait_for_selector(".candidates li:nth-child(4)")
    assert page.get_attribute(".frame img", "src") == before
    page.keyboard.press("3")
    until(page, "src => !document.querySelector('.frame img').getAttribute('src').includes(src)", before)
    page.keyboard.press("c")
    until(page, "src => document.querySelector('.frame img').getAttribute('src') === src", before)
    page.keyboard.press("Escape")
    page.keyboard.press("1")
    until(page, "src => document.querySelector('.frame img').getAttribute('src') === src", before)


def test_a_lock_holds(page):
    page.keyboard.press("Shift+R")
    page.wait_for_selector(".badge")
    page.keyboard.press("r")
    page.wait_for_selector(".toast:not([hidden])")
    assert "locked" in page.inner_text(".toast")
    page.keyboard.press("Control+z")
    page.wait_for_selector(".badge", state="detached")


def test_another_code_is_taken(page):
    page.keyboard.press("k")
    page.wait_for_selector(".options li:nth-child(3)")
    chosen = page.get_attribute(".options li:nth-child(3) button", "data-arg")
    page.click(".options li:nth-child(3) button")
    until(page, "code => document.querySelector('.chip').textContent === code", chosen)


def test_a_story_branches_and_is_read(page):
    page.keyboard.press("ArrowRight")
    page.keyboard.press("b")
    page.wait_for_selector(".card.fork")
    type_into(page, ".card input >> nth=0", "Over the hills")
    page.keyboard.press("Tab")
    until(page, "document.querySelector('.fork .goes').textContent.includes('Over the hills')")
    page.click(".card button")
    page.wait_for_selector(".told")
    for _ in range(12):
        if page.locator(".reader [data-do=takePath]").count():
            break
        page.locator(".reader footer button").first.click()
        page.wait_for_timeout(60)
    assert page.inner_text(".reader footer").startswith(("The end", "A dead end"))
    page.keyboard.press("Escape")
    page.wait_for_selector(".reader", state="detached")
    page.keyboard.press("Escape")
    page.wait_for_selector(".film .cell:nth-of-type(4) .forks")


def test_a_string_is_imported(page):
    page.keyboard.press("x")
    plan = page.locator(".recipe textarea").input_value()
    title, stories = page.inner_text("h1"), page.locator(".shelf li").count()
    page.fill(".restore input", plan)
    page.click(".restore .plain")
    until(page, "count => document.querySelectorAll('.shelf li').length > count", stories)
    page.wait_for_selector(".leaf img")
    assert page.inner_text("h1") == title


def test_formats_are_downloaded(page):
    page.keyboard.press("x")
    until(page, "document.querySelector('.qr')?.naturalWidth > 0")
    if page.context.browser.browser_type.name == "firefox":
        pytest.skip("Firefox 140 reports no downloads to WebDriver")
    for link in page.locator(".formats a").all():
        with page.expect_download() as download:
            link.click()
        assert Path(download.value.path()).stat().st_size > 100


def test_all_by_keyboard(page):
    """Tab reaches every button that is there, and the dialog of keys lists what the table binds."""
    page.keyboard.press("?")
    page.wait_for_selector(".keys kbd")
    assert page.locator(".keys dt").count() > 25
    page.keyboard.press("Escape")
    page.wait_for_selector(".dialog", state="detached")
    seen = set()
    for _ in range(120):
        page.keyboard.press("Tab")
        seen.add(page.evaluate("document.activeElement.dataset.do ?? document.activeElement.className"))
    wanted = set(
        page.evaluate(
            "[...document.querySelectorAll('button:enabled')].filter(b => b.offsetParent).map(b => b.dataset.do)"
        )
    )
    assert wanted <= seen


@in_chromium  # Firefox 140 does not emulate themes.
@pytest.mark.parametrize(("width", "theme"), [(1400, "light"), (1000, "dark"), (390, "light"), (390, "dark")])
def test_no_violations_of_accessibility(page, width, theme):
    axe = pytest.importorskip("axe_playwright_python.sync_playwright", reason="axe-playwright-python is not installed")
    page.set_viewport_size({"width": width, "height": 844})
    page.emulate_media(color_scheme=theme, reduced_motion="reduce")
    assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")
    layers = (("", ".leaf"), ("?", ".keys"), ("x", ".recipe"), ("f", ".told"), ("m", ".map"), ("Shift+K", ".code-card"))
    for key, layer in layers:
        if key:
            page.keyboard.press(key)
        page.wait_for_selector(layer)
        found = axe.Axe().run(page).response["violations"]
        assert [(one["id"], [node["html"][:120] for node in one["nodes"]]) for one in found] == []
        page.keyboard.press("Escape")


def start(checkpoint: Path, project: Path, port: int, messages: Path) -> subprocess.Popen[bytes]:
    """Start the command, its messages in a file, and return its process once it answers."""
    command = [sys.executable, ROOT / "story_generative_model.py", "studio", "--ckpt", checkpoint]
    command += ["--port", str(port), "--project", project]
    with open(messages, "wb") as errors:
        running = subprocess.Popen(command, cwd=ROOT, env=os.environ | {"HF_HUB_OFFLINE": "1"}, stderr=errors)
    for _ in range(600):
        try:
            urllib.request.urlopen(f"http://127.0.0.1:{port}/api/project").close()
            return running
        except OSError:
            time.sleep(0.1)
    raise AssertionError("the studio did not start")


def test_a_killed_server_loses_nothing(browser, tiny_checkpoint, tmp_path):
    """And one that is stopped while a window is open says no more than that."""
    pytest.importorskip("fastapi", reason="the studio's packages are not installed")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    project, address, messages = tmp_path / "project", f"http://127.0.0.1:{port}", tmp_path / "messages.txt"
    running = start(tiny_checkpoint, project, port, messages)
    try:
        page = new_page(browser, address)
        page.goto(address)
        page.wait_for_selector(".leaf img")
        page.keyboard.press("e")
        page.keyboard.press("Control+a")
        page.keyboard.type("Kept for ever.")
        page.keyboard.press("Control+s")
        until(page, "!document.querySelector('[data-do=undo]').disabled")
        running.send_signal(signal.SIGKILL)
        running.wait()
        running = start(tiny_checkpoint, project, port, messages)
        until(page, "!document.querySelector('.offline')")
        assert text(page) == "Kept for ever."
        page.reload()
        page.wait_for_selector(".leaf img")
        assert text(page) == "Kept for ever."
        running.send_signal(signal.SIGINT)
        running.wait(60)
        assert messages.read_text().strip() in ("", "stopped")
        page.close()
    finally:
        running.kill()
        running.wait()
