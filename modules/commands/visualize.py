"""`visualize`: predictions beside targets, denoising, codes in time, training curves."""

from __future__ import annotations

import argparse
from pathlib import Path

from modules.commands.shared import DATA_HELP, checkpoint_flag, open_source
from modules.common.arguments import a_path, positive_int, seed_number
from modules.common.files import check_writable


def visualize_flags(parser: argparse.ArgumentParser) -> None:
    checkpoint_flag(parser)
    parser.add_argument("--data", default="storyworld", help=DATA_HELP)
    parser.add_argument("--num_stories", type=positive_int, default=3, help="held-out stories to show (default 3)")
    parser.add_argument("--run", type=Path, help="a run's folder, whose training curves are drawn too")
    parser.add_argument("--num_inference_steps", type=positive_int, default=20)
    parser.add_argument("--seed", type=seed_number, default=0)
    parser.add_argument(
        "--output", type=a_path, default=Path("visualize"), help="folder for visualize.html and the PNG files"
    )


def act_visualize(args: argparse.Namespace) -> None:
    check_writable(args.output / "visualize.html")
    from modules.pipeline import StoryPipeline
    from modules.presentation.visualize.page import visualize

    pipeline = StoryPipeline.from_pretrained(args.ckpt, offline=args.offline)
    source = open_source(args.data, "val", pipeline.config, args.seed, args.num_stories)
    files = visualize(
        pipeline,
        source,
        args.output,
        num_stories=min(args.num_stories, len(source)),
        run=args.run,
        seed=args.seed,
        num_inference_steps=args.num_inference_steps,
    )
    print(f"wrote {', '.join(str(file) for file in files)}")
