"""The command `studio`: what it refuses, events after a lost connection, and the pure JavaScript by node."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest

from modules.commands.studio import check_address
from modules.common.errors import UserError
from modules.studio.events import EventLog
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


@pytest.mark.skipif(shutil.which("node") is None, reason="node is not installed")
def test_the_reducers():
    done = subprocess.run(
        ["node", "--test", Path(__file__).parent / "reducers.test.mjs"], capture_output=True, text=True, timeout=60
    )
    assert done.returncode == 0, done.stdout[-3000:]
