"""`analyze`, `visualize`, `ablate`: looking closely."""

from __future__ import annotations

import argparse
from pathlib import Path

from modules.commands.shared import DATA_HELP, checkpoint_flag, judge_flag, load_judge, open_source
from modules.common.arguments import a_path, positive_int, seed_number
from modules.common.files import check_writable


def analyze_flags(parser: argparse.ArgumentParser) -> None:
    checkpoint_flag(parser)
    parser.add_argument("--data", default="storyworld", help=DATA_HELP)
    parser.add_argument(
        "--num_stories", type=positive_int, default=200, help="training and held-out stories to read (default 200 each)"
    )
    judge_flag(parser)
    parser.add_argument("--seed", type=seed_number, default=0)
    parser.add_argument(
        "--output",
        type=a_path,
        default=Path("report"),
        help="folder for codebook.html and codebook.json (default report)",
    )


def act_analyze(args: argparse.Namespace) -> None:
    check_writable(args.output / "codebook.html")
    from modules.pipeline import StoryPipeline
    from modules.presentation.codebook.page import analyze

    read_pictures = load_judge(args).read if args.data == "storyworld" else None
    pipeline = StoryPipeline.from_pretrained(args.ckpt, offline=args.offline)
    train = open_source(args.data, "train", pipeline.config, args.seed, args.num_stories)
    held_out = open_source(args.data, "val", pipeline.config, args.seed, args.num_stories)
    files = analyze(pipeline, train, held_out, args.num_stories, args.seed, args.output, read_pictures)
    print(f"wrote {', '.join(str(file) for file in files)}")
