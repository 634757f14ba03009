"""What fits into a message: the plan of a story as a line of text, as a QR code; the contact sheet."""

from __future__ import annotations

import io

from modules.common.errors import UserError
from modules.presentation.export.book import Book
from modules.presentation.export.fonts import choose_font
from modules.presentation.export.settings import ExportSettings
from modules.presentation.images import encode_png
from modules.presentation.story.book import plan_texts
from modules.presentation.story.sheet import contact_sheet

LONGEST_QR = 2953  # Bytes: what the largest QR code has room for.


def sheet(book: Book, settings: ExportSettings) -> bytes:
    """Return all pages on one picture."""
    font = choose_font(" ".join([book.title, *(page.text for page in book.pages)]), settings.font)
    return encode_png(contact_sheet(book.pages, book.title, font=font), plan_texts(book.plan))


def string(book: Book, settings: ExportSettings) -> bytes:  # noqa: ARG001
    """Return the plan on a line: `generate --from` makes the story again from it."""
    return f"{_plan(book)}\n".encode()


def qr(book: Book, settings: ExportSettings) -> bytes:  # noqa: ARG001
    """Return the plan as a QR code. Raises UserError if it is too long, or segno is not installed."""
    plan = _plan(book)
    if len(plan) > LONGEST_QR:
        raise UserError(f"the plan has {len(plan)} characters, a QR code at most {LONGEST_QR}: choose string")
    try:
        import segno
    except ImportError:
        raise UserError("qr needs the package segno: pip install 'story-generative-model[books]'") from None
    buffer = io.BytesIO()
    segno.make(plan, micro=False).save(buffer, kind="png", scale=8, border=4)
    return buffer.getvalue()


def _plan(book: Book) -> str:
    if book.plan is None:
        raise UserError(
            "the story has no plan, which is all that this format contains: generate, edit and branch write one"
        )
    return book.plan
