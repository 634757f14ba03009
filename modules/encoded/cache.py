"""A cache of all tensors that stay constant in training: latents of the autoencoder, features of frozen encoders.

A cache is a folder of `cache.json` and safetensors shards, one row a step, in the order of the stories. Its key is made
of the data, the settings and the weights; a shard is written whole or not at all, so an interrupted run continues.
Image encoders that train (from scratch, or with trainable last layers) read pixels, which are cached too, at the
model's size, as bytes. Features of Stable Diffusion's text encoder are not: 77 vectors a text need 14 times the space
of a step's latents, and computing them is cheap beside the UNet.
"""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Callable, Sequence
from dataclasses import asdict
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save
from torch import Tensor, nn

from modules.common.errors import UserError
from modules.common.files import write_whole
from modules.data.pixels import pixels_of
from modules.data.read_ahead import ReadAhead
from modules.encoded.rows import ShardedRows
from modules.encoded.stories import encode_batch, encode_pictures, no_progress
from modules.story import StoryDataset, StoryStep
from modules.story_model.story_model import StoryModel

ABOUT, FORMAT_VERSION = "cache.json", 1
SHARD_BYTES = 32 << 20  # A minute or two of encoding on a CPU, which is what a kill may cost.


def cache_key(model: StoryModel, source: StoryDataset) -> dict[str, str]:
    """Return the key of a cache: hashes of the data, of the settings, and of the weights as a model folder has them."""
    board = model.config.storyboard
    settings: dict[str, Any] = {"autoencoder": asdict(model.config.autoencoder), "pictures": model.pictures}
    weights = hashlib.sha256(_digest(model.autoencoder))
    for name, encoder in model.frozen_encoders().items():
        settings[name] = asdict(getattr(board, name))
        weights.update(_digest(encoder))
    text = json.dumps(settings, sort_keys=True).encode()
    return {
        "data": source.fingerprint(),
        "settings": hashlib.sha256(text).hexdigest()[:16],
        "weights": weights.hexdigest()[:16],
    }


def _digest(module: nn.Module) -> bytes:
    digest = hashlib.sha256()
    for name, value in sorted(module.state_dict().items()):
        digest.update(
            name.encode() + (value.half() if value.is_floating_point() else value).cpu().contiguous().numpy().tobytes()
        )
    return digest.digest()


@torch.no_grad()
def _encode(model: StoryModel, images: Sequence[Image.Image | None], texts: Sequence[str | None]) -> dict[str, Tensor]:
    """Compute the rows of up to `encode_batch` steps, by name."""
    size, device, frozen = model.config.autoencoder.image_size, model.device, model.frozen_encoders()
    image_mask = torch.tensor([image is not None for image in images])
    rows = {"latents": encode_pictures(images, model.autoencoder, size), "image_mask": image_mask}
    if "image_encoder" in frozen:
        rows["image_features"] = frozen["image_encoder"](pixels_of(images, size).to(device)).half().cpu()
    elif model.reads_pixels:
        rows["pixels"] = ((pixels_of(images, size) + 1) * 127.5).round().to(torch.uint8)
    if "text_encoder" in frozen:
        tokens = model.tokenize([text or "" for text in texts])
        ids, mask = tokens["encoder_ids"].to(device), tokens["encoder_mask"].to(device)
        rows["text_features"] = frozen["text_encoder"](ids, mask).half().cpu()
    return rows


def write_cache(
    folder: Path,
    model: StoryModel,
    source: StoryDataset,
    workers: int = 2,
    progress: Callable[[int], None] = no_progress,
) -> int:
    """Write, or complete, the cache of `source` for `model`, and return its number of rows; `progress` is called with
    the number of stories processed.

    Raises:
        UserError: `folder` contains another cache, or cannot be written.
    """
    key, starts = cache_key(model, source), np.concatenate([[0], np.cumsum(source.lengths)])
    total, size = int(starts[-1]), model.config.autoencoder.image_size
    if (folder / ABOUT).exists():
        _check_key(folder, key, "choose another --output")
    about = {"format_version": FORMAT_VERSION, "key": key, "rows": total}
    write_whole(folder / ABOUT, json.dumps(about, indent=1).encode())
    stories, num_written = ReadAhead(source, size, workers), sum(_rows_of(path) for path in _shards(folder))
    blocks: list[dict[str, Tensor]] = []
    count = encode_batch(model.autoencoder)
    for start in range(num_written, total, count):
        rows = range(start, min(total, start + count))
        steps, num_done = _steps_at(rows, stories, starts)
        blocks.append(_encode(model, [step.image for step in steps], [step.text for step in steps]))
        num_bytes = sum(value.nbytes for block in blocks for value in block.values())
        if num_bytes >= SHARD_BYTES or rows.stop == total:
            shard = {name: torch.cat([block[name] for block in blocks]).contiguous() for name in blocks[0]}
            write_whole(folder / f"{num_written:012d}.safetensors", save(shard))
            blocks, num_written = [], rows.stop
        progress(num_done)
    return total


def _steps_at(rows: range, stories: ReadAhead, starts: np.ndarray) -> tuple[list[StoryStep], int]:
    """Read the steps of row numbers; also return how many stories end there. `starts` are the stories' first rows."""
    first, last = (int(np.searchsorted(starts, row, side="right")) - 1 for row in (rows[0], rows[-1]))
    # These, and as many more for the next call.
    stories.expect(range(first, min(len(stories), 2 * last + 2 - first)))
    steps = [step for index in range(first, last + 1) for step in stories[index].steps]
    offset = rows[0] - int(starts[first])
    return steps[offset : offset + len(rows)], last + int(rows.stop == starts[last + 1])


class EncodedCache:
    """A cache of `source` for `model`; its files are mapped into memory, not read.

    Raises:
        UserError: There is none, it is incomplete, or its key differs.
    """

    def __init__(self, folder: Path, model: StoryModel, source: StoryDataset) -> None:
        self.folder = folder
        about = _check_key(folder, cache_key(model, source), "run precompute again, or leave --cache out")
        try:
            self._parts = [load_file(path) for path in _shards(folder)]
        except (OSError, SafetensorError) as error:
            raise UserError(f"the cache in {folder} is damaged ({error}): delete it and run precompute again") from None
        if sum(len(part["latents"]) for part in self._parts) != about["rows"]:
            raise UserError(
                f"the cache in {folder} is not finished: run precompute again, which goes on from where it was"
            )

    @cached_property
    def rows(self) -> dict[str, ShardedRows]:
        """The cached tensors by name."""
        return {name: ShardedRows([part[name] for part in self._parts]) for name in self._parts[0]}


def discard_other(folder: Path, key: dict[str, str]) -> None:
    """Remove the cache in a folder of this program's own if it has another key."""
    if (folder / ABOUT).exists():
        try:
            _check_key(folder, key, "")
        except UserError:
            shutil.rmtree(folder)


def _check_key(folder: Path, key: dict[str, str], remedy: str) -> dict:
    try:
        about = json.loads((folder / ABOUT).read_bytes())
        version, made_from = about["format_version"], about["key"]
    except FileNotFoundError:
        raise UserError(f"{folder} holds no cache: make one with precompute") from None
    except (OSError, ValueError, LookupError, TypeError, RecursionError) as error:
        raise UserError(
            f"{folder / ABOUT} is not what precompute wrote ({error}): delete the folder and run it again"
        ) from None
    wanted = {**key, "format version": FORMAT_VERSION}
    other = [name for name, value in wanted.items() if {**made_from, "format version": version}.get(name) != value]
    if other:
        raise UserError(f"the cache in {folder} was made from other {' and '.join(other)}: {remedy}")
    return about


def _shards(folder: Path) -> list[Path]:
    return sorted(folder.glob("[0-9]*.safetensors"))


def _rows_of(path: Path) -> int:
    try:
        with safe_open(path, "pt") as file:
            return file.get_slice("image_mask").get_shape()[0]
    except (OSError, SafetensorError) as error:
        raise UserError(
            f"{path} is damaged ({error}): delete it and those after it, and run precompute again"
        ) from None
