"""Distances between two folders of pictures, whoever made them."""

from __future__ import annotations

from pathlib import Path

from PIL import Image

from modules.common.errors import UserError
from modules.common.progress import track
from modules.data.images import load_image
from modules.evaluation.judge.judge import Judge
from modules.evaluation.metrics.image_metrics import Inception, refuse_same_folder, score_pictures

SUFFIXES = {".png", ".jpg", ".jpeg", ".webp", ".bmp", ".gif"}


def compare_folders(
    generated: Path, reference: Path, extractor: Judge | Inception, seed: int = 0
) -> dict[str, dict[str, float | None]]:
    """FD and KID of all pictures below `generated` against all below `reference`; every picture counts as a story of
    its own.

    Raises UserError where the folders are the same, or one holds no two pictures.
    """
    refuse_same_folder(generated, reference)
    features = [extractor.features(_pictures(folder)).double().numpy() for folder in (generated, reference)]
    lengths = [[1] * len(rows) for rows in features]
    figures = score_pictures(*features, extractor.name, *lengths, seed=seed)
    return {name: figure.to_dict() for name, figure in figures.items()}


def _pictures(folder: Path) -> list[Image.Image]:
    paths = sorted(path for path in folder.rglob("*") if path.suffix.lower() in SUFFIXES)
    if len(paths) < 2:
        raise UserError(f"{folder} holds {len(paths)} pictures: distances need 2 or more")
    return [load_image(path) for path in track(f"pictures of {folder}", paths)]
