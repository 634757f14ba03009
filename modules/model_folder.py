"""The `model/` folder, what one generates with: config.json, model.safetensors, tokenizer.json, words.json."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from modules.checkpoint import latest_checkpoint
from modules.config import StoryConfig, load_config
from modules.story import UserError
from modules.story_model import StoryModel, build_model
from modules.vocabulary import Vocabulary, load_vocabulary

CONFIG, WEIGHTS = "config.json", "model.safetensors"
# Not needed to generate, and left as it is initialised in a model that is loaded.
TRAINING_ONLY = (
    "aids.",
    "contrastive.",
    "storyboard.quantizer.library._codebook.cluster_size",
    "storyboard.quantizer.library._codebook.embed_avg",
)


def save_model(folder: Path, config: StoryConfig, state: Mapping[str, Tensor], tokenizer: Vocabulary) -> None:
    """Write a model folder, without what only training needs, and tied weights once. Floats become float16, but the codebook's,
    whose nearest code must not change.
    """
    folder.mkdir(parents=True, exist_ok=True)
    (folder / CONFIG).write_text(config.to_json(), encoding="utf-8")
    tokenizer.save(folder)
    left_out = _left_out(state)
    weights = {
        name: (value.half() if value.dtype == torch.float32 and "quantizer" not in name else value).contiguous().clone()
        for name, value in state.items()
        if name not in left_out
    }  # fmt: skip
    save_file(weights, folder / WEIGHTS)


def load_model(path: str | Path, *, offline: bool = False) -> tuple[StoryModel, Vocabulary]:
    """Read a model from a model folder, a step's folder or a run's folder, in float32, ready to generate; pretrained parts come
    from their sources, with `offline` from the local cache.

    Raises UserError where there is none, or where it is not one of ours.
    """
    folder = resolve_model_folder(Path(path))
    config = load_config(folder / CONFIG)
    model = build_model(config, str(folder / CONFIG), offline=offline).eval()
    try:
        state = load_file(folder / WEIGHTS)
        state = {name: value.float() if value.is_floating_point() else value for name, value in state.items()}
        fresh = model.state_dict()
        model.load_own_state({name: fresh[name] for name in _left_out(fresh)} | state)
    except (OSError, SafetensorError, RuntimeError) as error:
        reason = " ".join(str(error).split())[:200]
        raise UserError(f"{folder / WEIGHTS} does not hold this model's weights ({reason}); copy the folder anew") from error
    return model, load_vocabulary(folder, config)


def load_autoencoder(path: Path, config: StoryConfig) -> dict[str, Tensor]:
    """The weights of a checkpoint's autoencoder, for a model of `config`. Raises UserError where they do not belong there."""
    if config.autoencoder.source:
        raise UserError(f"this preset has the autoencoder of {config.autoencoder.source}: leave {path} out")
    donor, _ = load_model(path)
    if donor.config.autoencoder != config.autoencoder:
        raise UserError(f"the autoencoder in {path} has another shape than this preset's: leave --autoencoder out to train one")
    return donor.autoencoder.state_dict()


def _left_out(state: Mapping[str, Tensor]) -> set[str]:
    """The names that a model folder does without: what only training needs, and second names of tied weights."""
    seen: set[int] = set()
    tied = {name for name, value in state.items() if value.numel() and (value.data_ptr() in seen or seen.add(value.data_ptr()))}
    return tied | {name for name in state if name.startswith(TRAINING_ONLY)}


def resolve_model_folder(path: Path) -> Path:
    """The model folder that `path` means: of a run's folder, its newest checkpoint's. Raises UserError where nothing is found."""
    if not path.exists():
        raise UserError(f"no checkpoint at {path}: give a run's folder, a step's folder or a model folder")
    latest = latest_checkpoint(path) if path.is_dir() else None
    for folder in (path, *([latest / "model"] if latest else []), path / "model"):
        if (folder / CONFIG).is_file() and (folder / WEIGHTS).is_file():
            return folder
    raise UserError(f"{path} is not a checkpoint of this program: it holds no {CONFIG} with {WEIGHTS} (has the run saved yet?)")
