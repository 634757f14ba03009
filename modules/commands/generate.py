"""`generate`: write and illustrate a story from a one-line prompt, or from the plan of an earlier one."""

from __future__ import annotations

import argparse
import sys
import time
from dataclasses import asdict
from typing import TYPE_CHECKING

from modules.commands.generating import generation_flags, load_pipeline, print_notes, print_story, story_output
from modules.commands.steering import told_pages, told_pages_flags, typed, write_planned
from modules.common.arguments import from_flags, positive_int
from modules.common.errors import UserError
from modules.generation.settings import MAX_LONG_STORY, GenerationSettings, check_story

if TYPE_CHECKING:
    from modules.generation.pipeline import StoryPipeline
    from modules.steering.planned_story import PlannedStory

NUM_TOLD = 16  # Plans drawn for a page told in words: the prior may not know of it before it comes.


def add_flags(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--prompt", metavar="TEXT", help="what the story is about, in one line")
    parser.add_argument(
        "--from",
        dest="source",
        metavar="PLAN",
        help="make an earlier story again, from a page's PNG, a book of export_book, its story.json, or the text of its"
        " plan, in place of"
        " --prompt; its own settings and number of pages apply",
    )
    parser.add_argument("--num_steps", type=positive_int, default=5, metavar="N", help="number of pages (default 5)")
    parser.add_argument(
        "--best_of",
        type=positive_int,
        metavar="N",
        help="draw so many plans and make the story of the best one, as ranked by the command plan (default 1; with the"
        f" text of a page {NUM_TOLD})",
    )
    told_pages_flags(parser)
    generation_flags(parser)


def run(args: argparse.Namespace) -> int:
    if (args.prompt is None) == (args.source is None):
        raise UserError("exactly one of these flags is required: --prompt, or --from for the plan of an earlier story")
    if args.source is not None and (args.told_by or args.best_of):
        raise UserError(f"--from makes an earlier story again: leave out {typed(args) or '--best_of'}")
    return replay_story(args) if args.prompt is None else generate(args)


def generate(args: argparse.Namespace) -> int:
    """Generate a new story from `--prompt`."""
    from modules.presentation.story.files import write_story
    from modules.steering.planned_story import replay, tell
    from modules.steering.search import Constraints, search

    check_story(args.prompt, args.num_steps, MAX_LONG_STORY)
    settings, told = from_flags(GenerationSettings, args), told_pages(args)
    num_plans = args.best_of or (NUM_TOLD if told else 1)
    with story_output(args.output):
        pipeline = load_pipeline(args, args.prompt, list(told.values()), args.num_steps)
        started = time.perf_counter()
        if pipeline.model.has_codes:
            if num_plans > 1 or told:
                wishes = Constraints(pages=told)
                best = search(pipeline, args.prompt, args.num_steps, num_plans, 1, wishes, settings)[0]
                story = replay(pipeline, best.plan)
            else:
                story = tell(pipeline, args.prompt, args.num_steps, settings)
            print_story(story.texts, write_planned(args.output, story), time.perf_counter() - started)
            print_short(pipeline, story)
        elif num_plans > 1 or told:
            flag = typed(args) or "--best_of"
            raise UserError(f"{flag}: this needs a model that plans in codes, and this one has none: leave it out")
        else:
            output = pipeline(args.prompt, args.num_steps, settings=settings)
            files = write_story(args.output, output, asdict(settings))
            print_story(output.texts, files, time.perf_counter() - started)
    return 0


def print_short(pipeline: StoryPipeline, story: PlannedStory) -> None:
    """Print, to stderr, the short text of a story's plan if it has one."""
    from modules.steering.short import ShortTexts

    if text := ShortTexts(pipeline).write(story.plan):
        print(f"the same story again: generate --from {text}", file=sys.stderr)


def replay_story(args: argparse.Namespace) -> int:
    """Make the story of `--from` again."""
    from modules.presentation.story.files import read_plan
    from modules.steering.plan import Plan
    from modules.steering.planned_story import replay
    from modules.steering.short import ShortTexts, is_short

    text, given = read_plan(args.source)
    plan = None if is_short(text) else Plan.from_string(text)
    with story_output(args.output):
        pipeline = load_pipeline(args)
        plan = ShortTexts(pipeline).read(text) if plan is None else plan
        started = time.perf_counter()
        story = replay(pipeline, plan, [] if given is None else [step.image for step in given.steps])
        print_notes(story.notes)
        print_story(story.texts, write_planned(args.output, story), time.perf_counter() - started)
    return 0
