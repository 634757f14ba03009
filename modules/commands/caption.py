"""`caption`: write the text of a page for a picture."""

from __future__ import annotations

import argparse
import sys

from modules.commands.generating import device_flag, load_pipeline
from modules.commands.shared import checkpoint_flag
from modules.common.arguments import a_path


def add_flags(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--image", type=a_path, required=True, metavar="FILE", help="the picture: a PNG, JPEG or other image file"
    )
    checkpoint_flag(parser)
    device_flag(parser)
    parser.add_argument(
        "--decoding",
        choices=("greedy", "beam"),
        default="greedy",
        help="how the text is decoded: greedy search, or beam search with 4 beams (default greedy)",
    )


def run(args: argparse.Namespace) -> int:
    from modules.data.images import load_image

    image = load_image(args.image)
    text, codes = load_pipeline(args).caption(image, args.decoding)
    print(text)
    print(f"codes {' '.join(str(code) for code in codes.tolist())}", file=sys.stderr)
    return 0
