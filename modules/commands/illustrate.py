"""`illustrate`: draw a picture for each given text."""

from __future__ import annotations

import argparse
import time
from dataclasses import asdict

from modules.commands.generating import generation_flags, load_pipeline, print_story, story_output
from modules.common.arguments import from_flags
from modules.common.errors import UserError
from modules.generation.settings import GenerationSettings


def add_flags(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--text",
        required=True,
        action="append",
        metavar="TEXT",
        help="the text of a page; repeat the flag for several pages",
    )
    generation_flags(parser)


def run(args: argparse.Namespace) -> int:
    from modules.presentation.story.files import write_story

    if not all(text.strip() for text in args.text):
        raise UserError("--text is empty: describe the picture in a sentence")
    settings = from_flags(GenerationSettings, args)
    with story_output(args.output):
        pipeline = load_pipeline(args, texts=args.text)
        started = time.perf_counter()
        story = pipeline.illustrate(args.text, settings=settings)
        print_story(story.texts, write_story(args.output, story, asdict(settings)), time.perf_counter() - started)
    return 0
