"""`continue`: add pages to a story."""

from __future__ import annotations

import argparse
import time
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from modules.commands.generating import generation_flags, load_pipeline, print_notes, print_story, story_output
from modules.common.arguments import a_path, from_flags, positive_int
from modules.generation.settings import MAX_LONG_STORY, GenerationSettings, check_story

if TYPE_CHECKING:
    from modules.generation.output import StoryPipelineOutput
    from modules.generation.pipeline import StoryPipeline
    from modules.story import Story


def add_flags(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--story",
        type=a_path,
        required=True,
        metavar="PATH",
        help="the story to continue: a story.json, or a folder with story.json or stories.jsonl (its first story)",
    )
    parser.add_argument(
        "--prompt", metavar="TEXT", help="what the story is about, in one line (default: the prompt in --story)"
    )
    parser.add_argument(
        "--num_steps", type=positive_int, default=2, metavar="N", help="number of pages to add (default 2)"
    )
    generation_flags(parser)


def run(args: argparse.Namespace) -> int:
    from modules.generation.endings import ENDED
    from modules.presentation.story.files import read_story, write_story

    settings = from_flags(GenerationSettings, args)
    given = read_story(args.story, args.prompt)
    prompt = given.prompt
    check_story(prompt, args.num_steps, MAX_LONG_STORY)
    with story_output(args.output):
        pipeline = load_pipeline(
            args, prompt, [step.text for step in given.steps if step.text is not None], args.num_steps
        )
        started = time.perf_counter()
        pages = pipeline.complete(prompt, given.steps, settings=settings)
        story = pipeline.continue_story(prompt, given.steps, args.num_steps, settings=settings)
        print_notes([note for note in story.notes if note == ENDED])  # The others were printed before.
        plan = extended_plan(pipeline, given, story, settings)
        files = write_story(args.output, story, asdict(settings), pages, **plan)
        texts = [*(f"(given) {text}" for text in pages.texts), *story.texts]
        print_story(texts, files, time.perf_counter() - started)
    return 0


def extended_plan(
    pipeline: StoryPipeline, given: Story, new: StoryPipelineOutput, settings: GenerationSettings
) -> dict[str, Any]:
    """Return the plans that go into the story's files; none for a model that plans without codes."""
    from modules.presentation.story.files import read_page_plans
    from modules.steering.extend import extend
    from modules.steering.planned_story import codes_of, open_story

    if not pipeline.model.has_codes:
        return {}
    before = open_story(pipeline, given, read_page_plans(given), settings)
    story = extend(pipeline, before, codes_of(pipeline.encode(given.steps)), new, settings)
    return {"plan": story.plan.to_string(), "page_plans": story.stamps}
