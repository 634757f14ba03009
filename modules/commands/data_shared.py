"""Flags and checks that several commands of download_data.py share."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from modules.common.arguments import a_path
from modules.common.errors import UserError
from modules.common.ownership import refuse_foreign

if TYPE_CHECKING:
    from modules.data.report import Split


def folder_argument(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "folder",
        type=a_path,
        metavar="FOLDER",
        help="the data folder: contains train/ and val/, or stories.jsonl itself",
    )


def print_cut_texts(splits: Sequence[Split]) -> None:
    """Tell how many texts of each split a training would cut, if any."""
    from modules.data.report import count_cut_texts
    from modules.presets import STORYWORLD

    limit = STORYWORLD.text_decoder.max_length
    for split in splits:
        num_cut, total = count_cut_texts(split, limit)
        if num_cut:
            print(
                f"note: {split.name}: at least {num_cut:,} of {total:,} texts are longer than {limit} tokens: train"
                " cuts them there by default (text_decoder.max_length)"
            )


def output_flags(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--output",
        type=a_path,
        default=Path("data"),
        metavar="FOLDER",
        help="folder in which train/ and val/ are made (default data)",
    )
    parser.add_argument("--overwrite", action="store_true", help="replace train/ and val/ if they exist")


def check_output(output: Path, splits: Sequence[str], overwrite: bool) -> None:
    """Refuse to replace existing files before any work is done.

    Raises:
        UserError: a split exists and is not empty, or has files that this program did not write, or a file has the
            folder's name.
    """
    for folder in (output, *(output / split for split in splits)):
        if folder.exists() and not folder.is_dir():
            raise UserError(f"{folder} is a file; choose another --output")
    for split in splits:
        if not (output / split).is_dir() or not any((output / split).iterdir()):
            continue
        if not overwrite:
            raise UserError(f"{output / split} is not empty; add --overwrite to replace it, or choose another --output")
        refuse_foreign(output / split)
