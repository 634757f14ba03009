"""Read files at any address that fsspec supports (hf://, s3://, https://, memory://), by exact ranges of bytes."""

from __future__ import annotations

import io
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, TypeVar

from modules.common.errors import UserError, first_line

WAITS = (1.0, 4.0, 16.0)  # Seconds before each further attempt, so that a brief network failure does not end a run.
FINAL = (FileNotFoundError, PermissionError, IsADirectoryError, NotADirectoryError)  # Waiting does not help.
T = TypeVar("T")


def is_remote(folder: str | Path) -> bool:
    """Return whether `folder` is an address, not a path."""
    return "://" in str(folder)


def read_whole(address: str) -> bytes:
    """Return all bytes of a file.

    Raises:
        FileNotFoundError: there is no such file.
        UserError: the address cannot be read.
    """
    system, path = _open_system(address)
    return _retry(lambda: system.cat_file(path), address, WAITS[:1])  # Fail fast: the user is waiting at the prompt.


def open_ranges(address: str, size: int) -> io.RawIOBase:
    """Open a file of `size` bytes for random access; a remote file gets one range request for every read.

    Raises:
        UserError: the address cannot be read.
    """
    if not is_remote(address):
        return open(address, "rb", buffering=0)
    return RangeFile(address, size)


class RangeFile(io.RawIOBase):
    """A remote file without buffering: every read is one range request for exactly the bytes asked for."""

    def __init__(self, address: str, size: int) -> None:
        self.address, self.size, self._place = address, size, 0
        self._system, self._path = _open_system(address)

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def tell(self) -> int:
        return self._place

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        self._place = offset + {io.SEEK_SET: 0, io.SEEK_CUR: self._place, io.SEEK_END: self.size}[whence]
        return self._place

    def readinto(self, buffer: Any) -> int:
        end = min(self.size, self._place + len(buffer))
        if end <= self._place:
            return 0
        content = _retry(lambda: self._system.cat_file(self._path, start=self._place, end=end), self.address)
        if len(content) != end - self._place:
            raise UserError(
                f"{self.address} does not give parts of files, or has changed: copy the shards to this disk"
            )
        buffer[: len(content)] = content
        self._place = end
        return len(content)


def _open_system(address: str) -> tuple[Any, str]:
    from fsspec.core import url_to_fs

    try:
        return url_to_fs(address)
    except ImportError as error:
        raise UserError(f"{address} needs a package that is not installed ({error})") from None
    except Exception as error:  # Every file system raises its own errors.
        raise UserError(f"{address} is not an address that can be opened ({first_line(error)})") from error


def _retry(read: Callable[[], T], address: str, waits: Sequence[float] = WAITS) -> T:
    for wait in (*waits, None):
        try:
            return read()
        except FINAL:
            raise
        except Exception as error:  # As above; those of aiohttp and httpx have no common base.
            if wait is None or isinstance(error, UserError) or _is_refusal(error):
                raise UserError(
                    f"{address} cannot be read ({first_line(error)}): check the address and the network"
                ) from error
            time.sleep(wait)
    raise AssertionError


def _is_refusal(error: Exception) -> bool:
    """Return whether a server refused for good."""
    status = getattr(error, "status", None) or getattr(getattr(error, "response", None), "status_code", None)
    return isinstance(status, int) and 400 <= status < 500 and status not in (408, 429)
