"""The command line: flags, what each command does with them, and how errors are told."""

from __future__ import annotations

import argparse
import dataclasses
import json
import sys
import time
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from modules.arguments import Parser, normalise_flag, positive_float, positive_int
from modules.checks import DECODINGS, SCHEDULERS, check_settings, check_story
from modules.memory import keep_freed_memory
from modules.story import StorySource, UserError

if TYPE_CHECKING:
    from modules.config import StoryConfig
    from modules.pipeline import StoryPipeline

DATA_HELP = "a folder of stories (see README), or the word storyworld for the built-in world"


def run(command: str, argv: Sequence[str]) -> int:
    """Run `command` with its flags and return the exit code. Dashes and underscores in flags are the same."""
    argv = [normalise_flag(word) for word in argv]
    parser = Parser(prog=f"story_generative_model.py {command}")
    add_flags, act = COMMANDS[command]
    add_flags(parser)
    args = parser.parse_args(argv)
    warnings.formatwarning = lambda message, *_: f"warning: {message}\n"
    keep_freed_memory()
    try:
        return act(args) or 0
    except UserError as error:
        print(f"error: {' '.join(str(error).splitlines())}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("stopped", file=sys.stderr)
        return 130


# -- train --------------------------------------------------------------------------------------------------------------


def train_flags(parser: argparse.ArgumentParser) -> None:
    from modules.config import PRESETS

    parser.add_argument("--preset", choices=sorted(PRESETS), default="storyworld", help="which model (default storyworld)")
    parser.add_argument("--config", type=Path, help="a config JSON in place of a preset; --dry_run prints one to start from")
    parser.add_argument("--data", default="storyworld", help=DATA_HELP)
    parser.add_argument("--output_dir", type=Path, default=Path("checkpoints/run"), help="the run's folder; the same command resumes it")
    parser.add_argument(
        "--stages", default="autoencoder,opening,joint,consolidation", help="which phases to run, in order (default all)"
    )
    parser.add_argument("--autoencoder", type=Path, help="a checkpoint whose trained autoencoder is used in place of training one")
    parser.add_argument("--max_steps", type=positive_int, help="updates of the joint phase; the other phases scale with it")
    parser.add_argument("--batch_size", type=positive_int, help="stories a process and a micro-batch")
    parser.add_argument("--gradient_accumulation_steps", type=positive_int, default=1, help="micro-batches an update (default 1)")
    parser.add_argument("--learning_rate", type=positive_float, help="peak learning rate of the joint phase")
    parser.add_argument("--mixed_precision", choices=("no", "bf16", "fp16"), default="no", help="bf16 is much faster, also on many CPUs")
    parser.add_argument("--num_stories", type=positive_int, help="stories drawn when --data is storyworld")
    parser.add_argument("--save_every", type=positive_int, default=200, help="updates between checkpoints (default 200)")
    parser.add_argument("--sample_every", type=positive_int, default=200, help="updates between samples in TensorBoard (default 200)")
    parser.add_argument("--log_every", type=positive_int, default=10, help="updates between lines in TensorBoard (default 10)")
    parser.add_argument("--keep_last", type=int, default=2, help="checkpoints to keep, 0 for all (default 2)")
    parser.add_argument("--on_bad_record", choices=("error", "skip"), default="error", help="what to do with a broken story")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--dry_run", action="store_true", help="print the resolved config, parameters and memory, and stop")


def act_train(args: argparse.Namespace) -> int:
    from accelerate import PartialState

    from modules.dry_run import plan
    from modules.interrupts import Interrupted
    from modules.training import STAGES, TrainArgs, train

    stages = tuple(name.strip() for name in args.stages.split(",") if name.strip())
    if not stages or [name for name in STAGES if name in stages] != list(stages):
        raise UserError(f"--stages must be some of {','.join(STAGES)}, in this order, got {args.stages!r}")
    config = resolve_config(args)
    run_args = TrainArgs(
        output_dir=args.output_dir, mixed_precision=args.mixed_precision, gradient_accumulation_steps=args.gradient_accumulation_steps,
        save_every=args.save_every, log_every=args.log_every, sample_every=args.sample_every, keep_last=args.keep_last, seed=args.seed,
        stages=stages, autoencoder=args.autoencoder,
    )  # fmt: skip
    if args.dry_run:
        print(json.dumps(plan(config, run_args), indent=2, default=str))
        return 0
    source = open_source(args.data, "train", config, args.seed, config.training.num_stories, args.on_bad_record)
    held_out = open_held_out(args.data, source, config, args.seed, args.on_bad_record)
    try:
        folder = train(config, run_args, source, held_out)
    except Interrupted as stop:
        PartialState().on_main_process(print)(stop, file=sys.stderr)
        return stop.code
    PartialState().on_main_process(print)(f"trained; generate with --ckpt {folder.parent}")
    return 0


def resolve_config(args: argparse.Namespace) -> StoryConfig:
    """The preset or config file, with the flags' values in it."""
    from modules.config import PRESETS, load_config

    config = load_config(args.config) if args.config else PRESETS[args.preset]
    names = ("max_steps", "batch_size", "learning_rate", "num_stories")
    given = {name: getattr(args, name) for name in names if getattr(args, name) is not None}
    return dataclasses.replace(config, training=dataclasses.replace(config.training, **given))


def open_source(data: str, split: str, config: StoryConfig, seed: int, num_stories: int, on_bad_record: str = "error") -> StorySource:
    """The stories that `--data` means."""
    if data == "storyworld":
        from modules.storyworld import StoryWorld

        return StoryWorld(num_stories, seed=seed, split=split, image_size=config.autoencoder.image_size)
    from modules.data import open_split

    folder = open_split(data, split, on_bad_record=on_bad_record, max_steps=config.max_steps)
    print(folder.report(), file=sys.stderr)
    return folder


def open_held_out(data: str, source: StorySource, config: StoryConfig, seed: int, on_bad_record: str) -> StorySource:
    """The validation stories, or where there are none the training stories, which is said."""
    try:
        return open_source(data, "val", config, seed, 200, on_bad_record)
    except UserError as error:
        print(f"warning: no validation stories ({error}); samples come from the training stories", file=sys.stderr)
        return source


# -- generate and its sisters -------------------------------------------------------------------------------------------


def checkpoint_flag(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--ckpt", type=Path, default=Path("checkpoints/storyworld"), help="a run's folder, a step's or a model folder")


def render_flags(parser: argparse.ArgumentParser) -> None:
    checkpoint_flag(parser)
    parser.add_argument("--seed", type=int, default=0, help="the same seed gives the same bytes")
    parser.add_argument("--temperature", type=float, default=0.8, help="of the plan, and of the text with --decoding top_p (default 0.8)")
    parser.add_argument("--top_p", type=float, default=0.95)
    parser.add_argument("--guidance_scale", type=float, default=2.0)
    parser.add_argument("--num_inference_steps", type=positive_int, default=20)
    parser.add_argument("--scheduler", choices=SCHEDULERS, default="ddim")
    parser.add_argument("--decoding", choices=DECODINGS, default="greedy")
    parser.add_argument("--output", type=Path, default=Path("out"), help="folder for generated.png, book.html, story.json and the pages")


def generate_flags(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--prompt", required=True, help="what the story is about, in one line")
    parser.add_argument("--num_steps", type=positive_int, default=5, help="pages (default 5)")
    render_flags(parser)


def continue_flags(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--story", type=Path, required=True, help="the given pages: story.json, or a folder with it or stories.jsonl")
    parser.add_argument("--prompt", help="what the story is about (default: the given story's prompt)")
    parser.add_argument("--num_steps", type=positive_int, default=2, help="pages to add (default 2)")
    render_flags(parser)


def illustrate_flags(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--text", required=True, action="append", help="a page's text; give it several times for several pages")
    render_flags(parser)


def caption_flags(parser: argparse.ArgumentParser) -> None:
    checkpoint_flag(parser)
    parser.add_argument("--image", type=Path, required=True)
    parser.add_argument("--decoding", choices=("greedy", "beam"), default="greedy")


def settings(args: argparse.Namespace) -> dict[str, Any]:
    names = ("seed", "temperature", "top_p", "guidance_scale", "num_inference_steps", "scheduler", "decoding")
    return {name: getattr(args, name) for name in names}


def load_pipeline(args: argparse.Namespace, prompt: str = "", texts: Sequence[str] = ()) -> StoryPipeline:
    """The pipeline of --ckpt; what it cannot do justice to in the prompt and in the given pages' texts is said."""
    from modules.pipeline import StoryPipeline

    pipeline = StoryPipeline.from_pretrained(args.ckpt)
    tokenizer, config = pipeline.tokenizer, pipeline.config
    unseen = list(dict.fromkeys(word for text in (prompt, *texts) for word in tokenizer.unseen_words(text)))
    if unseen:
        print(f"note: these weights have never seen {', '.join(unseen)}; the story may go its own way there", file=sys.stderr)
    limits = (("the prompt", config.max_prompt_length, [prompt]), ("a page's text", config.text_decoder.max_length, texts))
    for what, length, given in limits:
        if any(len(tokenizer.encode(text, sys.maxsize)) > length for text in given):
            print(f"note: these weights read the first {length - 2} tokens of {what}; the rest is passed over", file=sys.stderr)
    return pipeline


def act_generate(args: argparse.Namespace) -> None:
    from modules.presentation.story_files import prepare_output, write_story

    check_story(args.prompt, args.num_steps)
    check_settings(**settings(args))
    prepare_output(args.output)
    pipeline = load_pipeline(args, args.prompt)
    started = time.perf_counter()
    story = pipeline(args.prompt, num_steps=args.num_steps, **settings(args))
    tell(story.texts, write_story(args.output, story, settings(args)), started)


def act_continue(args: argparse.Namespace) -> None:
    from modules.presentation.story_files import prepare_output, read_story, write_story

    given = read_story(args.story)
    prompt = given.prompt if args.prompt is None else args.prompt
    check_story(prompt, args.num_steps)
    check_settings(**settings(args))
    prepare_output(args.output)
    pipeline = load_pipeline(args, prompt, [step.text for step in given.steps if step.text is not None])
    started = time.perf_counter()
    story = pipeline.continue_story(prompt, given.steps, args.num_steps, **settings(args))
    pages = pipeline.complete(prompt, given.steps, **settings(args))
    files = write_story(args.output, story, settings(args), pages)
    tell([*(f"(given) {text}" for text in pages.texts), *story.texts], files, started)


def act_illustrate(args: argparse.Namespace) -> None:
    from modules.presentation.story_files import prepare_output, write_story

    if not all(text.strip() for text in args.text):
        raise UserError("--text is empty: say what the picture shows")
    check_settings(**settings(args))
    prepare_output(args.output)
    pipeline = load_pipeline(args, texts=args.text)
    started = time.perf_counter()
    story = pipeline.illustrate(args.text, **settings(args))
    tell(story.texts, write_story(args.output, story, settings(args)), started)


def act_caption(args: argparse.Namespace) -> None:
    from modules.images import load_image

    image = load_image(args.image)
    text, codes = load_pipeline(args).caption(image, args.decoding)
    print(text)
    print(f"codes {' '.join(str(code) for code in codes.tolist())}", file=sys.stderr)


def tell(texts: Sequence[str], files: Sequence[Path], started: float) -> None:
    """Print the story, a line a page, and where it lies."""
    from modules.presentation.book import clean

    for number, text in enumerate(texts, 1):
        print(f"{number}. {' '.join(clean(text).split())}")
    names = ", ".join(file.name for file in files)
    count = "1 page" if len(texts) == 1 else f"{len(texts)} pages"
    print(f"{count} in {time.perf_counter() - started:.1f} s, in the folder {files[0].parent}: {names}", file=sys.stderr)


# -- evaluate -----------------------------------------------------------------------------------------------------------


def evaluate_flags(parser: argparse.ArgumentParser) -> None:
    checkpoint_flag(parser)
    parser.add_argument("--data", default="storyworld", help=DATA_HELP)
    parser.add_argument("--num_stories", type=positive_int, default=200, help="held-out stories to score (default 200)")
    parser.add_argument("--json", type=Path, help="where to write all figures")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--on_bad_record", choices=("error", "skip"), default="error")


def act_evaluate(args: argparse.Namespace) -> None:
    from modules.evaluation.report import evaluate, print_report
    from modules.pipeline import StoryPipeline

    pipeline = StoryPipeline.from_pretrained(args.ckpt)
    source = open_source(args.data, "val", pipeline.config, args.seed, args.num_stories, args.on_bad_record)
    report = evaluate(pipeline, source, min(args.num_stories, len(source)), args.seed)
    print_report(report)
    if args.json:
        try:
            args.json.parent.mkdir(parents=True, exist_ok=True)
            args.json.write_text(json.dumps(report, indent=2) + "\n", encoding="utf-8")
        except OSError as error:
            raise UserError(f"cannot write {args.json}: {error.strerror}") from error


COMMANDS: dict[str, tuple[Callable[[argparse.ArgumentParser], None], Callable[[argparse.Namespace], int | None]]] = {
    "train": (train_flags, act_train),
    "generate": (generate_flags, act_generate),
    "continue": (continue_flags, act_continue),
    "caption": (caption_flags, act_caption),
    "illustrate": (illustrate_flags, act_illustrate),
    "evaluate": (evaluate_flags, act_evaluate),
}
