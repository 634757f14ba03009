"""A local stand-in for the Hub's data sets, for the real clients: its API, and files by ranges."""

from __future__ import annotations

import json
import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import parse_qs, unquote, urlsplit

COMMIT = "0123456789" * 4
REFUSALS = {
    "a/gated": (403, "GatedRepo"),
    "a/gone": (404, "RepoNotFound"),
    "a/busy": (429, ""),
    "a/down": (503, ""),
    "a/private": (401, "RepoNotFound"),
}


class Hub(ThreadingHTTPServer):
    """Serves `root/owner/name/main/...` and `root/owner/name/refs/convert/parquet/...` as revisions of owner/name.

    `broken` maps the end of a file's path to the status with which it is refused; `asked` is the log of requests,
    `sent` the number of bytes of each answer.
    """

    daemon_threads = True

    def __init__(self, root: Path) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.root, self.broken, self.asked, self.sent = root, {}, [], []

    @property
    def endpoint(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"


class Handler(BaseHTTPRequestHandler):
    """The answers of the Hub that the clients need."""

    protocol_version = "HTTP/1.1"
    server: Hub

    def do_GET(self) -> None:
        path, query = urlsplit(self.path).path, urlsplit(self.path).query
        self.server.asked.append(f"{self.command} {unquote(path)}")
        api = re.fullmatch(r"/api/datasets/([^/]+/[^/]+)(?:/(revision|tree)/([^/]+)(?:/(.*))?)?", path)
        file = re.fullmatch(r"/datasets/([^/]+/[^/]+)/resolve/([^/]+)/(.*)", path)
        if not (api or file):
            self.answer(404)
            return
        repo = (api or file).group(1)
        root = self.server.root / repo
        if repo in REFUSALS or not root.is_dir():
            status, code = REFUSALS.get(repo, (401, "RepoNotFound"))
            self.answer(status, {"X-Error-Code": code} | ({"Retry-After": "300"} if status == 429 else {}))
        elif file:
            self.send_file(root / revision_folder(file.group(2)) / unquote(file.group(3)))
        else:
            kind, revision, folder = (unquote(part or "") for part in api.group(2, 3, 4))
            base = root / revision_folder(revision)
            self.describe(repo, base, kind, folder, "recursive=true" in query.lower())

    do_HEAD = do_GET

    def do_POST(self) -> None:
        """Answer a request for the entries of some paths."""
        path = re.fullmatch(r"/api/datasets/([^/]+/[^/]+)/paths-info/(.*)", urlsplit(self.path).path)
        names = parse_qs(self.rfile.read(int(self.headers.get("Content-Length", 0))).decode()).get("paths", [])
        if path is None:
            self.answer(404)
            return
        base = self.server.root / path.group(1) / revision_folder(path.group(2))
        entries = [entry(base, base / name) for name in names if (base / name).exists()]
        self.answer(200, {}, json.dumps(entries).encode())

    def describe(self, repo: str, base: Path, kind: str, folder: str, recursive: bool) -> None:
        if not base.is_dir():
            self.answer(404, {"X-Error-Code": "RevisionNotFound"})
        elif kind != "tree":
            self.answer(200, {}, json.dumps({"_id": "0", "id": repo, "sha": COMMIT, "siblings": []}).encode())
        elif not (base / folder).is_dir():
            self.answer(404, {"X-Error-Code": "EntryNotFound"})
        else:
            found = sorted((base / folder).rglob("*") if recursive else (base / folder).iterdir())
            self.answer(200, {}, json.dumps([entry(base, path) for path in found]).encode())

    def send_file(self, path: Path) -> None:
        broken = next((status for end, status in self.server.broken.items() if str(path).endswith(end)), None)
        if broken or not path.is_file():
            self.answer(broken or 404, {} if broken else {"X-Error-Code": "EntryNotFound"})
            return
        content, status, headers = (
            path.read_bytes(),
            200,
            {"X-Repo-Commit": COMMIT, "ETag": f'"{path.stat().st_size:040x}"'},
        )
        if wanted := re.fullmatch(r"bytes=(\d+)-(\d*)", self.headers.get("Range", "")):
            start, end = int(wanted.group(1)), min(int(wanted.group(2) or len(content)), len(content) - 1)
            headers["Content-Range"] = f"bytes {start}-{end}/{len(content)}"
            content, status = content[start : end + 1], 206
        self.answer(status, headers, content)

    def answer(self, status: int, headers: dict[str, str] | None = None, content: bytes = b"") -> None:
        self.send_response(status)
        for header, value in {**(headers or {}), "Content-Length": str(len(content))}.items():
            self.send_header(header, value)
        self.end_headers()
        if self.command == "GET":
            self.server.sent.append(len(content))
            self.wfile.write(content)

    def log_message(self, *_: object) -> None:
        pass


def revision_folder(revision: str) -> str:
    """Return the folder of a revision; the commit is that of the main branch."""
    return "main" if revision in ("", COMMIT) else unquote(revision)


def entry(base: Path, path: Path) -> dict[str, object]:
    """Return a file or folder as the Hub's API describes it."""
    described = {"type": "directory" if path.is_dir() else "file", "path": str(path.relative_to(base)), "oid": "0" * 40}
    return described if path.is_dir() else {**described, "size": path.stat().st_size}


@contextmanager
def serving(root: Path) -> Iterator[Hub]:
    with Hub(root) as hub:
        threading.Thread(target=hub.serve_forever, daemon=True).start()
        yield hub
        hub.shutdown()
