"""`precompute`: what frozen parts make of stories, once, for `train --cache`."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from modules.commands.shared import DATA_HELP, open_source
from modules.common.arguments import a_path, positive_int, seed_number, whole_number
from modules.common.errors import UserError

if TYPE_CHECKING:
    from modules.config import StoryConfig
    from modules.story_model import StoryModel


def add_flags(parser: argparse.ArgumentParser) -> None:
    from modules.presets import PRESETS

    parser.add_argument(
        "--preset", choices=sorted(PRESETS), default="storyworld", help="of the training to come (default storyworld)"
    )
    parser.add_argument("--config", type=Path, help="a config JSON in place of a preset")
    parser.add_argument("--data", default="storyworld", help=DATA_HELP)
    parser.add_argument("--ckpt", type=a_path, help="whose trained autoencoder is used, as train --autoencoder does")
    parser.add_argument(
        "--output",
        type=a_path,
        required=True,
        metavar="FOLDER",
        help="the cache; the same command goes on after a stop",
    )
    parser.add_argument("--num_stories", type=positive_int, help="stories drawn when --data is storyworld")
    parser.add_argument(
        "--num_workers", type=whole_number, default=2, help="threads that read pictures ahead (default 2)"
    )
    parser.add_argument(
        "--on_bad_record", choices=("error", "skip"), default="error", help="what to do with a broken story"
    )
    parser.add_argument("--offline", action="store_true", help="take Hub ids from the local cache only")
    parser.add_argument("--seed", type=seed_number, default=0, help="of the story world")


def run(args: argparse.Namespace) -> int:
    from modules.common.progress import progress_line
    from modules.config import load_config
    from modules.encoded.cache import write_cache
    from modules.presets import PRESETS

    config = load_config(args.config) if args.config else PRESETS[args.preset]
    source = open_source(
        args.data, "train", config, args.seed, args.num_stories or config.training.num_stories, args.on_bad_record
    )
    model = frozen_parts(config, args.ckpt, args.offline)
    with progress_line("encoding stories", len(source)) as progress:
        steps = write_cache(args.output, model, source, args.num_workers, progress.update)
    own = "" if args.ckpt is None else f" --autoencoder {args.ckpt}"
    print(f"{steps:,} steps are encoded; train with{own} --cache {args.output}", file=sys.stderr)
    return 0


def frozen_parts(config: StoryConfig, checkpoint: Path | None, offline: bool) -> StoryModel:
    """A model whose frozen parts are those of the training to come.

    Raises UserError where its autoencoder would first be trained.
    """
    import torch

    from modules.saving.model_folder import load_autoencoder
    from modules.story_model import build_model

    if checkpoint is None and not config.autoencoder.source:
        raise UserError("this preset trains an autoencoder of its own: give a checkpoint that has one by --ckpt")
    model = build_model(config, "this config", offline=offline)
    if checkpoint is not None:
        model.autoencoder.load_state_dict(load_autoencoder(checkpoint, config))
    return model.eval().to("cuda" if torch.cuda.is_available() else "cpu")
