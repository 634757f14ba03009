"""The command `studio`: what it refuses, events after a lost connection, and the pure JavaScript by node."""

from __future__ import annotations

import asyncio
import shutil
import subprocess
from pathlib import Path

import pytest

from modules.commands.studio import check_address
from modules.common.errors import UserError
from modules.studio.events import EventLog
from modules.studio.jobs import Pace
from modules.studio.project import Project


def test_other_machines_need_a_token():
    check_address("127.0.0.1", None)
    check_address("::1", None)
    check_address("0.0.0.0", "longenough")
    for host, token in (
        ("0.0.0.0", None),
        ("example.org", None),
        ("127.0.0.1", "short"),
        ("127.0.0.1", "has spaces in"),
    ):
        with pytest.raises(UserError):
            check_address(host, token)


def test_a_folder_of_something_else_is_no_project(tmp_path):
    (tmp_path / "thesis.txt").write_text("mine")
    with pytest.raises(UserError, match="no project of the studio"):
        Project(tmp_path)
    (tmp_path / "thesis.txt").rename(tmp_path / "states.jsonl")
    with pytest.raises(UserError, match="line 1 is damaged"):
        (tmp_path / "states.jsonl").write_text("mine\n")
        Project(tmp_path)


def test_events_are_resumed_after_the_last_one_seen():
    log = EventLog()
    log.add("one")
    seen = log.last_id
    log.add("two")
    assert [text for _, text in log.since(seen)[0]] == ['{"type":"two"}'] and log.since(seen)[1]
    assert log.since("other-1") == ([], False)
    assert log.since(None) == ([], True)


def test_streams_end_when_the_server_stops():
    async def listen() -> list[str]:
        log = EventLog()
        stream = log.stream(None)
        heard = [await anext(stream)]
        log.add("one")
        heard.append(await anext(stream))
        asyncio.get_running_loop().call_later(0.01, log.close)
        return heard + [text async for text in stream]

    heard = asyncio.run(asyncio.wait_for(listen(), 10))
    assert len(heard) == 2 and '{"type":"one"}' in heard[1]


def test_time_left_does_not_count_the_first_step(monkeypatch):
    now = [0.0]
    monkeypatch.setattr("modules.studio.jobs.time.monotonic", lambda: now[0])
    pace = Pace()
    pace.begin()
    assert pace.seconds(10) is None
    for is_first, took in ((True, 100.0), (False, 2.0)):
        now[0] += took
        pace.step(4.0, is_first)
    assert pace.seconds(10) == 5.0


def test_modules_of_the_page_are_short():
    files = list((Path(__file__).parents[2] / "modules" / "studio" / "static").glob("*.js"))
    lengths = {file.name: len(file.read_text().splitlines()) for file in files}
    widths = {file.name: max(map(len, file.read_text().splitlines())) for file in files}
    assert files and max(lengths.values()) < 300 and max(widths.values()) <= 120, (lengths, widths)


@pytest.mark.skipif(shutil.which("node") is None, reason="node is not installed")
def test_the_reducers():
    done = subprocess.run(
        ["node", "--test", Path(__file__).parent / "reducers.test.mjs"], capture_output=True, text=True, timeout=60
    )
    assert done.returncode == 0, done.stdout[-3000:]
