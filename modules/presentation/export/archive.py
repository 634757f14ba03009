"""Zip archives with the same bytes for the same content: no dates, files in the order given."""

from __future__ import annotations

import io
import zipfile
from collections.abc import Mapping

_EPOCH = (1980, 1, 1, 0, 0, 0)  # The first date that a zip archive can have.
_STORED = (".png", ".jpg", ".webp")  # Compressed already.


def zip_archive(files: Mapping[str, bytes], stored: str | None = None) -> bytes:
    """Return an archive of files by name; pictures, and the one named `stored`, are not compressed."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        for name, content in files.items():
            entry = zipfile.ZipInfo(name, _EPOCH)
            entry.create_system = 3  # As on Unix, wherever it is written.
            entry.external_attr = 0o644 << 16
            plain = name == stored or name.endswith(_STORED)
            entry.compress_type = zipfile.ZIP_STORED if plain else zipfile.ZIP_DEFLATED
            archive.writestr(entry, content, compresslevel=None if plain else 9)
    return buffer.getvalue()
