"""A book as one HTML file, to read or to choose ways in, and as Twee for Twine."""

from __future__ import annotations

from modules.presentation.export.book import Book
from modules.presentation.export.settings import ExportSettings
from modules.presentation.story.book import book_html
from modules.presentation.story.branching import branching_html, twee


def html(book: Book, settings: ExportSettings) -> bytes:  # noqa: ARG001
    """Return the book as a self-contained page; one with branches is read by choosing."""
    if book.branches is not None:
        return branching_html(book.branches, book.lang).encode()
    return book_html(book.title, book.pages, book.details, book.lang, book.notes).encode()


def twine(book: Book, settings: ExportSettings) -> bytes:  # noqa: ARG001
    """Return the book in Twee 3; without branches it is a chain of passages."""
    return twee(book.ways).encode("utf-8", "replace")
