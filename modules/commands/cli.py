"""The command line: which command does what, and how errors are told."""

from __future__ import annotations

import argparse
import sys
import warnings
from collections.abc import Callable, Sequence

from modules.commands import ablate, analyze, evaluate, export, precompute, tell, train, train_judge, visualize
from modules.common.arguments import Parser, normalise_flag
from modules.common.errors import UserError
from modules.common.interrupts import exit_code, sigterm_as_ctrl_c
from modules.common.malloc import keep_freed_memory

Command = tuple[Callable[[argparse.ArgumentParser], None], Callable[[argparse.Namespace], int | None]]
COMMANDS: dict[str, Command] = {
    "train": (train.train_flags, train.act_train),
    "precompute": (precompute.precompute_flags, precompute.act_precompute),
    "generate": (tell.generate_flags, tell.act_generate),
    "continue": (tell.continue_flags, tell.act_continue),
    "caption": (tell.caption_flags, tell.act_caption),
    "illustrate": (tell.illustrate_flags, tell.act_illustrate),
    "evaluate": (evaluate.evaluate_flags, evaluate.act_evaluate),
    "export": (export.export_flags, export.act_export),
    "train_judge": (train_judge.train_judge_flags, train_judge.act_train_judge),
    "analyze": (analyze.analyze_flags, analyze.act_analyze),
    "visualize": (visualize.visualize_flags, visualize.act_visualize),
    "ablate": (ablate.ablate_flags, ablate.act_ablate),
}


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
        with sigterm_as_ctrl_c():
            return act(args) or 0
    except UserError as error:
        print(f"error: {' '.join(str(error).splitlines())}", file=sys.stderr)
        return 2
    except KeyboardInterrupt as interrupt:
        print("stopped", file=sys.stderr)
        return exit_code(interrupt)
