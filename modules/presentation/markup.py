"""Texts and pictures as they stand inside a page of HTML."""

from __future__ import annotations

import base64
import html
import io
import unicodedata
from pathlib import Path
from string import Template
from typing import Any

from PIL import Image

# It loads nothing from anywhere.
_POLICY = "default-src 'none'; img-src data:; style-src 'unsafe-inline'; script-src 'unsafe-inline'"
_HEAD = """<!doctype html>
<html lang="{lang}">
<head>
<meta charset="utf-8">
<meta name="viewport" content="{viewport}">
<meta name="color-scheme" content="light dark">
<meta http-equiv="Content-Security-Policy" content="{policy}">
<title>{title}</title>
"""


def fill_page(
    template: Path, title: str, lang: str = "en", viewport: str = "width=device-width, initial-scale=1", **parts: object
) -> str:
    """A whole page: the head, and the template's styles and body with its `parts` in their places; these are markup,
    the rest is text.
    """
    head = _HEAD.format(lang=escape(lang), viewport=viewport, policy=_POLICY, title=escape(title))
    return head + Template(template.read_text(encoding="utf-8")).substitute(parts)


def clean(text: str) -> str:
    """The text without what neither UTF-8 nor a page can hold: lone surrogates and control characters; white space is
    kept.
    """
    return "".join(
        character for character in text if character.isspace() or unicodedata.category(character) not in ("Cc", "Cs")
    )


def escape(text: object) -> str:
    """A text as markup that shows it."""
    return html.escape(clean(str(text)))


def encode_image(image: Image.Image, kind: str = "PNG", **options: Any) -> bytes:
    """An RGB picture as the bytes of a file."""
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def data_uri(content: bytes, kind: str = "png") -> str:
    """The bytes of a picture's file, to stand in the page itself."""
    return f"data:image/{kind};base64,{base64.b64encode(content).decode()}"
