"""Command line of story_generative_model.py: the table of its commands, and how a command is run."""

from __future__ import annotations

import argparse
import importlib
import sys
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path

from modules.common.arguments import Parser, normalise_flag
from modules.common.errors import UserError, one_line
from modules.common.faults import fault_of
from modules.common.interrupts import Interrupted, exit_code, sigterm_as_ctrl_c
from modules.common.process import tune_process

PROGRAM = "story_generative_model.py"
# Name -> its module in this folder, and its summary.
COMMANDS = {
    "train": ("train", "train a model on a folder of stories or on the built-in story world"),
    "precompute": (
        "precompute",
        "encode all pictures and texts once with the frozen parts, to train faster afterwards",
    ),
    "generate": ("generate", "write and illustrate a story from a one-line prompt"),
    "continue": ("continue_story", "add pages to a story"),
    "edit": ("edit", "change one page of a story by words, a picture or codes, and leave the others as they are"),
    "infill": ("infill", "write new pages between those of a story"),
    "plan": ("plan", "draw many plans of a story and show the best, before anything is drawn"),
    "alternatives": ("alternatives", "show what other codes at one place of a story would write and draw"),
    "branch": ("branch", "let a story fork into a book in which the reader chooses"),
    "export_book": ("export_book", "write a story as a PDF, an EPUB, a comic book archive, an animation and more"),
    "studio": ("studio", "make and edit picture stories in the browser, on this machine"),
    "score": ("score", "report what the pages of a story cost under the model, and how well they fit together"),
    "caption": ("caption", "write the text of a page for a picture"),
    "illustrate": ("illustrate", "draw a picture for each given text"),
    "evaluate": ("evaluate", "measure a model on held-out stories: likelihoods, codes, texts and pictures"),
    "analyze": ("analyze", "write an HTML report on the codebook: what each code and each slot encodes"),
    "visualize": ("visualize", "show predictions beside true pages, denoising, codes over time, training curves"),
    "ablate": ("ablate", "compare sampling settings, or train a model for each value of a setting"),
    "export": ("export", "save a trained model as a folder or on the Hub, or its LoRA weights alone"),
    "train_judge": ("train_judge", "train the judge, an attribute classifier for story-world pictures"),
}


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command and return the exit code: 0, 2 on bad input, 128 + the signal's number when stopped.

    Without `argv` the program's own arguments are used. Dashes and underscores in flags are the same.
    """
    program = PROGRAM if argv is not None else Path(sys.argv[0]).name
    words = [normalise_flag(word) for word in (sys.argv[1:] if argv is None else argv)]
    parser = Parser(prog=program, description="Train the latent-storyboard story model and generate picture stories.")
    parser.epilog = f"The flags of a command: {program} COMMAND --help"
    subparsers = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    for name, (_, summary) in COMMANDS.items():
        subparsers.add_parser(name, help=summary, add_help=False)
    name = parser.parse_args(words[:1]).command
    module, summary = COMMANDS[name]
    command = importlib.import_module(f"modules.commands.{module}")
    parser = Parser(prog=f"{program} {name}", description=f"{summary[0].upper()}{summary[1:]}.")
    command.add_flags(parser)
    return execute(command.run, parser.parse_args(words[1:]))


def execute(run: Callable[[argparse.Namespace], int], args: argparse.Namespace) -> int:
    """Call `run` and return its exit code; print on one line a UserError, a fault or what stopped it."""
    warnings.formatwarning = lambda message, *_, **__: f"warning: {one_line(message)}\n"
    tune_process()
    try:
        with sigterm_as_ctrl_c():
            return run(args)
    except UserError as error:
        print(f"error: {one_line(error)}", file=sys.stderr)
        return 2
    except Interrupted as stop:
        print(stop, file=sys.stderr)
        return stop.code
    except Exception as error:
        if (fault := fault_of(error)) is None:
            raise
        print(f"error: {one_line(fault)}", file=sys.stderr)
        return 2
    except KeyboardInterrupt as interrupt:
        print("stopped", file=sys.stderr)
        return exit_code(interrupt)
