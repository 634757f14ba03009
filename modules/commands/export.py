"""`export`: save a trained model as a folder or on the Hub, or its LoRA weights alone."""

from __future__ import annotations

import argparse
from contextlib import ExitStack
from pathlib import Path

from modules.commands.shared import checkpoint_flag
from modules.common.arguments import a_path
from modules.common.errors import UserError
from modules.common.files import check_writable
from modules.common.folder_lock import FolderLock
from modules.common.ownership import OwnFiles, refuse_overlap


def add_flags(parser: argparse.ArgumentParser) -> None:
    checkpoint_flag(parser)
    parser.add_argument(
        "--output",
        type=a_path,
        metavar="FOLDER",
        help="folder for the model and its model card, readable by StoryPipeline.from_pretrained and --ckpt",
    )
    parser.add_argument(
        "--lora",
        type=a_path,
        metavar="FOLDER",
        help="folder for the low-rank (LoRA) weights alone, in the formats of peft and diffusers",
    )
    parser.add_argument("--push_to_hub", metavar="OWNER/NAME", help="upload the model to this repository on the Hub")
    parser.add_argument("--private", action="store_true", help="make a new Hub repository private")


def run(args: argparse.Namespace) -> int:
    if not (args.output or args.lora or args.push_to_hub):
        raise UserError("no destination: give --output FOLDER, --lora FOLDER or --push_to_hub OWNER/NAME")
    if args.push_to_hub and args.push_to_hub.count("/") != 1:
        raise UserError(f"--push_to_hub must be OWNER/NAME, got {args.push_to_hub!r}")
    folders = list(filter(None, (args.output, args.lora)))
    for folder in folders:
        if Path(args.ckpt).exists():
            refuse_overlap(folder, [Path(args.ckpt)], "the model that is exported")
    with ExitStack() as stack:
        for folder in dict.fromkeys(folders):
            stack.enter_context(FolderLock(folder))
            check_writable(folder / "config.json")
            OwnFiles(folder).check(["config.json", "model.safetensors"])
        return export(args)


def export(args: argparse.Namespace) -> int:
    """Write and upload what the flags name. Raises UserError."""
    from modules.generation.pipeline import StoryPipeline

    pipeline = StoryPipeline.from_pretrained(args.ckpt, offline=args.offline)
    if args.lora:  # First, because it fails for a model without low-rank weights.
        print(f"wrote {', '.join(map(str, pipeline.save_lora(args.lora)))}")
    if args.output:
        print(f"wrote {pipeline.save_pretrained(args.output)}")
    if args.push_to_hub:
        print(f"uploaded {pipeline.push_to_hub(args.push_to_hub, args.private)}")
    return 0
