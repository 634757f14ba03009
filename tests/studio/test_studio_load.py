"""Many clients at once, and many stories: no job is lost, and memory stays as it is."""

from __future__ import annotations

import json
import resource
import urllib.request
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from tests.studio.conftest import PROMPT, wait

pytestmark = pytest.mark.slow
NUM_CLIENTS, NUM_STORIES = 20, 200
GROWTH = 24 * 2**20  # Bytes: what the last 100 stories may add.


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


def resident() -> int:
    """Return the bytes that this process has in memory."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize()


@pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="memory is read from Linux's /proc")
def test_memory_stays_flat_over_many_stories(client):
    sizes = []
    for start in range(0, NUM_STORIES, 50):
        jobs = [
            client.post("/api/stories", json={"prompt": PROMPT, "pages": 1, "seed": seed}).json()["id"]
            for seed in range(start, start + 50)
        ]
        assert wait(client, jobs[-1], 600)["status"] == "done"
        sizes.append(resident())
    assert len(client.get("/api/project").json()["stories"]) == NUM_STORIES
    assert sizes[-1] - sizes[1] < GROWTH, [size // 2**20 for size in sizes]
