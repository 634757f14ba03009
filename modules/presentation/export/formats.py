"""The table of formats, and the one function that writes a book in any of them."""

from __future__ import annotations

import importlib
import importlib.util
import shutil
from dataclasses import dataclass
from pathlib import Path

from modules.common.errors import UserError, shown
from modules.common.files import check_writable, write_whole
from modules.common.folder_lock import FolderLock
from modules.common.ownership import OwnFiles
from modules.presentation.export.book import Book
from modules.presentation.export.settings import ExportSettings


@dataclass(frozen=True)
class Format:
    """A format: what it is, the suffix of its files, and the function, as MODULE.NAME in this folder, that returns a
    book (Book, ExportSettings) as the bytes of a file. `guessed` is false where a suffix means another format; of the
    packages or programs in `needs` one must be installed.
    """

    summary: str
    suffix: str
    media_type: str
    function: str
    guessed: bool = True
    needs: tuple[str, ...] = ()

    @property
    def is_available(self) -> bool:
        """Return whether what the format needs is installed."""
        return not self.needs or any(importlib.util.find_spec(name) or shutil.which(name) for name in self.needs)

    def encode(self, book: Book, settings: ExportSettings) -> bytes:
        """Return the bytes of the file. Raises UserError where the book cannot be had in this format."""
        module, _, name = self.function.partition(".")
        content = getattr(importlib.import_module(f"modules.presentation.export.{module}"), name)(book, settings)
        assert isinstance(content, bytes)
        return content


FORMATS = {
    "pdf": Format("PDF for screens", ".pdf", "application/pdf", "pdf.screen", needs=("fpdf",)),
    "print": Format(
        "PDF for a print shop, with bleed", ".pdf", "application/pdf", "pdf.print_shop", guessed=False, needs=("fpdf",)
    ),
    "epub": Format("EPUB 3 with fixed layout", ".epub", "application/epub+zip", "epub.epub"),
    "cbz": Format("comic book archive", ".cbz", "application/vnd.comicbook+zip", "comic.cbz"),
    "sheet": Format("all pages on one PNG", ".png", "image/png", "share.sheet"),
    "gif": Format("animated GIF", ".gif", "image/gif", "animation.gif"),
    "webp": Format("animated WebP", ".webp", "image/webp", "animation.webp"),
    "mp4": Format("MP4 video (by ffmpeg)", ".mp4", "video/mp4", "animation.mp4", needs=("ffmpeg", "imageio_ffmpeg")),
    "html": Format("one HTML file; with branches the reader chooses", ".html", "text/html", "web.html"),
    "twee": Format("Twee 3 for Twine", ".twee", "text/plain", "web.twine"),
    "string": Format("the story's plan as a line of text", ".txt", "text/plain", "share.string"),
    "qr": Format("the plan as a QR code", ".png", "image/png", "share.qr", guessed=False, needs=("segno",)),
}


def guess_format(path: Path) -> str:
    """Return the format that a file's suffix means. Raises UserError if it means none."""
    for name, kind in FORMATS.items():
        if kind.guessed and path.suffix.lower() == kind.suffix:
            return name
    known = ", ".join(kind.suffix for kind in FORMATS.values() if kind.guessed)
    raise UserError(f"no known format has the suffix of {shown(path)}: give --format, or one of {known}")


def export_book(book: Book, format: str, path: Path, settings: ExportSettings | None = None) -> Path:
    """Write a book in one of `FORMATS` to `path`, whole or not at all, and return `path`.

    The same book gives the same bytes. A file that this program did not write is never overwritten: the manifest of
    the folder lists those that it did.

    Raises:
        UserError: No such format; the book cannot be had in it; the file cannot be written or is not this program's.
    """
    if format not in FORMATS:
        raise UserError(f"there is no format {shown(format)}: the formats are {', '.join(FORMATS)}")
    if any(path.resolve() == source.resolve() for source in book.sources):
        raise UserError(f"{path} is a file of the story itself, which is never overwritten: choose another --output")
    check_writable(path)
    with FolderLock(path.parent):
        own = OwnFiles(path.parent)
        own.check([path.name])
        content = FORMATS[format].encode(book, settings or ExportSettings())
        own.start([path.name])
        write_whole(path, content)
        own.finish([path.name])
    return path
