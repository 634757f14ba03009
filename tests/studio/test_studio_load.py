"""Many clients at once, and many stories: no job is lost, and nothing stays in memory."""

from __future__ import annotations

import gc
import json
import urllib.request
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from PIL import Image
from torch import Tensor

from tests.studio.conftest import PROMPT, wait

pytestmark = pytest.mark.slow
NUM_CLIENTS = 20


def ask(server: str, path: str, body: dict[str, Any] | None = None) -> Any:
    """Send a request as the page does, and return its answer."""
    data = None if body is None else json.dumps(body).encode()
    request = urllib.request.Request(f"{server}/api/{path}", data, {"content-type": "application/json"})
    with urllib.request.urlopen(request, timeout=120) as answer:
        return json.load(answer)


def make_and_follow(server: str, number: int) -> list[str]:
    """Queue a story and follow the events to its end; return what was heard of it."""
    after = ask(server, "project")["event"]
    job = ask(server, "stories", {"prompt": f"{PROMPT} {number}", "pages": 1, "seed": number})["id"]
    heard: list[str] = []
    with urllib.request.urlopen(f"{server}/api/events?after={after}", timeout=600) as stream:
        for line in stream:
            event = json.loads(line.removeprefix(b"data: ")) if line.startswith(b"data: ") else {}
            if event.get("type") == "job" and event["job"]["id"] == job:
                heard.append(event["job"]["status"])
                if heard[-1] not in ("queued", "running"):
                    return heard
    return heard


def test_twenty_clients_lose_no_job(server):
    before = len(ask(server, "project")["stories"])
    with ThreadPoolExecutor(NUM_CLIENTS) as clients:
        heard = list(clients.map(lambda number: make_and_follow(server, number), range(NUM_CLIENTS)))
    assert all(one[-1] == "done" and one[0] == "queued" and "running" in one for one in heard), heard
    titles = {story["title"] for story in ask(server, "project")["stories"]}
    assert {f"{PROMPT} {number}" for number in range(NUM_CLIENTS)} <= titles
    assert len(ask(server, "project")["stories"]) >= before + NUM_CLIENTS


def held() -> int:
    """Return how many tensors and pictures live in this process. (Its size depends on the tests that ran before.)"""
    gc.collect()
    return sum(isinstance(thing, (Tensor, Image.Image)) for thing in gc.get_objects())


@pytest.mark.parametrize("num_stories", [30, pytest.param(200, marks=pytest.mark.exhaustive)])
def test_nothing_is_kept_of_many_stories(client, num_stories):
    counts = []
    for start in range(0, num_stories, num_stories // 2):
        jobs = [
            client.post("/api/stories", json={"prompt": PROMPT, "pages": 1, "seed": seed}).json()["id"]
            for seed in range(start, start + num_stories // 2)
        ]
        assert wait(client, jobs[-1], 600)["status"] == "done"
        counts.append(held())
    assert len(client.get("/api/project").json()["stories"]) == num_stories
    assert abs(counts[1] - counts[0]) < 10, counts
