"""Shared code of the commands that steer a story: its flags, opening it, and writing it."""

from __future__ import annotations

import argparse
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from modules.commands.generating import device_flag, print_notes
from modules.commands.shared import checkpoint_flag
from modules.common.arguments import a_path, positive_int
from modules.common.errors import UserError

if TYPE_CHECKING:
    from modules.generation.pipeline import StoryPipeline
    from modules.steering.planned_story import PlannedStory


def story_argument(parser: argparse.ArgumentParser) -> None:
    """Add the story, the model and the device."""
    parser.add_argument(
        "story",
        type=a_path,
        metavar="STORY",
        help="a story: a story.json, or a folder with story.json or stories.jsonl (its first story)",
    )
    checkpoint_flag(parser)
    device_flag(parser)


def page_flag(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--page", type=positive_int, required=True, metavar="N", help="number of the page, from 1")


class _StoreTold(argparse.Action):
    """Store the text of a page, and in `told_by` the flag that was typed, for there are two of each."""

    def __call__(
        self, _parser: argparse.ArgumentParser, args: argparse.Namespace, value: Any, flag: str | None = None
    ) -> None:
        setattr(args, self.dest, value)
        args.told_by = args.told_by | {self.dest: flag}


def told_pages_flags(parser: argparse.ArgumentParser) -> None:
    parser.set_defaults(told_by={})
    for name, other, place in (("--first_page", "--beginning", "first"), ("--last_page", "--ending", "last")):
        parser.add_argument(
            name,
            other,
            action=_StoreTold,
            metavar="TEXT",
            help=f"the text of the {place} page; the other pages are planned around it",
        )


def told_pages(args: argparse.Namespace) -> dict[int, str]:
    """Return the texts of the pages that the flags tell, by page from 0. Raises UserError if one is empty, or if both
    are of the same page.
    """
    told = {"first_page": (0, args.first_page), "last_page": (args.num_steps - 1, args.last_page)}
    for name, (_, text) in told.items():
        if text is not None and not text.strip():
            raise UserError(f"{args.told_by[name]}: the text is empty: write a sentence")
    if args.num_steps == 1 and len(args.told_by) == 2:
        raise UserError(
            f"{typed(args)} name the same page of a story of one page: give one of them, or --num_steps 2 or more"
        )
    return {page: text for page, text in told.values() if text is not None}


def typed(args: argparse.Namespace) -> str:
    """Return the flags of told pages as they were typed."""
    return " and ".join(args.told_by.values())


def load_codes_model(args: argparse.Namespace) -> StoryPipeline:
    """Load the model of `--ckpt`. Raises UserError if it plans without codes."""
    from modules.generation.pipeline import StoryPipeline

    pipeline = StoryPipeline.from_pretrained(args.ckpt, offline=args.offline).place(args.device)
    pipeline.check_codebook()
    return pipeline


def open_planned(args: argparse.Namespace) -> tuple[StoryPipeline, PlannedStory]:
    """Load the model and the story of the flags; print what the story's plan could not be used for."""
    from modules.presentation.story.files import read_page_plans, read_story
    from modules.steering.planned_story import open_story

    given = read_story(args.story)
    if not given.prompt.strip():
        raise UserError(f"the prompt in {args.story} is empty: say there in one line what the story is about")
    pipeline = load_codes_model(args)
    story = open_story(pipeline, given, read_page_plans(given))
    print_notes(story.notes)
    return pipeline, story


def page_index(story: PlannedStory, page: int) -> int:
    """Return a page's place in the story, from 0. Raises UserError if there is no such page."""
    if page > story.plan.num_pages:
        raise UserError(f"--page {page} is not in the story, which has {story.plan.num_pages} pages")
    return page - 1


def write_planned(folder: Path, story: PlannedStory) -> list[Path]:
    """Write a story with its plan, and return the files for the user to open."""
    from modules.presentation.story.files import write_story

    plan = story.plan
    given = {page for page, source in enumerate(plan.text_from) if source is None and plan.picture_from[page] is None}
    return write_story(
        folder,
        story.to_output(),
        asdict(plan.settings),
        plan=plan.to_string(),
        page_plans=story.stamps,
        given_pages=given,
    )
