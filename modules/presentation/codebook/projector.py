"""The codebook in TensorBoard's projector, with a small picture for each code."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch.utils.tensorboard import SummaryWriter

from modules.common.files import disk_errors, fresh_staging, publish_staging
from modules.common.ownership import refuse_foreign
from modules.common.sums import write_sums
from modules.evaluation.codebook.analysis import CodebookAnalysis

TAG = "codebook"
SPRITE_PIXELS = 48
COLUMNS = ["code", "uses", "slot", "attribute", "words"]


def write_projector(log_dir: Path, analysis: CodebookAnalysis) -> Path:
    """Write the used codes' vectors, metadata and pictures into `log_dir`, for `tensorboard --logdir`; returns the
    folder.

    The folder of an earlier analysis is replaced. Raises UserError where it cannot be written, or as `check_projector`.
    """
    check_projector(log_dir)
    cards = analysis.report["cards"]
    sprites = np.stack([_sprite(analysis, card) for card in cards])
    vectors = torch.from_numpy(analysis.vectors[[card["code"] for card in cards]]).float()
    staging = log_dir.with_name(f".{log_dir.name}.unfinished")
    with disk_errors(log_dir):
        fresh_staging(staging)
        with SummaryWriter(str(staging)) as writer:
            pictures = torch.from_numpy(sprites).permute(0, 3, 1, 2).float() / 255
            writer.add_embedding(vectors, [_metadata(card) for card in cards], pictures, 0, TAG, COLUMNS)
        write_sums(staging)
        publish_staging(log_dir, staging)
    return log_dir


def check_projector(log_dir: Path) -> None:
    """Raise UserError if a folder has files that no earlier analysis wrote: it is replaced as a whole."""
    if log_dir.is_dir():
        refuse_foreign(log_dir)


def _metadata(card: dict[str, Any]) -> list[str]:
    tells, words = card["tells"], " ".join(word for word, _ in card["words"])
    slot = card["slots"].index(max(card["slots"])) + 1
    return [str(card["code"]), str(card["uses"]), str(slot), f"{tells['attribute']}: {tells['value']}", words or "-"]


def _sprite(analysis: CodebookAnalysis, card: dict[str, Any]) -> np.ndarray:
    """The first page of a code that has a picture, or a grey square."""
    shown = [analysis.thumbnails[row] for row in card["pages"] if analysis.thumbnails[row] is not None]
    image = shown[0] if shown else Image.new("RGB", (SPRITE_PIXELS, SPRITE_PIXELS), "#888888")
    return np.asarray(image.resize((SPRITE_PIXELS, SPRITE_PIXELS), Image.Resampling.LANCZOS))
