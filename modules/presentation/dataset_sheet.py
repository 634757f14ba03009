"""Dataset sheets: thumbnails and texts of a story folder as one self-contained HTML page."""

from __future__ import annotations

import random
from dataclasses import dataclass
from pathlib import Path

from PIL import Image

from modules.common.errors import UserError
from modules.data.folder import split_folders
from modules.data.images import load_image
from modules.data.records import STORIES_FILE, RecordError, parse_line, read_lines
from modules.presentation.images import jpeg_uri
from modules.presentation.templates import render
from modules.story import Story, StoryStep

THUMBNAIL, QUALITY, MAX_TEXT = 264, 80, 600
CREDITS = ("source", "license", "credit", "author", "illustrator")  # Extra fields of a record.


@dataclass(frozen=True)
class StoryRow:
    """A story as one row of the sheet; `problem` replaces the pages of a record that cannot be read."""

    title: str
    byline: str = ""
    pages: tuple[PageThumbnail, ...] = ()
    num_hidden: int = 0
    problem: str = ""


@dataclass(frozen=True)
class PageThumbnail:
    """A page's text and its picture as a data URI, or the reason why there is no picture."""

    text: str
    picture: str | None
    file: str


def dataset_sheet(folder: Path, num_stories: int, seed: int | None = None, max_pages: int = 12) -> str:
    """Return a page with up to `num_stories` stories of each split, evenly spaced or, with a seed, drawn at random.

    The same folder and seed give the same page. A bad record or picture is shown as such. Raises UserError if there is
    no story.
    """
    splits = [_split(part, num_stories, seed, max_pages) for part in split_folders(folder).values()]
    return render("dataset_sheet.html", title=folder.resolve().name, splits=splits)


def _split(folder: Path, num_stories: int, seed: int | None, max_pages: int) -> dict[str, object]:
    count = sum(1 for _ in read_lines(folder / STORIES_FILE))
    shown = min(num_stories, count)
    if seed is None:
        chosen = {index * count // shown for index in range(shown)}
    else:
        chosen = set(random.Random(seed).sample(range(count), shown))
    stories = [
        _row(folder, line, number, max_pages)
        for index, (number, line) in enumerate(read_lines(folder / STORIES_FILE))
        if index in chosen
    ]
    return {"name": folder.resolve().name, "count": count, "stories": stories}


def _row(folder: Path, line: bytes, number: int, max_pages: int) -> StoryRow:
    try:
        story = parse_line(line, number, folder)
    except RecordError as error:
        return StoryRow(f"line {number}", problem=str(error))
    pages = tuple(_page(step) for step in story.steps[:max_pages])
    return StoryRow(story.prompt, _byline(story), pages, len(story.steps) - len(pages))


def _byline(story: Story) -> str:
    credits = [str(story.extra[key]) for key in CREDITS if story.extra.get(key)]
    count = "1 page" if len(story.steps) == 1 else f"{len(story.steps)} pages"
    return " · ".join([story.id, count, *dict.fromkeys(credits)])


def _page(step: StoryStep) -> PageThumbnail:
    text = step.text or ""
    text = text if len(text) <= MAX_TEXT else f"{text[:MAX_TEXT]}…"
    if step.image_path is None:
        return PageThumbnail(text, None, "")
    return PageThumbnail(text, _thumbnail(step.image_path), step.image_path.name)


def _thumbnail(path: Path) -> str | None:
    """Return a small picture as a data URI, or None if the file is broken."""
    try:
        image = load_image(path)
    except UserError:
        return None
    image.thumbnail((THUMBNAIL, THUMBNAIL), Image.Resampling.LANCZOS)
    return jpeg_uri(image, QUALITY)
