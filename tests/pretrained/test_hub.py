"""Whatever the Hub answers is told in one line; what it gave loads again without it.

A server on this machine stands in for it.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import ClassVar

import pytest
import torch
from huggingface_hub import constants
from transformers import GPT2LMHeadModel

from modules.common.errors import UserError
from modules.pretrained.source import PretrainedSource
from tests.support.hub_folders import write_gpt2

ROOT = Path(__file__).parents[2]
COMMIT = "0123456789" * 4


class StandIn(BaseHTTPRequestHandler):
    """The few answers of the Hub that matter here; `root` holds its repositories."""

    root: Path
    refusals: ClassVar = {
        "a/gated": (403, "GatedRepo"),
        "a/login": (401, "GatedRepo"),
        "a/down": (503, ""),
        "a/unknown": (401, "RepoNotFound"),
        "unknown": (401, "RepoNotFound"),
    }

    def do_HEAD(self) -> None:
        source, _, file = self.path.strip("/").partition("/resolve/main/")
        path, content = self.root / source / file, b""
        status, code = self.refusals.get(source, (404, "EntryNotFound"))
        if path.is_file():
            status, code, content = 200, "", path.read_bytes()
        self.send_response(status)
        headers = {
            "X-Error-Code": code,
            "X-Repo-Commit": COMMIT,
            "ETag": f'"{hash(content) & 0xFFFFFFFF:x}"',
            "Content-Length": str(len(content)),
        }
        for header, value in headers.items():
            self.send_header(header, value)
        self.end_headers()
        if self.command == "GET":
            self.wfile.write(content)

    do_GET = do_HEAD

    def log_message(self, *_: object) -> None:
        pass


# The libraries read HF_ENDPOINT when they are imported, and would wait between their five attempts at a Hub that is
# down.
FETCH = """
import json, sys, time
time.sleep = lambda seconds: None
from modules.pretrained.source import PretrainedSource
from modules.common.errors import UserError
said = {}
for source in sys.argv[1:]:
    part = PretrainedSource(source, "the part")
    try:
        part.find("config.json")
        said[source] = str(part.find_weights("model"))
    except UserError as error:
        said[source] = str(error)
print(json.dumps(said))
"""


def fetch(endpoint: str, home: Path, *sources: str) -> dict[str, str]:
    settings = {
        "HF_ENDPOINT": endpoint,
        "HF_HOME": str(home),
        "HF_HUB_OFFLINE": "0",
        "HF_HUB_DISABLE_XET": "1",
        "NO_PROXY": "127.0.0.1",
    }
    environment = {
        name: value for name, value in os.environ.items() if not name.startswith(("HF_", "HUGGING"))
    } | settings
    command = [sys.executable, "-c", FETCH, *sources]
    result = subprocess.run(
        command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=120, check=False
    )
    assert result.returncode == 0, result.stderr
    return json.loads(result.stdout)


@pytest.fixture(scope="module")
def gpt2(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_gpt2(tmp_path_factory.mktemp("hub") / "gpt2")


@pytest.fixture(scope="module")
def fetched(gpt2: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[dict[str, str], Path]]:
    """What was said of each id, with a Hub and then with none, and the cache that it left."""
    root, home = tmp_path_factory.mktemp("server"), tmp_path_factory.mktemp("home")
    for name in ("gpt2", "pickled", "config-only"):
        shutil.copytree(gpt2, root / "tiny" / name)
    (root / "tiny" / "pickled" / "model.safetensors").rename(root / "tiny" / "pickled" / "pytorch_model.bin")
    (root / "tiny" / "config-only" / "model.safetensors").unlink()
    handler = type("Handler", (StandIn,), {"root": root})
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        endpoint = f"http://127.0.0.1:{server.server_port}"
        names = (
            "tiny/gpt2",
            "tiny/pickled",
            "tiny/config-only",
            "a/gated",
            "a/login",
            "a/unknown",
            "a/down",
            "unknown",
        )
        said = fetch(endpoint, home, *names)
        server.shutdown()
    gone = fetch(endpoint, home, "tiny/gpt2", "tiny/other")
    yield said | {f"{name} without a network": text for name, text in gone.items()}, home / "hub"


@pytest.mark.parametrize(
    ("source", "said"),
    [
        ("tiny/gpt2", r"model\.safetensors"),
        ("tiny/gpt2 without a network", r"model\.safetensors"),
        ("tiny/pickled", r"the part: tiny/pickled has its weights only in pytorch_model\.bin, a pickle"),
        ("tiny/config-only", r"the part: tiny/config-only on the Hub has no model\.safetensors"),
        ("a/gated", r"the part: a/gated is gated: accept its terms at http\S*/a/gated, log in"),
        ("a/login", "a/login is gated"),
        ("a/unknown", "the part: a/unknown is neither a local folder nor a public model on the Hub"),
        ("unknown", "unknown is neither"),
        ("a/down", "the part: the Hub answers 503 for a/down: try again later"),
        ("tiny/other without a network", "the part: the Hub cannot be reached and tiny/other is not in the cache"),
    ],
)
def test_what_the_hub_answers_is_told_in_one_line(source, said, fetched):
    assert re.search(said, fetched[0][source]) and "\n" not in fetched[0][source], fetched[0][source]


def test_what_was_fetched_loads_offline_and_nothing_else_does(fetched, gpt2, monkeypatch):
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(fetched[1]))
    weights = PretrainedSource("tiny/gpt2", "the part", offline=True).load(GPT2LMHeadModel).state_dict()
    assert all(
        torch.equal(value, weights[name]) for name, value in GPT2LMHeadModel.from_pretrained(gpt2).state_dict().items()
    )
    for source, file in (
        ("tiny/other", "config.json"),
        ("tiny/config-only", "model.safetensors"),
        ("gpt2-xl", "config.json"),
    ):
        with pytest.raises(UserError, match=f"the part: {file} of {source} is not in the cache and offline mode is on"):
            PretrainedSource(source, "the part", offline=True).load(GPT2LMHeadModel)
