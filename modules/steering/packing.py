"""Bytes and texts for plans: whole numbers of any width, and URL-safe texts with a version and a checksum."""

from __future__ import annotations

import base64
import binascii
import zlib
from collections.abc import Sequence

PREFIX = "plan1."  # The kind of the text, and its version.
MAX_TEXT = 100_000  # Characters. No story of this program needs as many.
_CHECKSUM_BYTES = 4


class DamagedText(ValueError):
    """A text that is not what `to_text` returned; the message says why."""


class Writer:
    """Collects whole numbers and bytes."""

    def __init__(self) -> None:
        self._parts = bytearray()

    def number(self, value: int) -> None:
        """Append a number from 0 on: 7 bits a byte, the lowest first."""
        while value >= 0x80:
            self._parts.append(value & 0x7F | 0x80)
            value >>= 7
        self._parts.append(value)

    def block(self, content: bytes) -> None:
        """Append bytes and their number."""
        self.number(len(content))
        self._parts += content

    def content(self) -> bytes:
        """Return all that was appended."""
        return bytes(self._parts)


class Reader:
    """Reads what a `Writer` collected. Raises DamagedText where it ends too early."""

    def __init__(self, content: bytes) -> None:
        self._content, self._place = content, 0

    def number(self) -> int:
        """Read a number of at most 63 bits."""
        value = 0
        for shift in range(0, 63, 7):
            (byte,) = self._take(1)
            value |= (byte & 0x7F) << shift
            if byte < 0x80:
                return value
        raise DamagedText("a number is too long")

    def block(self) -> bytes:
        """Read bytes."""
        return self._take(self.number())

    def end(self) -> None:
        """Raise DamagedText if anything is left."""
        if self._place != len(self._content):
            raise DamagedText("it is too long")

    def _take(self, count: int) -> bytes:
        taken = self._content[self._place : self._place + count]
        if len(taken) != count:
            raise DamagedText("it ends too early")
        self._place += count
        return taken


def pack_bits(values: Sequence[int], width: int) -> bytes:
    """Write numbers below 2 ** width, `width` bits each, the first one in the highest bits."""
    total = 0
    for value in values:
        total = total << width | value
    num_bits = len(values) * width
    padding = -num_bits % 8
    return (total << padding).to_bytes((num_bits + padding) // 8, "big")


def unpack_bits(content: bytes, count: int, width: int) -> list[int]:
    """Read `count` numbers written by `pack_bits`. Raises DamagedText if the length does not fit."""
    if len(content) != (count * width + 7) // 8:
        raise DamagedText("the number of codes does not fit")
    total = int.from_bytes(content, "big") >> (len(content) * 8 - count * width)
    return [total >> (count - 1 - index) * width & (1 << width) - 1 for index in range(count)]


def compress(text: str) -> bytes:
    """Return a text as few bytes."""
    return zlib.compress(text.encode(errors="surrogatepass"), 9, -15)


def decompress(content: bytes) -> str:
    """Return the text that `compress` was given. Raises DamagedText."""
    stream = zlib.decompressobj(-15)
    try:
        text = stream.decompress(content, MAX_TEXT)
        if not stream.eof or stream.unused_data:
            raise DamagedText("its description is incomplete")
        return text.decode(errors="surrogatepass")
    except (zlib.error, UnicodeDecodeError) as error:
        raise DamagedText(str(error)) from None


def to_text(content: bytes) -> str:
    """Return bytes as a URL-safe text with a version and a checksum."""
    checked = content + zlib.crc32(content).to_bytes(_CHECKSUM_BYTES, "big")
    return PREFIX + base64.urlsafe_b64encode(checked).decode().rstrip("=")


def from_text(text: str) -> bytes:
    """Return the bytes that `to_text` was given. Raises DamagedText."""
    text = text.strip()
    if not text.startswith(PREFIX):
        raise DamagedText(f"it does not begin with {PREFIX}")
    if len(text) > MAX_TEXT:
        raise DamagedText(f"it is longer than {MAX_TEXT} characters")
    body = text[len(PREFIX) :]
    try:
        checked = base64.b64decode(body + "=" * (-len(body) % 4), altchars=b"-_", validate=True)
    except (binascii.Error, ValueError):
        raise DamagedText("it contains other characters than letters, digits, - and _, or lacks some") from None
    content, checksum = checked[:-_CHECKSUM_BYTES], checked[-_CHECKSUM_BYTES:]
    if zlib.crc32(content).to_bytes(_CHECKSUM_BYTES, "big") != checksum:
        raise DamagedText("its checksum is wrong: some characters are missing or changed")
    return content
