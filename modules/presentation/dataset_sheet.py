"""A folder of stories to look at: thumbnails and texts, a row for each story, as one self-contained page of HTML."""

from __future__ import annotations

import random
from pathlib import Path
from string import Template

from PIL import Image

from modules.common.errors import UserError
from modules.data.folder import split_folders
from modules.data.images import load_image
from modules.data.records import STORIES_FILE, RecordError, parse_line, read_lines
from modules.presentation.markup import data_uri, encode_image, escape
from modules.story import Story, StoryStep

THUMBNAIL, QUALITY, MAX_TEXT = 264, 80, 600
_TEMPLATE = Path(__file__).with_name("dataset_sheet.html")


def dataset_sheet(folder: Path, num_stories: int, seed: int | None = None, max_pages: int = 12) -> str:
    """The page of up to `num_stories` stories of each split, spread evenly over it or, with a seed, drawn at random.

    The same folder and seed give the same page; a bad record or picture stands as such. Raises UserError if there is no
    story.
    """
    sections = [_section(part, num_stories, seed, max_pages) for part in split_folders(folder).values()]
    about = "Each row is a story: its prompt, then its steps. Long stories are cut short here; all of them is in stories.jsonl."
    return Template(_TEMPLATE.read_text(encoding="utf-8")).substitute(
        title=escape(folder.resolve().name), about=about, splits="\n".join(sections)
    )


def _section(folder: Path, num_stories: int, seed: int | None, max_pages: int) -> str:
    count = sum(1 for _ in read_lines(folder / STORIES_FILE))
    shown = min(num_stories, count)
    if seed is None:
        chosen = {index * count // shown for index in range(shown)}
    else:
        chosen = set(random.Random(seed).sample(range(count), shown))
    rows = [
        _row(folder, line, number, max_pages)
        for index, (number, line) in enumerate(read_lines(folder / STORIES_FILE))
        if index in chosen
    ]
    note = f"{shown:,} of {count:,} stories" if shown < count else f"all {count:,} stories"
    return f'<section><h2>{escape(folder.resolve().name)}</h2><p class="soft">{note}</p>{"".join(rows)}</section>'


def _row(folder: Path, line: bytes, number: int, max_pages: int) -> str:
    try:
        story = parse_line(line, number, folder)
    except RecordError as error:
        return f'<article><h3>line {number}</h3><p class="soft">cannot be read: {escape(error)}</p></article>'
    pages = [_page(step) for step in story.steps[:max_pages]]
    if len(story.steps) > max_pages:
        pages.append(f'<p class="more">and {len(story.steps) - max_pages:,} more</p>')
    return f'<article><h3>{escape(story.prompt)}</h3><p class="soft">{_byline(story)}</p><div class="pages">{"".join(pages)}</div></article>'


def _byline(story: Story) -> str:
    made = [story.extra.get(key) for key in ("source", "license", "credit", "author", "illustrator")]
    parts = dict.fromkeys(str(part) for part in made if part)
    return escape(" · ".join([story.id, f"{len(story.steps)} step{'s' if len(story.steps) > 1 else ''}", *parts]))


def _page(step: StoryStep) -> str:
    text = step.text or ""
    text = text if len(text) <= MAX_TEXT else f"{text[:MAX_TEXT]}…"
    return f"<figure>{_thumbnail(step.image_path)}<figcaption>{escape(text)}</figcaption></figure>"


def _thumbnail(path: Path | None) -> str:
    if path is None:
        return '<p class="blank">no picture</p>'
    try:
        image = load_image(path)
    except UserError:
        return f'<p class="blank">{escape(path.name)} is broken</p>'
    image.thumbnail((THUMBNAIL, THUMBNAIL), Image.Resampling.LANCZOS)
    return f'<img src="{data_uri(encode_image(image, "JPEG", quality=QUALITY), "jpeg")}" alt="{escape(path.name)}" loading="lazy">'
