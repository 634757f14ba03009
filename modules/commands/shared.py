"""Flags that several commands have, and how datasets, weights and reports are opened and written."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from modules.common.arguments import a_path, positive_int, seed_number
from modules.common.errors import one_line
from modules.common.files import write_whole
from modules.common.ownership import MARK, check_report
from modules.common.shipped import JUDGE, WEIGHTS, shipped
from modules.story import StoryDataset

if TYPE_CHECKING:
    from modules.config import StoryConfig
    from modules.evaluation.judge.judge import Judge
    from modules.evaluation.scorers import ClipScorer


DATA_HELP = (
    "where the stories come from: a folder made by download_data.py, Parquet shards of such a folder (a folder or an"
    " address: hf://, s3://, https://), a data set that the datasets library loads (hf://datasets/OWNER/NAME, or a"
    " save_to_disk folder), or storyworld, the built-in world of generated stories (default storyworld)"
)


def shipped_path(text: str) -> Path:
    """Parse a path; the name of a shipped folder is found from any working directory."""
    return shipped(a_path(text))


def checkpoint_flag(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--ckpt",
        type=shipped_path,
        default=WEIGHTS,
        metavar="PATH",
        help="the trained model: a run folder of train, one of its checkpoints (RUN/step_00000100, or RUN/ckpt_100.pt"
        f" for short), a model folder, or a Hub id (default {WEIGHTS})",
    )
    offline_flag(parser)


def offline_flag(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--offline", action="store_true", help="do not use the network: read Hub ids from the local cache only"
    )


def data_flag(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--data", default="storyworld", metavar="PATH", help=DATA_HELP)


def bad_record_flag(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--on_bad_record",
        choices=("error", "skip"),
        default="error",
        help="what to do with a damaged story: stop with an error, or skip it (default error)",
    )


def seed_flag(parser: argparse.ArgumentParser, purpose: str) -> None:
    parser.add_argument("--seed", type=seed_number, default=0, metavar="N", help=f"random seed {purpose} (default 0)")


def num_stories_flag(parser: argparse.ArgumentParser, default: int, purpose: str) -> None:
    parser.add_argument(
        "--num_stories", type=positive_int, default=default, metavar="N", help=f"{purpose} (default {default})"
    )


def output_flag(parser: argparse.ArgumentParser, default: str, contents: str) -> None:
    parser.add_argument(
        "--output",
        type=a_path,
        default=Path(default),
        metavar="FOLDER",
        help=f"folder for {contents} (default {default})",
    )


def judge_flag(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--judge",
        type=shipped_path,
        default=JUDGE,
        metavar="FOLDER",
        help="the judge, a classifier that recognises characters, colours, objects, places and actions in story-world"
        f" pictures; train_judge makes one (default {JUDGE})",
    )


def clip_flags(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--clip",
        metavar="MODEL",
        help="a CLIP model, a folder or a Hub id, that scores how well pictures match texts, in place of the judge",
    )


def open_dataset(
    data: str, split: str, config: StoryConfig, seed: int, num_stories: int, on_bad_record: str = "error"
) -> StoryDataset:
    """Open one split of the stories that `--data` names; `num_stories` counts those of the story world."""
    if data == "storyworld":
        from modules.storyworld import StoryWorld

        return StoryWorld(num_stories, seed=seed, split=split, image_size=config.autoencoder.image_size)
    from modules.data.shards import open_stories

    stories = open_stories(data, split, on_bad_record, config.max_steps)
    print(one_line(stories.report()), file=sys.stderr)
    return stories


def open_held_out(data: str, dataset: StoryDataset, config: StoryConfig, seed: int, on_bad_record: str) -> StoryDataset:
    """Open the validation stories; where there are none, warn and return `dataset`, the training stories.

    Raises UserError where the validation stories are damaged.
    """
    from modules.data.folder import MissingSplit

    try:
        return open_dataset(data, "val", config, seed, 200, on_bad_record)
    except MissingSplit as error:
        print(
            f"warning: no validation stories ({one_line(error)}); samples come from the training stories",
            file=sys.stderr,
        )
        return dataset


def load_judge(args: argparse.Namespace) -> Judge:
    """Load the judge that `--judge` names."""
    from modules.evaluation.judge.judge import Judge

    return Judge.from_pretrained(args.judge)


def load_clip(args: argparse.Namespace) -> ClipScorer | None:
    """Load the CLIP model that `--clip` names, if any."""
    from modules.evaluation.scorers import ClipScorer

    return ClipScorer.from_pretrained(args.clip, offline=args.offline) if args.clip else None


def json_flags(parser: argparse.ArgumentParser, contents: str) -> None:
    """Add `--json`, a file for `contents`, and `--overwrite`."""
    parser.add_argument("--json", type=a_path, metavar="FILE", help=f"write {contents} to this file as JSON")
    overwrite_flag(parser)


def overwrite_flag(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--overwrite",
        action="store_true",
        help="replace the output file even if this program did not write it; its own reports are replaced anyway",
    )


def check_json(args: argparse.Namespace) -> None:
    """Raise UserError if the file of `--json`, if any, cannot be written or is not to be replaced."""
    if args.json:
        check_report(args.json, args.overwrite)


def write_json(path: Path | None, values: Mapping[str, Any]) -> None:
    """Write `values` as indented JSON that names this program first, unless there is no path."""
    if path is not None:
        write_whole(path, (json.dumps({"generator": MARK, **values}, indent=2) + "\n").encode())
