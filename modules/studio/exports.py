"""A story of the studio as files: what `generate` writes, and all formats of `export_book` where it is installed."""

from __future__ import annotations

import importlib
import importlib.util
import tempfile
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path

from modules.presentation.images import encode_png
from modules.presentation.story.book import BookPage, plan_texts, write_book
from modules.presentation.story.sheet import contact_sheet
from modules.steering.planned_story import PlannedStory


def _pages(story: PlannedStory) -> list[BookPage]:
    return [
        BookPage(image, text, list(codes), None, stamp)
        for image, text, codes, stamp in zip(story.images, story.texts, story.plan.codes, story.stamps, strict=True)
    ]


def _html(story: PlannedStory) -> bytes:
    with tempfile.TemporaryDirectory() as folder:
        return write_book(Path(folder), story.plan.prompt, _pages(story), asdict(story.plan.settings)).read_bytes()


def _sheet(story: PlannedStory) -> bytes:
    return encode_png(contact_sheet(_pages(story), story.plan.prompt), plan_texts(story.plan.to_string()))


# Name -> what it is, suffix, media type, and how it is made.
Maker = Callable[[PlannedStory], bytes]
OWN: dict[str, tuple[str, str, str, Maker]] = {
    "html": ("Book for the browser, in one file", ".html", "text/html", _html),
    "sheet": ("All pages in one picture", ".png", "image/png", _sheet),
    "plan": ("Story string", ".txt", "text/plain", lambda story: story.plan.to_string().encode()),
}


EXPORT = "modules.presentation.export"


def formats() -> dict[str, tuple[str, str, str, Maker]]:
    """Return all formats by name; those of the export module take the place of our own."""
    if importlib.util.find_spec(EXPORT) is None:
        return OWN
    table = importlib.import_module(f"{EXPORT}.formats").FORMATS
    return OWN | {name: (kind.summary, kind.suffix, kind.media_type, _maker(name)) for name, kind in table.items()}


def _maker(name: str) -> Maker:
    def make(story: PlannedStory) -> bytes:
        book = importlib.import_module(f"{EXPORT}.book").planned_book(story)
        settings = importlib.import_module(f"{EXPORT}.settings").ExportSettings()
        content: bytes = importlib.import_module(f"{EXPORT}.formats").FORMATS[name].encode(book, settings)
        return content

    return make
