"""A book as a comic book archive (CBZ): a picture of every page, and ComicInfo.xml."""

from __future__ import annotations

from xml.sax.saxutils import escape

from modules.presentation.export.archive import zip_archive
from modules.presentation.export.book import Book
from modules.presentation.export.drawing import draw_leaf
from modules.presentation.export.layout import lay_out
from modules.presentation.export.settings import ExportSettings
from modules.presentation.images import encode_image
from modules.presentation.text import clean

PAGE_WIDTH = 1275  # Pixels: 150 an inch.


def cbz(book: Book, settings: ExportSettings) -> bytes:
    """Return the archive: cover.jpg first, then the pages in order."""
    leaves = lay_out(book, settings)
    files = {"ComicInfo.xml": _comic_info(book, len(leaves)).encode()}
    for number, leaf in enumerate(leaves):
        files[f"page_{number:04}.jpg"] = encode_image(draw_leaf(leaf, PAGE_WIDTH), "JPEG", quality=90)
    return zip_archive(files)


def _comic_info(book: Book, count: int) -> str:
    entries = {
        "Title": book.title,
        "Writer": book.author,
        "Notes": book.plan or "",
        "PageCount": str(count),
        "LanguageISO": book.lang,
    }
    lines = [f"  <{name}>{escape(clean(value))}</{name}>" for name, value in entries.items() if value]
    pages = [f'    <Page Image="{n}" Type="{"Story" if n else "FrontCover"}"/>' for n in range(count)]
    body = "\n".join([*lines, "  <Pages>", *pages, "  </Pages>"])
    return f'<?xml version="1.0" encoding="utf-8"?>\n<ComicInfo>\n{body}\n</ComicInfo>\n'
