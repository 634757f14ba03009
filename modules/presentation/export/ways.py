"""The ways through a book: read from a folder that `branch` wrote, or the one way of a story without forks."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from modules.common.errors import UserError
from modules.common.files import read_json
from modules.data.images import load_image
from modules.data.records import RecordError, parse_record
from modules.presentation.story.book import BookPage
from modules.steering.branches import BranchedStory, BranchPage
from modules.steering.plan import Plan

BRANCHES = "branches.json"


def read_branches(file: Path) -> BranchedStory:
    """Read a branched story, with its pictures, from its `branches.json`. Raises UserError, naming what is wrong."""
    record = read_json(file, "branched story")
    try:
        steps = parse_record({"id": file.stem, "prompt": record["prompt"], "steps": record["pages"]}, "", file.parent)
        pages = {
            str(page["id"]): BranchPage(
                id=str(page["id"]),
                page=int(page["page"]) - 1,
                codes=tuple(map(int, page.get("codes") or ())),
                text=step.text or "",
                image=_picture(step.image_path, page),
                next=tuple(map(str, page["next"])),
                caption=str(page.get("caption", "")),
            )
            for page, step in zip(record["pages"], steps.steps, strict=True)
        }
        start = tuple(map(str, record["start"]))
        endings = {str(name): Plan.from_string(str(text)) for name, text in record.get("endings", {}).items()}
    except RecordError as error:
        raise UserError(f"{file}: {error}") from None
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise UserError(f"{file} is no branched story ({error!r}): give what branch wrote") from None
    _check_links(file, pages, start)
    return BranchedStory(steps.prompt, pages, start, endings)


def first_way(story: BranchedStory) -> list[BranchPage]:
    """Return the pages of a branched story when the first choice is taken each time."""
    way = [story.pages[story.start[0]]]
    while way[-1].next:
        way.append(story.pages[way[-1].next[0]])
    return way


def single_way(title: str, pages: Sequence[BookPage], plan: str | None) -> BranchedStory:
    """Return a story without forks as a branched one."""
    last = len(pages)
    nodes = {
        str(number): BranchPage(
            id=str(number),
            page=number - 1,
            codes=tuple(page.codes or ()),
            text=page.text,
            image=page.image,
            next=(str(number + 1),) if number < last else (),
        )
        for number, page in enumerate(pages, 1)
    }
    endings = {} if plan is None else {str(last): Plan.from_string(plan)}
    return BranchedStory(title, nodes, ("1",), endings)


def _picture(path: Path | None, page: Any) -> Any:
    if path is None:
        raise RecordError(f"page {page['id']} has no picture")
    return load_image(path)


def _check_links(file: Path, pages: dict[str, BranchPage], start: Sequence[str]) -> None:
    """Raise UserError if a choice leads nowhere, or back: every way must end."""
    if not start:
        raise UserError(f"{file} has no first page")
    for name in (*start, *(name for page in pages.values() for name in page.next)):
        if name not in pages:
            raise UserError(f"{file}: a choice leads to the page {name!r}, which is not there")
    for page in pages.values():
        if any(pages[name].page <= page.page for name in page.next):
            raise UserError(f"{file}: a choice of the page {page.id!r} leads back, so that the story may never end")
