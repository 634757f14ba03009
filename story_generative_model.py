"""Train the latent-storyboard story model, and tell illustrated stories with it. `--help` lists the commands."""

from __future__ import annotations

import sys

from modules.common.arguments import Parser

COMMANDS = {
    "train": "train a model on a folder of stories or on the built-in story world",
    "precompute": "encode all pictures once, for trainings to come",
    "generate": "write and illustrate a story from one line",
    "continue": "go on from given pages",
    "caption": "say what a picture shows",
    "illustrate": "draw a picture for a text",
    "evaluate": "measure likelihoods, what the codes hold, and what is told and drawn from them",
    "analyze": "a page about the codebook: what each code and each slot is for",
    "visualize": "predicted beside target, denoising, a story's codes, training curves",
    "ablate": "sweep inference steps, strength and guidance, or any setting of a training",
    "export": "a trained model as a folder or on the Hub, its LoRA alone",
    "train_judge": "train the judge that reads the story world's pictures",
}


def main(argv: list[str]) -> int:
    """Run one command; 0 on success, 2 on bad input, 128 + signal when stopped."""
    parser = Parser(prog="story_generative_model.py", description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True, metavar="command")
    for name, summary in COMMANDS.items():
        commands.add_parser(name, help=summary, add_help=False)
    known, rest = parser.parse_known_args(argv[:1])
    from modules.commands import cli

    return cli.run(known.command, [*rest, *argv[1:]])


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
