"""Distances between two folders of pictures, whatever made them."""

from __future__ import annotations

import json
from pathlib import Path, PurePath

import torch

from modules.common.errors import UserError, first_line
from modules.common.files import visible
from modules.common.progress import track
from modules.data.images import load_image
from modules.evaluation.metrics.image import Extractor, Features, distances
from modules.evaluation.metrics.statistics import to_dicts

STORY = "story.json"
BATCH = 64  # Pictures in memory.
SUFFIXES = {".png", ".jpg", ".jpeg", ".webp", ".bmp", ".gif"}


def compare_folders(
    generated: Path, reference: Path, extractor: Extractor, seed: int = 0
) -> dict[str, dict[str, float | None]]:
    """Return FD (FID with Inception) and KID of the `picture_files` of `generated` against those of `reference`.

    Every picture counts as a story. Raises UserError if one folder is, or contains, the other, or has fewer than two
    pictures.
    """
    refuse_same_folder(generated, reference)
    generated_features, true_features = _features(generated, extractor), _features(reference, extractor)
    lengths, true_lengths = [1] * len(generated_features), [1] * len(true_features)
    return to_dicts(distances(generated_features, true_features, extractor.name, lengths, true_lengths, seed))


def refuse_same_folder(generated: Path, reference: Path) -> None:
    """Raise UserError unless these are two folders, none of which is, or contains, the other."""
    for folder in (generated, reference):
        if not folder.is_dir():
            raise UserError(f"{folder} is not a folder: give folders of pictures")
    first, second = generated.resolve(), reference.resolve()
    same = first.samefile(second)
    if same or first in second.parents or second in first.parents:
        relation = "are the same folder" if same else "lie one inside the other"
        raise UserError(
            f"{generated} and {reference} {relation}: give generated and true pictures from two separate folders"
        )


def _features(folder: Path, extractor: Extractor) -> Features:
    """Return the features (N,F) of the pictures of a folder, of which a batch at a time is in memory."""
    paths = picture_files(folder)
    if len(paths) < 2:
        raise UserError(f"{folder} contains {len(paths)} pictures: distances need 2 or more")
    batches = [paths[start : start + BATCH] for start in range(0, len(paths), BATCH)]
    parts = [
        extractor.features([load_image(path) for path in batch]).double()
        for batch in track(f"pictures of {folder}, in batches of {BATCH}", batches)
    ]
    return torch.cat(parts).numpy()


def picture_files(folder: Path) -> list[Path]:
    """Return the pictures below a folder; of a folder that `generate` or `continue` wrote, the generated pages."""
    if not (folder / STORY).is_file():
        paths = [path for path in visible(folder) if path.suffix.lower() in SUFFIXES and path.is_file()]
        inner = [path for path in visible(folder) if path.is_dir() and not path.is_symlink()]
        return paths + [path for part in inner for path in picture_files(part)]
    try:
        steps = json.loads((folder / STORY).read_bytes())["steps"]
        names = [step["image_path"] for step in steps if not step.get("given") and step["image_path"]]
        return [folder / PurePath(name).name for name in names]
    except (OSError, ValueError, LookupError, TypeError, AttributeError, RecursionError) as error:
        raise UserError(
            f"{folder / STORY} is not what generate wrote ({first_line(error)}): generate it anew"
        ) from None
