"""A finished book as the exports take it, and how it is made from a story or read from its files."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from PIL import Image

from modules.common.errors import UserError
from modules.presentation.export.ways import BRANCHES, first_way, read_branches, single_way
from modules.presentation.story.book import BookPage
from modules.presentation.story.files import read_page_plans, read_story
from modules.presentation.theme import LIGHT
from modules.steering.branches import BranchedStory
from modules.steering.plan import Plan
from modules.story import Story

if TYPE_CHECKING:
    from modules.steering.planned_story import PlannedStory

MAX_PAGES = 1000


@dataclass(frozen=True)
class Book:
    """A story of one page or more.

    `plan` is its text form; `details` are the entries of its colophon; `notes` are those of its title page. `branches`
    are its ways, where it forks: `pages` are then those of the first way. `sources` are the files that it was read
    from, which no export overwrites; `remarks` say what was wrong with them.
    """

    title: str
    pages: tuple[BookPage, ...]
    plan: str | None = None
    lang: str = "en"
    author: str = ""
    details: Mapping[str, Any] = field(default_factory=dict)
    notes: tuple[str, ...] = ()
    branches: BranchedStory | None = None
    sources: tuple[Path, ...] = ()
    remarks: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if not 1 <= len(self.pages) <= MAX_PAGES:
            raise UserError(f"a book has 1 to {MAX_PAGES} pages, and this story {len(self.pages)}")

    @property
    def ways(self) -> BranchedStory:
        """The book's branches; without any, its pages in a row."""
        return self.branches or single_way(self.title, self.pages, self.plan)


def planned_book(story: PlannedStory, **fields: Any) -> Book:
    """Return a story with its plan as a book; `fields` are other fields of it."""
    pages = [
        BookPage(image, text, list(codes), None, stamp)
        for image, text, codes, stamp in zip(story.images, story.texts, story.plan.codes, story.stamps, strict=True)
    ]
    return Book(story.plan.prompt, tuple(pages), story.plan.to_string(), notes=story.notes, **fields)


def branched_book(story: BranchedStory, **fields: Any) -> Book:
    """Return a branched story as a book, whose pages are those of the first way."""
    way = first_way(story)
    ending = story.endings.get(way[-1].id)
    plan = None if ending is None else ending.to_string()
    pages = tuple(BookPage(page.image, page.text, list(page.codes) or None, None, plan) for page in way)
    return Book(story.prompt, pages, plan, branches=story, **fields)


def read_book(path: Path, **fields: Any) -> Book:
    """Read a book: a folder that `branch` wrote or its branches.json, or what `read_story` reads.

    Raises UserError where that fails, or where a picture is missing or broken.
    """
    file = path / BRANCHES if path.is_dir() and not (path / "story.json").exists() else path
    if file.name == BRANCHES and file.is_file():
        return branched_book(read_branches(file), sources=(file, *sorted(file.parent.glob("page_*.png"))), **fields)
    story = read_story(path)
    files = [path / "story.json", path / "stories.jsonl"] if path.is_dir() else [path]
    sources = (*files, *(step.image_path for step in story.steps if step.image_path is not None))
    return _stored_book(story, sources=sources, **fields)


def _stored_book(story: Story, **fields: Any) -> Book:
    plan, remarks = _plan_of(story)
    codes = [None] * len(story.steps) if plan is None else [list(row) for row in Plan.from_string(plan).codes]
    stamps: list[str | None] = [None] * len(story.steps) if plan is None else read_page_plans(story)
    pages = [
        BookPage(step.image or _empty_picture(), step.text or "", row, None, stamp)
        for step, row, stamp in zip(story.steps, codes, stamps, strict=True)
    ]
    missing = [str(number) for number, step in enumerate(story.steps, 1) if step.image is None]
    remarks += [f"no picture: page {', '.join(missing)}"] if missing else []
    notes, details = story.extra.get("notes"), story.extra.get("settings")
    return Book(
        title=story.prompt.strip() or "A story",
        pages=tuple(pages),
        plan=plan,
        details=details if isinstance(details, dict) else {},
        notes=tuple(map(str, notes)) if isinstance(notes, list) else (),
        remarks=tuple(remarks),
        **fields,
    )


def _plan_of(story: Story) -> tuple[str | None, list[str]]:
    """Return the text form of the plan that a story carries, and why it is left out where it does not fit."""
    text = story.extra.get("plan")
    if text is None:
        return None, []
    num_pages = Plan.from_string(str(text)).num_pages
    if num_pages != len(story.steps):
        return None, [f"the plan in story.json is left out: it has {num_pages} pages, and the story {len(story.steps)}"]
    return str(text), []


def _empty_picture() -> Image.Image:
    return Image.new("RGB", (96, 96), LIGHT.line)
