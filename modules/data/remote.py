"""Files at any address that fsspec knows (hf://, s3://, https://, memory://, a path), read by exact ranges of bytes."""

from __future__ import annotations

import io
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TypeVar

from modules.common.errors import UserError

WAITS = (
    1.0,
    4.0,
    16.0,
)  # Seconds before each further attempt: a network that fails for a moment does not end a training.
FINAL = (FileNotFoundError, PermissionError, IsADirectoryError, NotADirectoryError)  # Waiting mends none of these.
T = TypeVar("T")


def is_remote(folder: str | Path) -> bool:
    """Whether `folder` is an address and no path."""
    return "://" in str(folder)


def read_whole(address: str) -> bytes:
    """All bytes of a file. Raises FileNotFoundError where there is none, UserError where it cannot be read."""
    system, path = _open_system(address)
    return _patiently(lambda: system.cat_file(path), address, WAITS[:1])  # Who has just typed the address is told soon.


def open_ranges(address: str, size: int) -> io.RawIOBase:
    """A file of `size` bytes to read anywhere in: a plain file, or one range request for every read.

    Raises:
        UserError: the address cannot be read.
    """
    if not is_remote(address):
        return open(address, "rb", buffering=0)
    return RangeFile(address, size)


class RangeFile(io.RawIOBase):
    """A file that is far away. Nothing is read ahead or kept: who reads says exactly what is wanted."""

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

    def readinto(self, buffer: memoryview) -> int:
        end = min(self.size, self._place + len(buffer))
        if end <= self._place:
            return 0
        content = _patiently(lambda: self._system.cat_file(self._path, start=self._place, end=end), self.address)
        if len(content) != end - self._place:
            raise UserError(
                f"{self.address} does not give parts of files, or has changed: copy the shards to this disk"
            )
        buffer[: len(content)] = content
        self._place = end
        return len(content)


def _open_system(address: str) -> tuple:
    from fsspec.core import url_to_fs

    try:
        return url_to_fs(address)
    except ImportError as error:
        raise UserError(f"{address} needs a package that is not installed ({error})") from None
    except Exception as error:  # Every file system has errors of its own.
        raise UserError(f"{address} is not an address that can be opened ({_first_line(error)})") from error


def _patiently(read: Callable[[], T], address: str, waits: Sequence[float] = WAITS) -> T:
    for wait in (*waits, None):
        try:
            return read()
        except FINAL:
            raise
        except Exception as error:  # As above; aiohttp's and httpx's have no base in common.
            if wait is None or isinstance(error, UserError) or _is_refusal(error):
                raise UserError(
                    f"{address} cannot be read ({_first_line(error)}): check the address and the network"
                ) from error
            time.sleep(wait)
    raise AssertionError


def _is_refusal(error: Exception) -> bool:
    """Whether a server said that it will not answer, today or later."""
    status = getattr(error, "status", None) or getattr(getattr(error, "response", None), "status_code", None)
    return isinstance(status, int) and 400 <= status < 500 and status not in (408, 429)


def _first_line(error: Exception) -> str:
    return (str(error).splitlines() or [""])[0] or type(error).__name__
