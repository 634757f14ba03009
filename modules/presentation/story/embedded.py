"""The plan inside an exported file: PNG, PDF, EPUB, comic book archive, GIF, WebP, MP4 or text."""

from __future__ import annotations

import re
import zipfile
import zlib
from pathlib import Path

from PIL import Image

from modules.common.errors import UserError
from modules.data.images import load_image
from modules.presentation.images import read_png_text

PLAN_KEYWORD = "storyboard-plan"  # Of the text chunk in a page's PNG.
PLAN_PREFIX = "plan1."  # Of the text form of a plan,
SHORT_PREFIX = "plan2."  # and of the short one, which no file carries.
CARRIERS = (".png", ".pdf", ".epub", ".cbz", ".gif", ".webp", ".mp4", ".txt")
LARGEST_FILE = 2_000_000_000  # Bytes.
_PLAN = re.compile(rb"plan1\.[A-Za-z0-9_-]+")
_BROKEN = (OSError, ValueError, zipfile.BadZipFile, zlib.error, SyntaxError, Image.DecompressionBombError)
_MEMBERS = ("book/package.opf", "ComicInfo.xml")


def embedded_plan(file: Path) -> str | None:
    """Return the text form of the plan that a file carries; None if it has none.

    Raises UserError if the file is broken or too large.
    """
    try:
        if file.suffix.lower() == ".png":
            load_image(file)  # Raises UserError where it is broken.
            return read_png_text(file, PLAN_KEYWORD)
        if file.stat().st_size > LARGEST_FILE:
            raise UserError(f"{file} is larger than {LARGEST_FILE // 10**9} GB: no export of this program is")
        found = _PLAN.search(_content(file))
    except (*_BROKEN, RuntimeError) as error:  # An encrypted archive is a RuntimeError.
        raise UserError(f"{file} cannot be read ({error})") from None
    return None if found is None else found[0].decode()


def _content(file: Path) -> bytes:
    """Return the part of a file in which its plan stands in one piece."""
    if file.suffix.lower() in (".epub", ".cbz"):
        with zipfile.ZipFile(file) as archive:
            names = [name for name in _MEMBERS if name in archive.namelist()]
            return b"".join(archive.open(name).read(10_000_000) for name in names)
    if file.suffix.lower() == ".gif":  # Its comment is cut into blocks of 255 bytes.
        with Image.open(file, formats=("GIF",)) as image:
            return bytes(image.info.get("comment", b""))
    return file.read_bytes()
