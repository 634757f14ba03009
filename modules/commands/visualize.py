"""`visualize`: predictions beside true pages, denoising, codes over time, training curves."""

from __future__ import annotations

import argparse

from modules.commands.shared import (
    checkpoint_flag,
    data_flag,
    num_stories_flag,
    open_dataset,
    output_flag,
    overwrite_flag,
    seed_flag,
)
from modules.common.arguments import a_path, add_dataclass_flags
from modules.common.ownership import check_report
from modules.generation.settings import GenerationSettings

PICTURES = ("predictions.png", "denoising.png", "timeline.png", "curves.png")


def add_flags(parser: argparse.ArgumentParser) -> None:
    checkpoint_flag(parser)
    data_flag(parser)
    num_stories_flag(parser, 3, "number of held-out stories to show")
    parser.add_argument(
        "--run", type=a_path, metavar="FOLDER", help="the run folder of a training whose curves to draw as well"
    )
    add_dataclass_flags(parser, GenerationSettings, only=("num_inference_steps",))
    seed_flag(parser, "of the story world's stories and of the predictions")
    output_flag(parser, "visualize", "visualize.html and the PNG files")
    overwrite_flag(parser)


def run(args: argparse.Namespace) -> int:
    for name in ("visualize.html", *PICTURES):
        check_report(args.output / name, args.overwrite)
    from modules.generation.pipeline import StoryPipeline
    from modules.presentation.visualize.page import visualize

    pipeline = StoryPipeline.from_pretrained(args.ckpt, offline=args.offline)
    dataset = open_dataset(args.data, "val", pipeline.config, args.seed, args.num_stories)
    files = visualize(
        pipeline,
        dataset,
        args.output,
        num_stories=min(args.num_stories, len(dataset)),
        run=args.run,
        seed=args.seed,
        num_inference_steps=args.num_inference_steps,
    )
    print(f"wrote {', '.join(str(file) for file in files)}")
    return 0
