"""Damage to bytes, texts and JSON values: what disks, networks, editors, other programs and people do to files.

Every function takes a `random.Random`, so that a damaged input is a pure function of its seed.
"""

from __future__ import annotations

import base64
import copy
import gzip
import json
import random
from collections.abc import Callable, Iterator
from typing import Any

# Whole files of another kind, as people and servers put them in a file's place.
OTHER_KINDS = {
    "empty": b"",
    "one zero": b"\0",
    "zeros": bytes(5000),
    "html": b"<!DOCTYPE html><html><body>404 Not Found</body></html>\n",
    "lfs": b"version https://git-lfs.github.com/spec/v1\noid sha256:4d7a2146\nsize 12345\n",
    "pickle": b"\x80\x04\x95\x0b\0\0\0\0\0\0\0\x8c\x05posix\x8c\x06system\x93.",
    "zip": b"PK\x03\x04\x14\0\0\0\0\0" + bytes(60),
    "pdf": b"%PDF-1.7\n%\xe2\xe3\xcf\xd3\n1 0 obj\n<<>>\nendobj\n",
    "svg": b'<svg xmlns="http://www.w3.org/2000/svg"><image href="file:///etc/passwd"/></svg>',
    "gzip": gzip.compress(b"{}\n"),
    "parquet": b"PAR1" + bytes(40) + b"PAR1",
    "elf": b"\x7fELF\x02\x01\x01" + bytes(50),
    "text": "Ein Märchen – ohne Bild.\n".encode(),
    "json": b'{"a": [1, 2, {"b": null}]}\n',
    "ones": b"\xff" * 3000,
    "brackets": b"[" * 50_000,
    "quotes": b'"' * 4097,
}

# What may stand where a value of another kind is expected.
VALUES: tuple[Any, ...] = (
    None,
    True,
    0,
    -1,
    1.5,
    1e308,
    10**30,
    float("nan"),
    float("inf"),
    "",
    " ",
    "x" * 20_000,
    "\ud800",
    "a\0b",
    "\x1b[31mred\x1b]0;title\x07",
    "\u202eabc",
    "../../../etc/passwd",
    "/dev/zero",
    "file:///etc/passwd",
    "http://127.0.0.1:9/a.png",
    "images/p.png/../../x",
    "C:\\a.png",
    "~root/a.png",
    [],
    {},
    [None],
    [[[[]]]],
    {"a": {"b": [1]}},
    ["x"] * 3000,
    {"bytes": "x", "path": None},
    base64.b64encode(bytes(300)).decode(),
)

ENCODINGS = ("utf-16", "utf-16-le", "utf-16-be", "utf-32", "utf-8-sig", "cp1252", "latin-1", "cp037", "utf-7")


def _truncated(content: bytes, rng: random.Random) -> bytes:
    return content[: rng.randrange(len(content) or 1)]


def _flipped(content: bytes, rng: random.Random) -> bytes:
    changed = bytearray(content)
    for _ in range(rng.choice((1, 1, 8, 64))):
        if changed:
            changed[rng.randrange(len(changed))] ^= 1 << rng.randrange(8)
    return bytes(changed)


def _zeroed(content: bytes, rng: random.Random) -> bytes:
    start = rng.randrange(len(content) or 1)
    length = min(rng.choice((4, 64, 512, 4096)), len(content) - start)
    return content[:start] + bytes(length) + content[start + length :]


def _inserted(content: bytes, rng: random.Random) -> bytes:
    place = rng.randrange(len(content) + 1)
    return content[:place] + rng.randbytes(rng.choice((1, 7, 300))) + content[place:]


def _repeated(content: bytes, rng: random.Random) -> bytes:
    start, end = sorted(rng.randrange(len(content) + 1) for _ in range(2))
    return content[:end] + content[start:]


def _cut_out(content: bytes, rng: random.Random) -> bytes:
    start, end = sorted(rng.randrange(len(content) + 1) for _ in range(2))
    return content[:start] + content[end:]


def _line_ends(content: bytes, rng: random.Random) -> bytes:
    return content.replace(b"\n", rng.choice((b"\r\n", b"\r", b"\n\n", b"\0\n")))


def _appended(content: bytes, rng: random.Random) -> bytes:
    return content + rng.choice(tuple(OTHER_KINDS.values()))


def _other(_content: bytes, rng: random.Random) -> bytes:
    return rng.choice(tuple(OTHER_KINDS.values()))


BYTES: dict[str, Callable[[bytes, random.Random], bytes]] = {
    "truncated": _truncated,
    "flipped": _flipped,
    "zeroed": _zeroed,
    "inserted": _inserted,
    "repeated": _repeated,
    "cut out": _cut_out,
    "line ends": _line_ends,
    "appended": _appended,
    "other kind": _other,
}


def damaged_bytes(content: bytes, rng: random.Random) -> tuple[str, bytes]:
    """Return the name of a kind of damage, and the bytes with it."""
    name = rng.choice(tuple(BYTES))
    return name, BYTES[name](content, rng)


def reencoded(text: str, rng: random.Random) -> tuple[str, bytes]:
    """Return the name of an encoding and the text in it; letters that it lacks are replaced."""
    name = rng.choice(ENCODINGS)
    return name, text.encode(name, "replace")


def _places(value: Any) -> Iterator[tuple[Any, Any]]:
    """Yield (container, key) of every value within a JSON value."""
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, inner in items:
        yield value, key
        yield from _places(inner)


def damaged_json(value: Any, rng: random.Random) -> tuple[str, Any]:
    """Return what was done, and a copy of a JSON value in which one value or key is wrong, missing or misplaced."""
    root = {"root": copy.deepcopy(value)}
    container, key = rng.choice(list(_places(root)))
    action = rng.choice(("replaced", "replaced", "replaced", "removed", "renamed", "wrapped"))
    if action == "replaced":
        container[key] = copy.deepcopy(rng.choice(VALUES))
    elif action == "wrapped":
        container[key] = [container[key]]
    elif action == "removed":
        del container[key]
    elif isinstance(container, dict):
        container[rng.choice(("", "Text", "ID", "\ud800", "x" * 300, "__class__"))] = container.pop(key)
    return f"{key} {action}", root.get("root")


def json_bytes(value: Any, **options: Any) -> bytes:
    """Return a JSON value as bytes, with half surrogates and NaN as other programs write them."""
    return json.dumps(value, **options).encode("utf-8", "surrogatepass")
