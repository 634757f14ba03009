"""`export`: a trained model as a folder or on the Hub, and its low-rank updates alone."""

from __future__ import annotations

import argparse

from modules.commands.shared import checkpoint_flag
from modules.common.arguments import a_path
from modules.common.errors import UserError
from modules.common.files import check_writable


def export_flags(parser: argparse.ArgumentParser) -> None:
    checkpoint_flag(parser)
    parser.add_argument("--output", type=a_path, help="a folder for the model, with a card: what from_pretrained reads")
    parser.add_argument(
        "--lora", type=a_path, help="a folder for the low-rank updates alone, as peft and diffusers read them"
    )
    parser.add_argument("--push_to_hub", metavar="OWNER/NAME", help="upload the model there")
    parser.add_argument("--private", action="store_true", help="for nobody else to see")


def act_export(args: argparse.Namespace) -> None:
    from modules.pipeline import StoryPipeline

    if not (args.output or args.lora or args.push_to_hub):
        raise UserError("say where to: --output FOLDER, --lora FOLDER or --push_to_hub OWNER/NAME")
    if args.push_to_hub and args.push_to_hub.count("/") != 1:
        raise UserError(f"--push_to_hub takes OWNER/NAME, got {args.push_to_hub!r}")
    for folder in filter(None, (args.output, args.lora)):
        check_writable(folder / "config.json")
    pipeline = StoryPipeline.from_pretrained(args.ckpt, offline=args.offline)
    if args.lora:  # First: it may be that there is none.
        print(f"wrote {', '.join(map(str, pipeline.save_lora(args.lora)))}")
    if args.output:
        print(f"wrote {pipeline.save_pretrained(args.output)}")
    if args.push_to_hub:
        print(f"uploaded {pipeline.push_to_hub(args.push_to_hub, args.private)}")
