"""Files of a data set on the Hub, through its own client: listed, read in place, or fetched into the cache."""

from __future__ import annotations

import fnmatch
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import IO, Any, TypeVar

from huggingface_hub import HfApi, HfFileSystem, constants, hf_hub_download, is_offline_mode, set_client_factory
from huggingface_hub.errors import (
    EntryNotFoundError,
    GatedRepoError,
    HfHubHTTPError,
    HFValidationError,
    OfflineModeIsEnabled,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)
from huggingface_hub.utils import logging
from huggingface_hub.utils._http import default_client_factory

from modules.common.errors import UserError
from modules.data.records import RecordError
from modules.downloads.readers import line_rows, parquet_rows
from modules.downloads.record import Row

FIRST_ANSWER = 5.0  # Seconds: who has just typed the command is told within ten what is wrong.
PATIENCE = {
    "start": 5.0,
    "later": 40.0,
}  # Seconds of failures in a row; the client's own attempts come at 1, 3, 7, 15, 23.
TRANSPORTS = ("httpx", "httpx2")  # What the client speaks through, by its version.
T = TypeVar("T")


class OutOfPatience(ConnectionError):
    """The Hub went on failing; the client's own attempts are cut short by this."""


class Patience:
    """Hooks on every request: ends the client's polite attempts once failures have lasted long enough."""

    def __init__(self) -> None:
        self.limit, self.since, self.status = PATIENCE["start"], None, None

    def client(self) -> Any:
        client = default_client_factory()
        hooks = client.event_hooks
        client.event_hooks = {"request": [*hooks["request"], self.ask], "response": [*hooks["response"], self.hear]}
        return client

    def ask(self, request: Any) -> None:
        self.since = self.since or time.monotonic()
        if time.monotonic() - self.since > self.limit:
            since, self.since = self.since, None
            raise OutOfPatience(f"failing for {time.monotonic() - since:.0f} s") from None

    def hear(self, response: Any) -> None:
        self.status = response.status_code
        wait = response.headers.get("Retry-After", "")
        if response.status_code < 400 or response.status_code not in (408, 429, 500, 502, 503, 504):
            self.since = self.status = None
        elif wait.isdecimal() and int(wait) > self.limit:
            raise OutOfPatience(f"asks to wait {wait} s")


@cache
def _patience() -> Patience:
    patience = Patience()
    set_client_factory(patience.client)
    logging.set_verbosity_error()  # What goes wrong is told once, by us.
    return patience


class HubDataset:
    """The files of one data set on the Hub at one revision. Every method raises UserError in one sentence."""

    def __init__(self, repo: str, revision: str | None = None) -> None:
        self.repo, self.revision = repo, revision
        self._patience = _patience()
        self._files = HfFileSystem(block_size=8 << 20)

    def check(self) -> None:
        """Ask whether the data set is there and open to us, in one short request."""
        with self._told():
            HfApi().dataset_info(self.repo, timeout=FIRST_ANSWER)

    def find(self, pattern: str) -> list[str]:
        """The paths that match `pattern` ("folder/*.parquet"), sorted; none where folder or revision are not there."""
        folder = pattern.partition("*")[0].rpartition("/")[0]
        with self._told():
            try:
                tree = HfApi().list_repo_tree(
                    self.repo, folder or None, recursive=True, revision=self.revision, repo_type="dataset"
                )
                return sorted(entry.path for entry in tree if fnmatch.fnmatch(entry.path, pattern))
            except (EntryNotFoundError, RevisionNotFoundError):
                return []

    def open(self, path: str) -> IO[bytes]:
        """A file to be read in place, from anywhere in it."""
        return self._files.open(f"datasets/{self.repo}/{path}", "rb", revision=self.revision)

    def fetch(self, path: str) -> Path:
        """The local path of a whole file, which is kept in the Hub's cache; a fetch that was stopped goes on."""
        with self._told(path):
            return Path(
                hf_hub_download(self.repo, path, repo_type="dataset", revision=self.revision, etag_timeout=FIRST_ANSWER)
            )

    def parquet(self, paths: Sequence[str], place: Any, columns: Sequence[str] | None = None) -> Iterator[Row]:
        """As `parquet_rows`."""
        yield from self._read(parquet_rows(paths, self.open, place, columns))

    def lines(self, paths: Sequence[str], place: Any) -> Iterator[Row]:
        """As `line_rows`."""
        yield from self._read(line_rows(paths, self.open, place))

    def _read(self, rows: Iterator[Row]) -> Iterator[Row]:
        while True:
            with self._told():
                row = next(rows, None)
            if row is None:
                return
            self._patience.limit = PATIENCE["later"]
            yield row

    @contextmanager
    def _told(self, path: str = "") -> Iterator[None]:
        try:
            yield
        except (UserError, RecordError):
            raise
        except Exception as error:  # The transport's errors have no base in common with the client's.
            raise UserError(explain(error, self.repo, path, self._patience.status)) from error


def explain(error: Exception, repo: str, path: str = "", status: int | None = None) -> str:
    """Why a data set of the Hub is not to be had, and what to do, in one sentence."""
    chain = list(_chain(error))
    where = f"{repo} at {constants.ENDPOINT}"

    def find(kind: type[T]) -> T | None:
        return next((link for link in chain if isinstance(link, kind)), None)

    answer = find(HfHubHTTPError)
    status = answer.response.status_code if answer is not None and answer.response is not None else status
    tail = "the same command goes on from where it was"
    if find(OfflineModeIsEnabled) or is_offline_mode():
        return f"{where} is not asked, for offline mode is on: unset HF_HUB_OFFLINE, or give a local copy to folder, jsonl or parquet"
    if find(GatedRepoError):
        return f"{where} is gated: accept its terms at {constants.ENDPOINT}/datasets/{repo}, log in by `hf auth login` and run again"
    if find(HFValidationError):
        return f"{repo!r} is not an id of the Hub: give owner/name"
    if find(RepositoryNotFoundError):
        return f"{where} is not there or not public: check --repo and HF_ENDPOINT (a private one needs `hf auth login`)"
    if find(EntryNotFoundError) and status in (None, 404):
        return f"{where} has no {path or 'such file'}: it may have been moved; see its page"
    if status == 429:
        return f"{where} answers 429, too many requests: wait some minutes, or log in by `hf auth login`; {tail}"
    if status in (401, 403):
        return f"{where} refuses access ({status}): log in by `hf auth login` with a token that may read it"
    if status is not None:
        return f"{where} answers {status}: try again later; {tail}"
    disk = next((link for link in chain if isinstance(link, OSError) and link.errno and link.filename), None)
    if disk is not None:
        return f"{disk.filename} cannot be written ({disk.strerror}): make room there, or set HF_HOME elsewhere; {tail}"
    if any(
        isinstance(link, (ConnectionError, TimeoutError)) or type(link).__module__.partition(".")[0] in TRANSPORTS
        for link in chain
    ):
        return f"{where} cannot be reached: check the network, or set HF_ENDPOINT to a mirror; {tail}"
    return f"{where} cannot be read ({type(error).__name__}: {(str(error).splitlines() or [''])[0]}); {tail}"


def _chain(error: BaseException | None) -> Iterator[BaseException]:
    """An error and what it came of, also past `raise ... from None`."""
    seen: set[int] = set()
    while error is not None and id(error) not in seen:
        seen.add(id(error))
        yield error
        error = error.__cause__ or error.__context__


def first_found(dataset: HubDataset, *patterns: str) -> list[str]:
    """The files of the first pattern that has any. Raises UserError where none has."""
    for pattern in patterns:
        if found := dataset.find(pattern):
            return found
    raise UserError(
        f"{dataset.repo} at {constants.ENDPOINT} has no {' or '.join(patterns)}: its files have been moved; see its page"
    )
