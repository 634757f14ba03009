"""A studio on the tiny model: its application, and the same one behind a real server."""

from __future__ import annotations

import shutil
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from modules.generation.pipeline import StoryPipeline
from modules.storyworld import StoryWorld

SHIM = Path(__file__).parents[1] / "support" / "firefox_bidi.py"  # Firefox, as Playwright expects it.
GONE = "The connection to"  # Begins what Firefox says of events that a reload ended.
PROMPT = "Rusty the fox wants a kite"
CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")
FIREFOX = shutil.which("firefox-esr") or shutil.which("firefox")

in_chromium = pytest.mark.parametrize("browser", ["chromium"], indirect=True)  # Not in Firefox too.


@contextmanager
def serving(pipeline: StoryPipeline, folder: Path) -> Iterator[Any]:
    """A client of a studio with this project."""
    pytest.importorskip("fastapi", reason="the studio's packages are not installed: requirements-studio.txt")
    from fastapi.testclient import TestClient

    from modules.studio.app import create_app
    from modules.studio.project import Project

    project = Project(folder)
    with TestClient(create_app(pipeline, project, sample=False), "http://localhost") as client:
        yield client
    project.close()


@pytest.fixture(scope="module")
def told(tiny_pipeline: StoryPipeline, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A project with a story of three pages, to be copied."""
    folder = tmp_path_factory.mktemp("told") / "project"
    with serving(tiny_pipeline, folder) as client:
        answer = client.post("/api/stories", json={"prompt": PROMPT, "pages": 3, "seed": 1})
        assert wait(client, answer.json()["id"])["status"] == "done"
    return folder


@pytest.fixture
def client(request: pytest.FixtureRequest, tiny_pipeline: StoryPipeline, tmp_path: Path) -> Iterator[Any]:
    """A client of a studio whose project is empty, or has the `story` that a test asks for."""
    if "story" in request.fixturenames:
        shutil.copytree(request.getfixturevalue("told"), tmp_path / "project")
    with serving(tiny_pipeline, tmp_path / "project") as client:
        yield client


@pytest.fixture
def finish(client: Any) -> Callable[..., dict[str, Any]]:
    """Sends a request and returns its job once it has ended."""

    def finish(path: str, **body: Any) -> dict[str, Any]:
        answer = client.post(f"/api/{path}", json=body)
        assert answer.status_code == 200, answer.text
        return wait(client, answer.json()["id"])

    return finish


def wait(client: Any, job: str, seconds: float = 60) -> dict[str, Any]:
    """Return a job once it has ended."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        found = next(one for one in client.get("/api/project").json()["jobs"] if one["id"] == job)
        if found["status"] not in ("queued", "running"):
            return found
        time.sleep(0.02)
    raise AssertionError(f"{job} did not end")


@pytest.fixture
def story(client: Any) -> str:
    """The id of a story of three pages."""
    (story,) = client.get("/api/project").json()["stories"]
    return story["id"]


@pytest.fixture(scope="module")
def server(tiny_pipeline: StoryPipeline, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The address of a studio behind uvicorn, with a story in it, and with the analysis of its codes."""
    pytest.importorskip("fastapi", reason="the studio's packages are not installed: requirements-studio.txt")
    import uvicorn

    from modules.commands.studio import listen
    from modules.presentation.codebook.page import analyze
    from modules.studio.app import create_app
    from modules.studio.cards import CodeReports
    from modules.studio.project import Project

    folder = tmp_path_factory.mktemp("studio")
    train, held_out = (StoryWorld(6, split=part, image_size=32) for part in ("train", "val"))
    analyze(tiny_pipeline, train, held_out, 6, 0, folder / "report")
    project, reports = Project(folder / "project"), CodeReports(folder / "report", tiny_pipeline, "weights")
    listener, app = listen("127.0.0.1", 0), create_app(tiny_pipeline, project, reports=reports)
    config = uvicorn.Config(app, log_level="error", timeout_graceful_shutdown=1)
    running = uvicorn.Server(config)
    thread = threading.Thread(target=running.run, kwargs={"sockets": [listener]}, daemon=True)
    thread.start()
    while not running.started:
        time.sleep(0.02)
    yield f"http://127.0.0.1:{listener.getsockname()[1]}"
    running.should_exit = True
    thread.join(20)
    project.close()


@pytest.fixture(scope="module", params=["chromium", "firefox"])
def browser(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    """Debian's Chromium, then Debian's Firefox."""
    if (CHROMIUM if request.param == "chromium" else FIREFOX) is None:
        pytest.skip(f"{request.param} is not installed")
    playwright = pytest.importorskip("playwright.sync_api", reason="Playwright is not installed")
    with playwright.sync_playwright() as running:
        if request.param == "chromium":
            launched = running.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        else:
            program = tmp_path_factory.mktemp("firefox") / "firefox"
            program.write_text(f'#!/bin/sh\nexec "{sys.executable}" "{SHIM}" "{FIREFOX}" "$@"\n')
            program.chmod(0o755)
            launched = running.firefox.launch(executable_path=program, channel="moz-firefox", timeout=120_000)
        yield launched
        launched.close()


@pytest.fixture
def page(browser: Any, server: str) -> Iterator[Any]:
    """The studio with its sample open. Fails on errors of the page and on requests to any other machine."""
    opened = new_page(browser, server)
    problems: list[str] = []
    opened.on("pageerror", lambda error: None if str(error).startswith(GONE) else problems.append(str(error)))
    opened.on(
        "request", lambda request: None if request.url.startswith((server, "blob:")) else problems.append(request.url)
    )
    opened.goto(server)
    opened.wait_for_selector(".leaf img")
    yield opened
    opened.close()
    assert problems == []


def new_page(browser: Any, server: str) -> Any:
    """Return an empty window. In Firefox tests look into pages by eval, which the studio's own policy forbids."""
    opened = browser.new_page(viewport={"width": 1400, "height": 900})
    opened.set_default_timeout(60_000)
    if browser.browser_type.name == "firefox":
        opened.route(f"{server}/", _allow_eval)
    return opened


def _allow_eval(route: Any) -> None:
    answer = route.fetch()
    policy = answer.headers["content-security-policy"].replace("default-src", "default-src 'unsafe-eval'")
    route.fulfill(response=answer, headers=answer.headers | {"content-security-policy": policy})


def type_into(page: Any, selector: str, text: str) -> None:
    """Put a text in the place of what a field holds, by keys: to Firefox, Playwright's `fill` is no change."""
    page.click(selector)
    page.keyboard.press("Control+a")
    page.keyboard.type(text)


def until(page: Any, expression: str, argument: Any = None, seconds: float = 60) -> None:
    """Wait until an expression, or a function of `argument`, is true. Playwright's own way needs unsafe-eval."""
    end = time.monotonic() + seconds
    while not page.evaluate(expression, argument):
        assert time.monotonic() < end, f"never true: {expression}"
        page.wait_for_timeout(30)
