"""`analyze`: an HTML report on the codebook."""

from __future__ import annotations

import argparse
from pathlib import Path

from modules.commands.shared import checkpoint_flag, data_flag, judge_flag, load_judge, open_dataset, seed_flag
from modules.common.arguments import a_path, positive_int
from modules.common.files import check_writable


def add_flags(parser: argparse.ArgumentParser) -> None:
    checkpoint_flag(parser)
    data_flag(parser)
    parser.add_argument(
        "--num_stories",
        type=positive_int,
        default=200,
        metavar="N",
        help="number of training stories, and of held-out stories, to encode (default 200)",
    )
    judge_flag(parser)
    seed_flag(parser, "of the story world's stories and of the statistics' resampling")
    parser.add_argument(
        "--output",
        type=a_path,
        default=Path("report"),
        metavar="FOLDER",
        help="folder for codebook.html and codebook.json (default report)",
    )


def run(args: argparse.Namespace) -> int:
    check_writable(args.output / "codebook.html")
    from modules.generation.pipeline import StoryPipeline
    from modules.presentation.codebook.page import analyze

    read_pictures = load_judge(args).read if args.data == "storyworld" else None
    pipeline = StoryPipeline.from_pretrained(args.ckpt, offline=args.offline)
    train = open_dataset(args.data, "train", pipeline.config, args.seed, args.num_stories)
    held_out = open_dataset(args.data, "val", pipeline.config, args.seed, args.num_stories)
    files = analyze(pipeline, train, held_out, args.num_stories, args.seed, args.output, read_pictures)
    print(f"wrote {', '.join(str(file) for file in files)}")
    return 0
