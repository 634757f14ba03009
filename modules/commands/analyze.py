"""`analyze`: an HTML report on the codebook."""

from __future__ import annotations

import argparse

from modules.commands.shared import (
    checkpoint_flag,
    data_flag,
    judge_flag,
    load_judge,
    num_stories_flag,
    open_dataset,
    output_flag,
    overwrite_flag,
    seed_flag,
)
from modules.common.ownership import check_report


def add_flags(parser: argparse.ArgumentParser) -> None:
    checkpoint_flag(parser)
    data_flag(parser)
    num_stories_flag(parser, 200, "number of training stories, and of held-out stories, to encode")
    judge_flag(parser)
    seed_flag(parser, "of the story world's stories and of the statistics' resampling")
    output_flag(
        parser,
        "report",
        "codebook.html, codebook.json, codebook.jpg and training_pages.json, which `score --training_pages` reads",
    )
    overwrite_flag(parser)


def run(args: argparse.Namespace) -> int:
    names = ("codebook.html", "codebook.json", "codebook.jpg", "training_pages.json", "codebook_unfinished.json")
    for name in names:
        check_report(args.output / name, args.overwrite)
    from modules.generation.pipeline import StoryPipeline
    from modules.presentation.codebook.page import analyze

    read_pictures = load_judge(args).read if args.data == "storyworld" else None
    pipeline = StoryPipeline.from_pretrained(args.ckpt, offline=args.offline)
    train = open_dataset(args.data, "train", pipeline.config, args.seed, args.num_stories)
    held_out = open_dataset(args.data, "val", pipeline.config, args.seed, args.num_stories)
    files = analyze(pipeline, train, held_out, args.num_stories, args.seed, args.output, read_pictures)
    print(f"wrote {', '.join(str(file) for file in files)}")
    return 0
