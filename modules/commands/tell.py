"""`generate`, `continue`, `illustrate`, `caption`: the verbs of a storyteller."""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from modules.commands.shared import checkpoint_flag
from modules.common.arguments import a_path, positive_int, seed_number
from modules.common.errors import UserError
from modules.generation import DECODINGS, MAX_LONG_STORY, SCHEDULERS, TEMPERATURE, TOP_P, check_settings, check_story

if TYPE_CHECKING:
    from modules.pipeline import StoryPipeline


SETTINGS = (
    "seed",
    "temperature",
    "top_p",
    "guidance_scale",
    "num_inference_steps",
    "scheduler",
    "decoding",
    "text_guidance_scale",
    "penalty_alpha",
    "strength",
)


def device_flag(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--device", help="where to compute: cpu, cuda, cuda:1, mps (default: the accelerator that is there, or the CPU)"
    )


def render_flags(parser: argparse.ArgumentParser) -> None:
    checkpoint_flag(parser)
    device_flag(parser)
    parser.add_argument("--seed", type=seed_number, default=0, help="the same seed gives the same bytes")
    told = "of the plan, and of the text with --decoding top_p (default %(default)s)"
    parser.add_argument("--temperature", type=float, default=TEMPERATURE, help=told)
    parser.add_argument("--top_p", type=float, default=TOP_P)
    parser.add_argument("--guidance_scale", type=float, default=2.0)
    parser.add_argument("--num_inference_steps", type=positive_int, default=20)
    parser.add_argument("--scheduler", choices=SCHEDULERS, default="ddim")
    parser.add_argument("--decoding", choices=DECODINGS, default="greedy")
    parser.add_argument(
        "--text_guidance_scale", type=float, default=1.0, help="above 1: texts lean on their codes (default 1)"
    )
    parser.add_argument(
        "--penalty_alpha",
        type=float,
        default=0.0,
        help="above 0, say .6: contrastive search, against loops (default 0)",
    )
    parser.add_argument(
        "--strength", type=float, default=1.0, help="below 1: each picture is drawn over the one before (default 1)"
    )
    parser.add_argument(
        "--save_memory", action="store_true", help="slower, with less memory: parts move to the device in turn"
    )
    parser.add_argument(
        "--output",
        type=a_path,
        default=Path("out"),
        help="folder for generated.png, book.html, story.json and the pages",
    )


def generate_flags(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--prompt", required=True, help="what the story is about, in one line")
    parser.add_argument("--num_steps", type=positive_int, default=5, help="pages (default 5)")
    render_flags(parser)


def continue_flags(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--story", type=Path, required=True, help="the given pages: story.json, or a folder with it or stories.jsonl"
    )
    parser.add_argument("--prompt", help="what the story is about (default: the given story's prompt)")
    parser.add_argument("--num_steps", type=positive_int, default=2, help="pages to add (default 2)")
    render_flags(parser)


def illustrate_flags(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--text", required=True, action="append", help="a page's text; give it several times for several pages"
    )
    render_flags(parser)


def caption_flags(parser: argparse.ArgumentParser) -> None:
    checkpoint_flag(parser)
    device_flag(parser)
    parser.add_argument("--image", type=Path, required=True)
    parser.add_argument("--decoding", choices=("greedy", "beam"), default="greedy")


def settings(args: argparse.Namespace) -> dict[str, Any]:
    return {name: getattr(args, name) for name in SETTINGS}


def load_pipeline(
    args: argparse.Namespace, prompt: str = "", texts: Sequence[str] = (), num_steps: int = 0
) -> StoryPipeline:
    """The pipeline of --ckpt; what it cannot do justice to in the prompt and in the given pages' texts is said.

    Raises UserError where it cannot tell `num_steps` pages.
    """
    from modules.pipeline import StoryPipeline

    pipeline = StoryPipeline.from_pretrained(args.ckpt, offline=args.offline)
    if num_steps:
        check_story(prompt, num_steps, pipeline.longest_story)
    pipeline.place(args.device, getattr(args, "save_memory", False))
    tokenizer, config = pipeline.tokenizer, pipeline.config
    unseen = list(dict.fromkeys(word for text in (prompt, *texts) for word in tokenizer.unseen_words(text)))
    if unseen:
        print(
            f"note: these weights have never seen {', '.join(unseen)}; the story may go its own way there",
            file=sys.stderr,
        )
    limits = (
        ("the prompt", config.max_prompt_length, [prompt]),
        ("a page's text", config.text_decoder.max_length, texts),
    )
    for what, length, given in limits:
        if any(len(tokenizer.encode(text, sys.maxsize)) > length for text in given):
            print(
                f"note: these weights read the first {length - 2} tokens of {what}; the rest is passed over",
                file=sys.stderr,
            )
    return pipeline


def act_generate(args: argparse.Namespace) -> None:
    from modules.presentation.story.files import prepare_output, write_story

    check_story(args.prompt, args.num_steps, MAX_LONG_STORY)
    check_settings(**settings(args))
    prepare_output(args.output)
    pipeline = load_pipeline(args, args.prompt, num_steps=args.num_steps)
    started = time.perf_counter()
    story = pipeline(args.prompt, num_steps=args.num_steps, **settings(args))
    tell(story.texts, write_story(args.output, story, settings(args)), started)


def act_continue(args: argparse.Namespace) -> None:
    from modules.presentation.story.files import prepare_output, read_story, write_story

    given = read_story(args.story)
    prompt = given.prompt if args.prompt is None else args.prompt
    check_story(prompt, args.num_steps, MAX_LONG_STORY)
    check_settings(**settings(args))
    prepare_output(args.output)
    pipeline = load_pipeline(args, prompt, [step.text for step in given.steps if step.text is not None], args.num_steps)
    started = time.perf_counter()
    pages = pipeline.complete(prompt, given.steps, **settings(args))
    story = pipeline.continue_story(prompt, given.steps, args.num_steps, **settings(args))
    files = write_story(args.output, story, settings(args), pages)
    tell([*(f"(given) {text}" for text in pages.texts), *story.texts], files, started)


def act_illustrate(args: argparse.Namespace) -> None:
    from modules.presentation.story.files import prepare_output, write_story

    if not all(text.strip() for text in args.text):
        raise UserError("--text is empty: say what the picture shows")
    check_settings(**settings(args))
    prepare_output(args.output)
    pipeline = load_pipeline(args, texts=args.text)
    started = time.perf_counter()
    story = pipeline.illustrate(args.text, **settings(args))
    tell(story.texts, write_story(args.output, story, settings(args)), started)


def act_caption(args: argparse.Namespace) -> None:
    from modules.data.images import load_image

    image = load_image(args.image)
    text, codes = load_pipeline(args).caption(image, args.decoding)
    print(text)
    print(f"codes {' '.join(str(code) for code in codes.tolist())}", file=sys.stderr)


def tell(texts: Sequence[str], files: Sequence[Path], started: float) -> None:
    """Print the story, a line a page, and where it lies."""
    from modules.presentation.text import clean

    for number, text in enumerate(texts, 1):
        print(f"{number}. {' '.join(clean(text).split())}")
    names = ", ".join(file.name for file in files)
    count = "1 page" if len(texts) == 1 else f"{len(texts)} pages"
    print(
        f"{count} in {time.perf_counter() - started:.1f} s, in the folder {files[0].parent}: {names}", file=sys.stderr
    )
