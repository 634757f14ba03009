"""A branching book in Chromium, read with the keyboard alone, from its file."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from modules.generation.pipeline import StoryPipeline
from modules.generation.settings import GenerationSettings
from modules.presentation.story.branching import write_branches
from modules.presentation.text import clean
from modules.steering.branches import BranchedStory, branch
from modules.steering.planned_story import tell
from tests.studio.conftest import browser, until  # noqa: F401

# Not in Firefox: there Playwright evaluates by `eval`, which the book's policy of content forbids.
pytestmark = [pytest.mark.slow, pytest.mark.parametrize("browser", ["chromium"], indirect=True)]
SHOWN = """
    [...document.querySelectorAll("section")].filter((one) => getComputedStyle(one).display !== "none")
    .map((one) => one.id).join()
""".strip()


@pytest.fixture(scope="module")
def branched(tiny_pipeline: StoryPipeline) -> BranchedStory:
    settings = GenerationSettings(seed=1, num_inference_steps=2, temperature=1.0)
    return branch(tiny_pipeline, tell(tiny_pipeline, "Rusty the fox wants a kite", 4, settings), 1, 2, depth=2)


@pytest.fixture
def book(browser: Any, branched: BranchedStory, tmp_path: Path) -> Iterator[Any]:  # noqa: F811
    """The open book. Fails on errors and on any request but for the file itself."""
    file = write_branches(tmp_path, branched)[0]
    opened, problems = browser.new_page(), list[str]()
    opened.on("pageerror", lambda error: problems.append(str(error)))
    opened.on("request", lambda one: None if one.url.startswith(("file:", "data:")) else problems.append(one.url))
    opened.goto(file.as_uri())
    yield opened
    opened.close()
    assert problems == []


def press(book: Any, key: str, page: str) -> None:
    """Press a key and wait until the page, and it alone, is shown and has the focus."""
    book.keyboard.press(key)
    until(book, f"page => {SHOWN} === page && document.activeElement.id === page", page)


def test_every_ending_is_reached_and_left_by_keys(book, branched):
    press(book, "Home", "start")
    ends, unread = set(), [(name,) for name in branched.start]
    while unread:
        path = unread.pop()
        page = branched.pages[path[-1]]
        unread += [(*path, name) for name in page.next]
        if page.next:
            continue
        press(book, "Home", "start")
        before = branched.start
        for name in path:
            press(book, str(before.index(name) + 1) if len(before) > 1 else "ArrowRight", f"page-{name}")
            told = book.inner_text(f"#page-{name} .story")
            assert " ".join(told.split()) == " ".join(clean(branched.pages[name].text).split())
            before = branched.pages[name].next
        ends.add(path[-1])
        for name in reversed(path[:-1]):
            press(book, "ArrowLeft", f"page-{name}")
    assert ends == set(branched.endings) and len(ends) == 4


def test_pages_turned_fast_are_gone_back_to(book, branched):
    path = [branched.start[0]]
    while following := branched.pages[path[-1]].next:
        path.append(following[0])
    keys = ["1" if len(branched.pages[name].next) > 1 else "ArrowRight" for name in path[:-1]]
    press_all = "keys => keys.forEach((key) => dispatchEvent(new KeyboardEvent('keydown', {key})))"
    press(book, "ArrowRight", f"page-{path[0]}")
    book.evaluate(press_all, keys)
    until(book, f"page => {SHOWN} === page && document.activeElement.id === page", f"page-{path[-1]}")
    for name in reversed(path[:-1]):
        press(book, "ArrowLeft", f"page-{name}")
    assert book.evaluate("visited") == ["#start", f"#page-{path[0]}"]


def test_choices_are_reached_by_tab_and_taken_by_enter(book, branched):
    press(book, "Home", "start")
    press(book, "PageDown", f"page-{branched.start[0]}")
    book.keyboard.press("Tab")
    book.keyboard.press("Tab")
    second = branched.pages[branched.start[0]].next[1]
    assert book.evaluate("document.activeElement.getAttribute('href')") == f"#page-{second}"
    press(book, "Enter", f"page-{second}")
