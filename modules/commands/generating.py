"""Shared code of generate, continue, illustrate and caption: flags, loading the model, printing the story."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from modules.commands.shared import checkpoint_flag, output_flag
from modules.common.arguments import add_dataclass_flags
from modules.common.folder_lock import FolderLock
from modules.generation.settings import GenerationSettings, check_story
from modules.story import StoryStep

if TYPE_CHECKING:
    from modules.generation.pipeline import StoryPipeline


def device_flag(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--device",
        metavar="NAME",
        help="where to compute: cpu, cuda, cuda:1, mps (default: this machine's accelerator, or the CPU)",
    )


def generation_flags(parser: argparse.ArgumentParser) -> None:
    """Add the model, the device, every field of `GenerationSettings` and the output folder."""
    checkpoint_flag(parser)
    device_flag(parser)
    add_dataclass_flags(parser, GenerationSettings)
    parser.add_argument(
        "--save_memory",
        action="store_true",
        help="need less memory and take longer: large parts of a pretrained model move to the device in turn",
    )
    contents = "book.html, generated.png, story.json and the pages; files of an earlier story in it are replaced"
    output_flag(parser, "out", contents)


@contextmanager
def story_output(folder: Path) -> Iterator[None]:
    """Keep other processes out of a story's folder while it is made. Raises UserError if it cannot be written."""
    from modules.presentation.story.files import prepare_output

    prepare_output(folder)
    with FolderLock(folder):
        yield


def load_pipeline(
    args: argparse.Namespace, prompt: str = "", texts: Sequence[str] = (), num_steps: int = 0
) -> StoryPipeline:
    """Load the model of `--ckpt` on `--device`; note unseen words and texts that are too long.

    Raises UserError where it cannot generate `num_steps` pages.
    """
    from modules.generation.pipeline import StoryPipeline

    pipeline = StoryPipeline.from_pretrained(args.ckpt, offline=args.offline)
    if num_steps:
        check_story(prompt, num_steps, pipeline.longest_story)
    pipeline.place(args.device, getattr(args, "save_memory", False))
    print_notes(pipeline.notes(prompt, [StoryStep(text) for text in texts]))
    return pipeline


def print_notes(notes: Sequence[str]) -> None:
    """Print notes to stderr, a line each."""
    for note in notes:
        print(f"note: {one_line(note)}", file=sys.stderr)


def print_story(texts: Sequence[str], files: Sequence[Path], seconds: float) -> None:
    """Print the story, a line per page, and to stderr where its files are."""
    for number, text in enumerate(texts, 1):
        print(f"{number}. {one_line(text)}")
    names = ", ".join(file.name for file in files)
    count = "1 page" if len(texts) == 1 else f"{len(texts)} pages"
    print(f"{count} in {seconds:.1f} s, in the folder {files[0].parent}: {names}", file=sys.stderr)


def one_line(text: str) -> str:
    """Return a text on one line, without characters that a terminal could not print."""
    from modules.presentation.text import clean

    return " ".join(clean(text).split())
