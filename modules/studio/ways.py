"""Branches as the project stores them: their pages, the captions of their choices, and ways that stop too early."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from PIL import Image

from modules.common.errors import UserError
from modules.generation.endings import ends_story
from modules.generation.pipeline import StoryPipeline
from modules.steering.branches import BranchedStory, BranchPage, branch
from modules.steering.plan import Plan
from modules.steering.planned_story import PlannedStory
from modules.studio.project import Book, Project


def grow(
    pipeline: StoryPipeline, story: PlannedStory, page: int, branches: int, depth: int, keep: Callable[..., str]
) -> dict[str, Any]:
    """Let a story fork at a page; return the record of its branches, with the pictures that `keep` stored."""
    grown = branch(pipeline, story, page, branches, depth)
    pages = {
        one.id: {"page": one.page, "text": one.text, "picture": keep(one.image), "codes": one.codes, "next": one.next}
        for one in grown.pages.values()
    }
    prompt, longest = pipeline.prompt_tokens(grown.prompt), pipeline.config.max_steps
    dead_ends = [
        name
        for name, plan in grown.endings.items()
        if not ends_story(pipeline.model.prior, torch.tensor(plan.codes), *prompt, longest)
    ]
    endings = {name: plan.to_string() for name, plan in grown.endings.items()}
    return {"pages": pages, "start": grown.start, "endings": endings, "dead_ends": dead_ends, "captions": {}}


def branched_story(project: Project, book: Book) -> BranchedStory:
    """Return a story's branches with their pictures. Raises UserError if there are none, or a picture is gone."""
    record = book.branches
    if record is None:
        raise UserError("this story has no branches: open the page at which it should fork, and branch there")
    captions = record.get("captions", {})
    pages = {
        name: BranchPage(
            id=name,
            page=page["page"],
            codes=tuple(page.get("codes", ())),
            text=page["text"],
            image=_picture(project, page["picture"]),
            next=tuple(page["next"]),
            caption=captions.get(name, ""),
        )
        for name, page in record["pages"].items()
    }
    endings = {name: Plan.from_string(text) for name, text in record["endings"].items()}
    return BranchedStory(book.title, pages, tuple(record["start"]), endings)


def _picture(project: Project, name: str) -> Image.Image:
    image = project.picture(name)
    if image is None:
        raise UserError(f"the project lost the picture {name}.png: branch again")
    return image
