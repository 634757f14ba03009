"""`generate`: write and illustrate a story from a one-line prompt."""

from __future__ import annotations

import argparse
import time
from dataclasses import asdict

from modules.commands.generating import generation_flags, load_pipeline, print_story, story_output
from modules.common.arguments import from_flags, positive_int
from modules.generation.settings import MAX_LONG_STORY, GenerationSettings, check_story


def add_flags(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--prompt", required=True, metavar="TEXT", help="what the story is about, in one line")
    parser.add_argument("--num_steps", type=positive_int, default=5, metavar="N", help="number of pages (default 5)")
    generation_flags(parser)


def run(args: argparse.Namespace) -> int:
    from modules.presentation.story.files import write_story

    check_story(args.prompt, args.num_steps, MAX_LONG_STORY)
    settings = from_flags(GenerationSettings, args)
    with story_output(args.output):
        pipeline = load_pipeline(args, args.prompt, num_steps=args.num_steps)
        started = time.perf_counter()
        story = pipeline(args.prompt, args.num_steps, settings=settings)
        print_story(story.texts, write_story(args.output, story, asdict(settings)), time.perf_counter() - started)
    return 0
