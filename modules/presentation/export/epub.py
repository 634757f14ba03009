"""A book as EPUB 3 with fixed layout: real text in embedded fonts, pictures with alternative texts, navigation."""

from __future__ import annotations

import io
import uuid
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from modules.presentation.export.archive import zip_archive
from modules.presentation.export.book import Book
from modules.presentation.export.enlarging import enlarge_well
from modules.presentation.export.layout import LEADING, Leaf, lay_out
from modules.presentation.export.settings import ExportSettings
from modules.presentation.images import encode_image
from modules.presentation.templates import render

SCALE = 2.0  # Pixels of the page a point.
PICTURE_PIXELS = 1224  # Of a picture as wide as the page.
MIMETYPE = "mimetype"
_CONTAINER = b"""<?xml version="1.0" encoding="utf-8"?>
<container version="1.0" xmlns="urn:oasis:names:tc:opendocument:xmlns:container">
<rootfiles><rootfile full-path="book/package.opf" media-type="application/oebps-package+xml"/></rootfiles>
</container>
"""


def epub(book: Book, settings: ExportSettings) -> bytes:
    """Return the archive."""
    leaves = lay_out(book, settings)
    fonts = {font: f"font{number}" for number, font in enumerate(dict.fromkeys(leaf.font for leaf in leaves))}
    files = {f"{family}.ttf": _subset(font, leaves) for font, family in fonts.items()}
    entries = []
    for index, leaf in enumerate(leaves):
        entry = _entry(leaf, index)
        if leaf.picture is not None:
            pixels = max(1, round(PICTURE_PIXELS * leaf.picture_box[2] / leaf.width))
            files[entry["image"]] = encode_image(enlarge_well(leaf.picture, pixels), "JPEG", quality=90)
        files[entry["file"]] = _page(book, leaf, entry, fonts[leaf.font]).encode()
        entries.append(entry)
    names = {family: f"{family}.ttf" for family in fonts.values()}
    size = {"width": _px(leaves[0].width), "height": _px(leaves[0].height)}
    files["style.css"] = render("export/epub.css.html", fonts=names, leading=LEADING, **size).encode()
    about = {"title": book.title, "lang": book.lang, "leaves": entries}
    files["nav.xhtml"] = _xml("export/epub_nav.html", **about)
    seed = "\n".join([book.title, book.plan or "", *(page.text for page in book.pages)])
    identifier = uuid.uuid5(uuid.NAMESPACE_URL, seed)
    files["package.opf"] = _xml(
        "export/epub_package.html", identifier=identifier, author=book.author, plan=book.plan, fonts=names, **about
    )
    inside = {f"book/{name}": files[name] for name in sorted(files)}
    return zip_archive(
        {MIMETYPE: b"application/epub+zip", "META-INF/container.xml": _CONTAINER, **inside}, stored=MIMETYPE
    )


def _entry(leaf: Leaf, index: int) -> dict[str, Any]:
    """Return a leaf's files and its names in the navigation; a leaf that goes on with a page has none."""
    is_cover, opens = leaf.kind == "cover", leaf.picture is not None
    return {
        "file": f"page_{index:04}.xhtml",
        "image": f"page_{index:04}.jpg" if opens else "",
        "label": "Cover" if is_cover else f"Page {leaf.number}" if opens else "",
        "number": leaf.number if opens and not is_cover else "",
    }


def _page(book: Book, leaf: Leaf, entry: dict[str, Any], family: str) -> str:
    is_cover = leaf.kind == "cover"
    return render(
        "export/epub.html",
        lang=book.lang,
        title=book.title,
        width=_px(leaf.width),
        height=_px(leaf.height),
        is_cover=is_cover,
        image=entry["image"],
        alt="Cover picture" if is_cover else f"Picture of page {leaf.number}: {leaf.text}",
        picture=[_px(value) for value in leaf.picture_box],
        words=[_px(value) for value in leaf.words],
        tag="h1" if is_cover else "p",
        family=family,
        size=_px(leaf.size * 0.985),  # Room for readers whose widths differ a little.
        text=leaf.told,
        number=entry["number"],
    )


def _xml(template: str, **data: Any) -> bytes:
    return render(template, **data).encode()


def _px(value: float) -> float | int:
    scaled = round(value * SCALE, 2)
    return int(scaled) if scaled.is_integer() else scaled


def _subset(font: Path, leaves: Sequence[Leaf]) -> bytes:
    """Return the part of a font that the leaves need."""
    from fontTools.subset import Options, Subsetter
    from fontTools.ttLib import TTFont

    text = "".join("".join(leaf.lines) + leaf.number for leaf in leaves if leaf.font == font)
    with TTFont(font, recalcTimestamp=False) as opened:
        subsetter = Subsetter(Options(notdef_outline=True))
        subsetter.populate(text=text)
        subsetter.subset(opened)
        buffer = io.BytesIO()
        opened.save(buffer)
    return buffer.getvalue()
