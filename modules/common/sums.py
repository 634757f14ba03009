"""Sizes and SHA-256 of a folder's files, in its `manifest.json`: damage is found by them, and foreign files are known.

{"version": 1, "files": {"model.safetensors": {"size": 4, "sha256": "..."}, ...}}
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Collection, Iterable, Mapping
from pathlib import Path
from typing import Any

from modules.common.files import is_leftover, write_whole

MANIFEST = "manifest.json"
Sums = dict[str, dict[str, Any]]


def write_sums(folder: Path, names: Iterable[str] | None = None) -> Path:
    """Write the manifest of a folder: of all its files, at any depth, or of those named by paths within it.

    Of all its files, the leftovers of a killed run are removed. Raises UserError if it cannot be written.
    """
    if names is None:
        for path in [path for path in folder.rglob(".*") if is_leftover(path.name)]:
            path.unlink()
        names = (path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file())
    return store_sums(folder, {name: sum_of(folder / name) for name in sorted(names) if name != MANIFEST})


def store_sums(folder: Path, sums: Mapping[str, Mapping[str, Any]]) -> Path:
    """Write a manifest with the given entries. Raises UserError if it cannot be written."""
    return write_whole(folder / MANIFEST, json.dumps({"version": 1, "files": sums}, indent=1).encode())


def sum_of(file: Path) -> dict[str, Any]:
    """Return the size and SHA-256 of a file."""
    with open(file, "rb") as stream:
        digest = hashlib.file_digest(stream, "sha256").hexdigest()
    return {"size": file.stat().st_size, "sha256": digest}


def read_sums(folder: Path) -> Sums:
    """Return a manifest's entries by path within the folder. Raises ValueError where it is missing or broken."""
    if not (folder / MANIFEST).is_file():
        raise ValueError(f"{MANIFEST} is missing")
    try:
        manifest = json.loads((folder / MANIFEST).read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise ValueError(f"{MANIFEST} is not readable ({error})") from None
    files = manifest.get("files") if isinstance(manifest, dict) else None
    if not isinstance(files, dict):
        raise ValueError(f"{MANIFEST} lists no files")
    if not all(isinstance(entry, dict) and {"size", "sha256"} <= entry.keys() for entry in files.values()):
        raise ValueError(f"{MANIFEST} has an entry without size and sha256")
    return files


def damage(folder: Path, needed: Collection[str] = (), only: Collection[str] | None = None) -> str | None:
    """Return what differs from the folder's manifest, which must list the `needed` files; None if nothing does.

    Files that are not among `only`, if given, are left out.
    """
    try:
        sums = read_sums(folder)
        if missing := sorted(set(needed) - sums.keys()):
            return f"{MANIFEST} does not list {missing[0]}"
        for name, entry in sums.items():
            if only is not None and name not in only:
                continue
            file = folder / name
            if not file.resolve().is_relative_to(folder.resolve()):
                return f"{MANIFEST} names {name!r}, which is outside the folder"
            if not file.is_file():
                return f"{name} is missing"
            if file.stat().st_size != entry["size"]:
                return f"{name} has {file.stat().st_size} bytes, {entry['size']} expected"
            if sum_of(file) != entry:
                return f"{name} is corrupt: its SHA-256 differs"
    except (OSError, ValueError) as error:
        return str(error)
    return None
