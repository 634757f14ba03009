"""What several commands share: flags, and how stories, weights and reports are opened."""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from modules.common.arguments import a_path
from modules.common.files import write_whole
from modules.common.shipped import local_or_shipped
from modules.story import StoryDataset

if TYPE_CHECKING:
    from modules.config import StoryConfig
    from modules.evaluation.judge.judge import Judge
    from modules.evaluation.scorers import ClipScorer


DATA_HELP = "a folder of stories (see README), shards of them (a folder, hf://, s3://, https://), or storyworld, the built-in world"


def checkpoint_flag(parser: argparse.ArgumentParser) -> None:
    told = "a run's folder, a step's, a model folder or a Hub id; RUN/ckpt_100.pt, where there is no such file, is RUN's step 100"
    parser.add_argument("--ckpt", type=a_path, default=local_or_shipped("checkpoints/storyworld"), help=told)
    parser.add_argument("--offline", action="store_true", help="take Hub ids from the local cache only")


def judge_flag(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--judge",
        type=Path,
        default=local_or_shipped("checkpoints/judge"),
        help="who reads pictures (default checkpoints/judge)",
    )


def clip_flags(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--clip", help="a CLIP model, a folder or a Hub id: says how well pictures fit texts, in the judge's place"
    )


def open_source(
    data: str, split: str, config: StoryConfig, seed: int, num_stories: int, on_bad_record: str = "error"
) -> StoryDataset:
    """The stories that `--data` means."""
    if data == "storyworld":
        from modules.storyworld import StoryWorld

        return StoryWorld(num_stories, seed=seed, split=split, image_size=config.autoencoder.image_size)
    from modules.data.shards import open_stories

    folder = open_stories(data, split, on_bad_record, config.max_steps)
    print(folder.report(), file=sys.stderr)
    return folder


def open_held_out(data: str, source: StoryDataset, config: StoryConfig, seed: int, on_bad_record: str) -> StoryDataset:
    """The validation stories, or where there are none the training stories, which is said.

    Raises UserError where they are damaged.
    """
    from modules.data.folder import MissingSplit

    try:
        return open_source(data, "val", config, seed, 200, on_bad_record)
    except MissingSplit as error:
        print(f"warning: no validation stories ({error}); samples come from the training stories", file=sys.stderr)
        return source


def load_judge(args: argparse.Namespace) -> Judge:
    from modules.evaluation.judge.judge import Judge

    return Judge.from_pretrained(args.judge)


def load_clip(args: argparse.Namespace) -> ClipScorer | None:
    from modules.evaluation.scorers import ClipScorer

    return ClipScorer.from_pretrained(args.clip, offline=args.offline) if args.clip else None


def write_json(path: Path | None, values: Any) -> None:
    if path is not None:
        write_whole(path, (json.dumps(values, indent=2) + "\n").encode())
