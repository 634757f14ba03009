"""List, read and download the files of data sets on the Hub, through huggingface_hub."""

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

from modules.common.errors import UserError, first_line
from modules.data.records import RecordError
from modules.downloads.readers import line_rows, parquet_rows
from modules.downloads.record import Row

FIRST_ANSWER = 5.0  # Seconds. Fail fast: the user is waiting at the prompt.
PATIENCE = {"start": 5.0, "later": 40.0}  # Seconds of failures in a row; the client retries at 1, 3, 7, 15, 23 s.
TRANSPORTS = ("httpx", "httpx2")  # The client's HTTP library, by its version.
T = TypeVar("T")


class OutOfPatience(ConnectionError):
    """The Hub kept failing for too long; ends the client's own retries."""


class Patience:
    """Hooks on every request that end the client's retries once failures have lasted too long."""

    def __init__(self) -> None:
        self.limit = PATIENCE["start"]
        self.since: float | None = None  # When the failures began.
        self.status: int | None = None  # The last answer, if it was a failure.

    def client(self) -> Any:
        client = default_client_factory()
        hooks = client.event_hooks
        client.event_hooks = {
            "request": [*hooks["request"], self.before_request],
            "response": [*hooks["response"], self.after_response],
        }
        return client

    def before_request(self, _request: Any) -> None:
        self.since = since = self.since or time.monotonic()
        if time.monotonic() - since > self.limit:
            self.since = None
            raise OutOfPatience(f"failing for {time.monotonic() - since:.0f} s") from None

    def after_response(self, response: Any) -> None:
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
    logging.set_verbosity_error()  # Errors are reported once, by `explain`.
    return patience


class HubDataset:
    """The files of one data set on the Hub at one revision. Every method raises UserError with one sentence."""

    def __init__(self, repo: str, revision: str | None = None) -> None:
        self.repo, self.revision = repo, revision
        self._patience = _patience()
        self._files = HfFileSystem(block_size=8 << 20)

    def check(self) -> None:
        """Check in one short request that the data set exists and is accessible."""
        with self._explain_errors():
            HfApi().dataset_info(self.repo, timeout=FIRST_ANSWER)

    def find(self, pattern: str) -> list[str]:
        """Return the sorted paths that match `pattern` ("folder/*.parquet"); none if the folder does not exist."""
        folder = pattern.partition("*")[0].rpartition("/")[0]
        with self._explain_errors():
            try:
                tree = HfApi().list_repo_tree(
                    self.repo, folder or None, recursive=True, revision=self.revision, repo_type="dataset"
                )
                return sorted(entry.path for entry in tree if fnmatch.fnmatch(entry.path, pattern))
            except (EntryNotFoundError, RevisionNotFoundError):
                return []

    def open(self, path: str) -> IO[bytes]:
        """Open a file for random access on the Hub."""
        return self._files.open(f"datasets/{self.repo}/{path}", "rb", revision=self.revision)

    def read(self, path: str) -> bytes:
        """Return the content of a small file. Raises RecordError if there is none."""
        with self._explain_errors(path):
            try:
                with self.open(path) as file:
                    return file.read()
            except (FileNotFoundError, EntryNotFoundError):
                raise RecordError(f"the file {path} does not exist") from None

    def fetch(self, path: str) -> Path:
        """Download a file into the Hub's cache and return its local path; a stopped download is resumed."""
        with self._explain_errors(path):
            return Path(
                hf_hub_download(self.repo, path, repo_type="dataset", revision=self.revision, etag_timeout=FIRST_ANSWER)
            )

    def parquet(self, paths: Sequence[str], place: Any, columns: Sequence[str] | None = None) -> Iterator[Row]:
        """As `parquet_rows`."""
        yield from self.explained(parquet_rows(paths, self.open, place, columns))

    def lines(self, paths: Sequence[str], place: Any) -> Iterator[Row]:
        """As `line_rows`."""
        yield from self.explained(line_rows(paths, self.open, place))

    def explained(self, rows: Iterator[Row]) -> Iterator[Row]:
        """Yield `rows`, with every error of the Hub or the network as a UserError."""
        while True:
            with self._explain_errors():
                row = next(rows, None)
            if row is None:
                return
            self._patience.limit = PATIENCE["later"]
            yield row

    @contextmanager
    def _explain_errors(self, path: str = "") -> Iterator[None]:
        try:
            yield
        except (UserError, RecordError):
            raise
        except Exception as error:  # Errors of the HTTP library and of the client have no common base.
            raise UserError(explain(error, self.repo, path, self._patience.status)) from error


def explain(error: Exception, repo: str, path: str = "", status: int | None = None) -> str:
    """Return in one sentence why a data set of the Hub is not available, and what to do."""
    chain = list(_chain(error))
    where = f"{repo} at {constants.ENDPOINT}"

    def find(kind: type[T]) -> T | None:
        return next((link for link in chain if isinstance(link, kind)), None)

    answer = find(HfHubHTTPError)
    status = answer.response.status_code if answer is not None and answer.response is not None else status
    if find(OfflineModeIsEnabled) or is_offline_mode():
        advice = "unset HF_HUB_OFFLINE, or give a local copy to folder, jsonl or parquet"
        return f"{where} is not accessible in offline mode: {advice}"
    if find(GatedRepoError):
        page = f"{constants.ENDPOINT}/datasets/{repo}"
        return f"{where} is gated: accept its terms at {page}, log in by `hf auth login` and run again"
    if find(HFValidationError):
        return f"{repo!r} is not a valid id on the Hub: give owner/name"
    if find(RepositoryNotFoundError):
        advice = "check --repo and HF_ENDPOINT (a private one needs `hf auth login`)"
        return f"{where} does not exist or is not public: {advice}"
    if find(EntryNotFoundError) and status in (None, 404):
        return f"{where} has no {path or 'such file'}: it may have been moved; see its page"
    return f"{_explain_failure(error, chain, where, status)}; the same command resumes the download"


def _explain_failure(error: Exception, chain: Sequence[BaseException], where: str, status: int | None) -> str:
    """Return why a request failed that may succeed later, and what to do."""
    if status == 429:
        return f"{where} answers 429, too many requests: wait some minutes, or log in by `hf auth login`"
    if status in (401, 403):
        return f"{where} refuses access ({status}): log in by `hf auth login` with a token that may read it"
    if status is not None:
        return f"{where} answers {status}: try again later"
    disk = next((link for link in chain if isinstance(link, OSError) and link.errno and link.filename), None)
    if disk is not None:
        return f"{disk.filename} cannot be written ({disk.strerror}): make room there, or set HF_HOME elsewhere"
    if any(
        isinstance(link, (ConnectionError, TimeoutError)) or type(link).__module__.partition(".")[0] in TRANSPORTS
        for link in chain
    ):
        return f"{where} cannot be reached: check the network, or set HF_ENDPOINT to a mirror"
    return f"{where} cannot be read ({type(error).__name__}: {first_line(error)})"


def _chain(error: BaseException | None) -> Iterator[BaseException]:
    """Yield an error and its causes, including those hidden by `raise ... from None`."""
    seen: set[int] = set()
    while error is not None and id(error) not in seen:
        seen.add(id(error))
        yield error
        error = error.__cause__ or error.__context__


def first_found(dataset: HubDataset, *patterns: str) -> list[str]:
    """Return the files of the first pattern that matches any. Raises UserError if none does."""
    for pattern in patterns:
        if found := dataset.find(pattern):
            return found
    where = f"{dataset.repo} at {constants.ENDPOINT}"
    raise UserError(f"{where} has no {' or '.join(patterns)}: its files have been moved; see its page")
