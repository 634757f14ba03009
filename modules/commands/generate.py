"""`generate`: write and illustrate a story from a one-line prompt, or from the plan of an earlier one."""

from __future__ import annotations

import argparse
import time
from dataclasses import asdict

from modules.commands.generating import generation_flags, load_pipeline, print_notes, print_story, story_output
from modules.commands.steering import write_planned
from modules.common.arguments import from_flags, positive_int
from modules.common.errors import UserError
from modules.generation.settings import MAX_LONG_STORY, GenerationSettings, check_story


def add_flags(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--prompt", metavar="TEXT", help="what the story is about, in one line")
    parser.add_argument(
        "--from",
        dest="source",
        metavar="PLAN",
        help="make an earlier story again, from a page's PNG, a book of export_book, its story.json, or the text of its"
        " plan, in place of"
        " --prompt; its own settings apply",
    )
    parser.add_argument("--num_steps", type=positive_int, default=5, metavar="N", help="number of pages (default 5)")
    parser.add_argument(
        "--best_of",
        type=positive_int,
        default=1,
        metavar="N",
        help="draw so many plans and make the story of the best one, as ranked by the command plan (default 1)",
    )
    generation_flags(parser)


def run(args: argparse.Namespace) -> int:
    if (args.prompt is None) == (args.source is None):
        raise UserError("exactly one of these flags is required: --prompt, or --from for the plan of an earlier story")
    return replay_story(args) if args.prompt is None else generate(args)


def generate(args: argparse.Namespace) -> int:
    """Generate a new story from `--prompt`."""
    from modules.presentation.story.files import write_story
    from modules.steering.planned_story import replay, tell
    from modules.steering.search import search

    check_story(args.prompt, args.num_steps, MAX_LONG_STORY)
    settings = from_flags(GenerationSettings, args)
    with story_output(args.output):
        pipeline = load_pipeline(args, args.prompt, num_steps=args.num_steps)
        started = time.perf_counter()
        if pipeline.model.has_codes:
            if args.best_of > 1:
                plan = search(pipeline, args.prompt, args.num_steps, args.best_of, keep=1, settings=settings)[0].plan
                story = replay(pipeline, plan)
            else:
                story = tell(pipeline, args.prompt, args.num_steps, settings)
            print_story(story.texts, write_planned(args.output, story), time.perf_counter() - started)
        elif args.best_of > 1:
            raise UserError("--best_of ranks plans, and this model has none: leave it out")
        else:
            output = pipeline(args.prompt, args.num_steps, settings=settings)
            files = write_story(args.output, output, asdict(settings))
            print_story(output.texts, files, time.perf_counter() - started)
    return 0


def replay_story(args: argparse.Namespace) -> int:
    """Make the story of `--from` again."""
    from modules.presentation.story.files import read_plan
    from modules.steering.plan import Plan
    from modules.steering.planned_story import replay

    text, given = read_plan(args.source)
    plan = Plan.from_string(text)
    with story_output(args.output):
        pipeline = load_pipeline(args)
        started = time.perf_counter()
        story = replay(pipeline, plan, [] if given is None else [step.image for step in given.steps])
        print_notes(story.notes)
        print_story(story.texts, write_planned(args.output, story), time.perf_counter() - started)
    return 0
