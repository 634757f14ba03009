"""A studio on the tiny model: its application, and the same one behind a real server."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from modules.generation.pipeline import StoryPipeline

PROMPT = "Rusty the fox wants a kite"


@pytest.fixture
def client(tiny_pipeline: StoryPipeline, tmp_path: Path) -> Iterator[Any]:
    """A client of a studio whose project is empty."""
    pytest.importorskip("fastapi", reason="the studio's packages are not installed: requirements-studio.txt")
    from fastapi.testclient import TestClient

    from modules.studio.app import create_app
    from modules.studio.project import Project

    project = Project(tmp_path / "project")
    with TestClient(create_app(tiny_pipeline, project, sample=False)) as client:
        yield client
    project.close()


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
def story(client: Any, finish: Any) -> str:
    """The id of a story of three pages."""
    job = finish("stories", prompt=PROMPT, pages=3, seed=1)
    assert job["status"] == "done", job
    return job["result"]["story"]


@pytest.fixture(scope="module")
def server(tiny_pipeline: StoryPipeline, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The address of a studio behind uvicorn, with a story in it."""
    pytest.importorskip("fastapi", reason="the studio's packages are not installed: requirements-studio.txt")
    import uvicorn

    from modules.commands.studio import listen
    from modules.studio.app import create_app
    from modules.studio.project import Project

    project = Project(tmp_path_factory.mktemp("studio") / "project")
    listener = listen("127.0.0.1", 0)
    config = uvicorn.Config(create_app(tiny_pipeline, project), log_level="error", timeout_graceful_shutdown=1)
    running = uvicorn.Server(config)
    thread = threading.Thread(target=running.run, kwargs={"sockets": [listener]}, daemon=True)
    thread.start()
    yield f"http://127.0.0.1:{listener.getsockname()[1]}"
    running.should_exit = True
    thread.join(20)
    project.close()
