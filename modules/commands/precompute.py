"""`precompute`: the outputs of frozen parts on all stories, computed once for `train --cache`."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from modules.commands.shared import bad_record_flag, data_flag, offline_flag, open_dataset, seed_flag, shipped_path
from modules.commands.train import config_flags, resolve_config
from modules.common.arguments import a_path, positive_int, whole_number
from modules.common.errors import UserError
from modules.common.folder_lock import FolderLock
from modules.common.ownership import refuse_overlap

if TYPE_CHECKING:
    from modules.config import StoryConfig
    from modules.story_model.story_model import StoryModel


def add_flags(parser: argparse.ArgumentParser) -> None:
    config_flags(parser, "preset of the training that will use the cache")
    data_flag(parser)
    parser.add_argument(
        "--ckpt",
        type=shipped_path,
        metavar="PATH",
        help="checkpoint whose trained autoencoder is used, as by train --autoencoder",
    )
    parser.add_argument(
        "--output", type=a_path, required=True, metavar="FOLDER", help="the cache; the same command resumes it"
    )
    parser.add_argument("--num_stories", type=positive_int, metavar="N", help="stories to draw if --data is storyworld")
    parser.add_argument(
        "--num_workers", type=whole_number, default=2, metavar="N", help="threads that read pictures ahead (default 2)"
    )
    bad_record_flag(parser)
    offline_flag(parser)
    seed_flag(parser, "of the story world")


def run(args: argparse.Namespace) -> int:
    from modules.common.progress import progress_line
    from modules.encoded.cache import write_cache
    from modules.saving.warm_start import with_autoencoder_of
    from modules.training.codebook_size import with_codebook_size
    from modules.training.settings import TrainSettings

    config = resolve_config(args)
    if args.ckpt is not None:
        config = with_autoencoder_of(config, args.ckpt, offline=args.offline)
    if args.data != "storyworld" and Path(args.data).exists():
        refuse_overlap(args.output, [Path(args.data)])
    dataset = open_dataset(args.data, "train", config, args.seed, config.training.num_stories, args.on_bad_record)
    config = with_codebook_size(config, TrainSettings(output_dir=args.output), dataset, visible=False)
    model = frozen_parts(config, args.ckpt, args.offline)
    with FolderLock(args.output), progress_line("encoding stories", len(dataset)) as progress:
        steps = write_cache(args.output, model, dataset, args.num_workers, progress.update)
    autoencoder = "" if args.ckpt is None else f" --autoencoder {args.ckpt}"
    print(f"{steps:,} pages are encoded; train with{autoencoder} --cache {args.output}", file=sys.stderr)
    return 0


def frozen_parts(config: StoryConfig, checkpoint: Path | None, offline: bool) -> StoryModel:
    """Return a model whose frozen parts are those of the training that will use the cache.

    Raises UserError if that training would start with the autoencoder.
    """
    import torch

    from modules.saving.model_folder import load_autoencoder
    from modules.story_model.story_model import build_model

    if checkpoint is None and not config.autoencoder.source:
        raise UserError("this preset trains its own autoencoder: give a checkpoint with a trained one by --ckpt")
    model = build_model(config, "this config", offline=offline)
    if checkpoint is not None:
        model.autoencoder.load_state_dict(load_autoencoder(checkpoint, model))
    return model.eval().to("cuda" if torch.cuda.is_available() else "cpu")
