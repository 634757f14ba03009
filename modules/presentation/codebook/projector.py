"""The codebook in TensorBoard's projector, with a small picture for each code."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch.utils.tensorboard import SummaryWriter

from modules.common.errors import UserError
from modules.evaluation.codebook.analysis import CodebookAnalysis

TAG = "codebook"
SPRITE_PIXELS = 48
COLUMNS = ["code", "uses", "slot", "attribute", "words"]


def write_projector(log_dir: Path, analysis: CodebookAnalysis) -> Path:
    """Write the used codes' vectors, metadata and pictures into `log_dir`, for `tensorboard --logdir`; returns the
    folder.

    What an earlier analysis left there under the same name is replaced. Raises UserError where the folder cannot be
    written.
    """
    cards = analysis.report["cards"]
    sprites = np.stack([_sprite(analysis, card) for card in cards])
    vectors = torch.from_numpy(analysis.vectors[[card["code"] for card in cards]]).float()
    try:
        for file in log_dir.glob("events.out.tfevents.*"):
            file.unlink()
        shutil.rmtree(log_dir / "00000" / TAG, ignore_errors=True)
        with SummaryWriter(str(log_dir)) as writer:
            pictures = torch.from_numpy(sprites).permute(0, 3, 1, 2).float() / 255
            writer.add_embedding(vectors, [_metadata(card) for card in cards], pictures, 0, TAG, COLUMNS)
    except OSError as error:
        raise UserError(
            f"cannot write {log_dir} ({error.strerror}): choose a writable output folder with free space"
        ) from error
    return log_dir


def _metadata(card: dict[str, Any]) -> list[str]:
    tells, words = card["tells"], " ".join(word for word, _ in card["words"])
    slot = card["slots"].index(max(card["slots"])) + 1
    return [str(card["code"]), str(card["uses"]), str(slot), f"{tells['attribute']}: {tells['value']}", words or "-"]


def _sprite(analysis: CodebookAnalysis, card: dict[str, Any]) -> np.ndarray:
    """The first page of a code that has a picture, or a grey square."""
    shown = [analysis.thumbnails[row] for row in card["pages"] if analysis.thumbnails[row] is not None]
    image = shown[0] if shown else Image.new("RGB", (SPRITE_PIXELS, SPRITE_PIXELS), "#888888")
    return np.asarray(image.resize((SPRITE_PIXELS, SPRITE_PIXELS), Image.Resampling.LANCZOS))
