"""The `model/` folder, what one generates with: config.json, model.safetensors, tokenizer.json, words.json.

With a pretrained language model, its tokenizer is in tokenizer/. Of pretrained parts that train in full no weight is
left at the source; their architecture is here too (tokenizer/config.json, unet/config.json,
scheduler/scheduler_config.json).
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from modules.common.errors import UserError
from modules.config import StoryConfig, load_config
from modules.pretrained.hub import find_file
from modules.saving.checkpoint import latest_checkpoint
from modules.story_model import StoryModel, build_model
from modules.storyboard.quantizer import TRAINING_STATE
from modules.text_decoder.tokenizers import FOLDER, Vocabulary, load_vocabulary

CONFIG, WEIGHTS = "config.json", "model.safetensors"
LANGUAGE_MODEL, UNET, SCHEDULER = f"{FOLDER}/config.json", "unet/config.json", "scheduler/scheduler_config.json"
OPTIONAL = (  # What of a model folder there is depends on its config.
    "tokenizer.json",
    "words.json",
    *(f"{FOLDER}/{name}.json" for name in ("tokenizer", "tokenizer_config", "special_tokens_map")),
    LANGUAGE_MODEL,
    UNET,
    SCHEDULER,
)


# Not needed to generate, and left as it is initialised in a model that is loaded.
TRAINING_ONLY = ("aids.", "contrastive.", *(f"storyboard.quantizer.{name}" for name in TRAINING_STATE))
_PICKLES = (".pt", ".pth", ".ckpt", ".bin", ".pkl")
_NAMES_A_STEP = re.compile(r"(?:ckpt|step)_?([0-9]+)(?:\.(?:pt|pth|ckpt|bin|safetensors))?")
_NAMES_A_SOURCE = re.compile(r"[a-z_.]+\.source: ")


def save_model(
    folder: Path,
    config: StoryConfig,
    state: Mapping[str, Tensor],
    tokenizer: Vocabulary,
    architectures: Mapping[str, str] | None = None,
) -> None:
    """Write a model folder, without what only training needs, and tied weights once. Floats become float16, but the
    codebook's, whose nearest code must not change. `architectures` are those of `architectures_of`.
    """
    folder.mkdir(parents=True, exist_ok=True)
    (folder / CONFIG).write_text(config.to_json(), encoding="utf-8")
    tokenizer.save(folder)
    for name, text in (architectures or {}).items():
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_text(text, encoding="utf-8")
    left_out = _left_out(state)
    weights = {
        name: (value.half() if value.dtype == torch.float32 and "quantizer" not in name else value).contiguous().clone()
        for name, value in state.items()
        if name not in left_out
    }
    save_file(weights, folder / WEIGHTS)


def load_model(path: str | Path, *, offline: bool = False) -> tuple[StoryModel, Vocabulary]:
    """Read a model from a model folder, a step's folder, a run's folder or a Hub id, in float32, ready to generate;
    pretrained parts come from their sources, with `offline` from the local cache.

    Raises UserError where there is none, or where it is not one of ours.
    """
    folder = resolve_model_folder(Path(path), offline=offline)
    config = load_config(folder / CONFIG)
    model = _build(config, folder, offline)
    try:
        state = load_file(folder / WEIGHTS)
        state = {name: value.float() if value.is_floating_point() else value for name, value in state.items()}
        fresh = model.state_dict()
        model.load_own_state({name: fresh[name] for name in _left_out(fresh)} | state)
    except (OSError, SafetensorError, RuntimeError) as error:
        reason = " ".join(str(error).split())[:200]
        raise UserError(
            f"{folder / WEIGHTS} does not hold this model's weights ({reason}); copy the folder anew"
        ) from error
    return model, load_vocabulary(folder, config)


def architectures_of(model: StoryModel) -> dict[str, str]:
    """The configs of pretrained parts that train in full, as texts by their names in a model folder, which then needs
    no source.
    """
    config, found = model.config, {}
    if _language_model_is_ours(config):
        found[LANGUAGE_MODEL] = model.text_decoder.language_model.config.to_json_string()
    if _unet_is_ours(config):
        found[UNET] = model.image_decoder.unet.to_json_string()
        found[SCHEDULER] = json.dumps(model.image_decoder.noise_schedule, indent=2) + "\n"
    return found


def _build(config: StoryConfig, folder: Path, offline: bool) -> StoryModel:
    """The model of a folder; parts whose architecture is there get random weights, to be overwritten, instead of their
    source's.
    """
    local, awaited = config, []
    if _language_model_is_ours(config) and (folder / LANGUAGE_MODEL).is_file():
        local = replace(local, text_decoder=replace(local.text_decoder, source=str(folder / FOLDER)))
        awaited.append("text_decoder")
    if _unet_is_ours(config) and (folder / UNET).is_file():
        local = replace(local, image_decoder=replace(local.image_decoder, source=str(folder)))
        awaited.append("image_decoder")
    try:
        model = build_model(local, str(folder / CONFIG), offline=offline, awaited=awaited).eval()
    except UserError as error:
        if not _NAMES_A_SOURCE.match(str(error)):
            raise
        raise UserError(f"{folder / CONFIG}, {error}") from error
    model.config = config
    return model


def _language_model_is_ours(config: StoryConfig) -> bool:
    """Whether no weight of the language model is left at its source."""
    return bool(config.text_decoder.source) and config.text_decoder.tuning == "full"


def _unet_is_ours(config: StoryConfig) -> bool:
    """Whether no weight of the image decoder is left at its source; a text encoder would be, it is always frozen."""
    decoder = config.image_decoder
    return bool(decoder.source) and decoder.tuning == "full" and decoder.condition == "codes"


def load_autoencoder(path: Path, config: StoryConfig, *, offline: bool = False) -> dict[str, Tensor]:
    """The weights of a checkpoint's autoencoder, for a model of `config`.

    Raises UserError where they do not belong there.
    """
    if config.autoencoder.source:
        raise UserError(f"this preset has the autoencoder of {config.autoencoder.source}: leave {path} out")
    donor, _ = load_model(path, offline=offline)
    if donor.config.autoencoder != config.autoencoder:
        raise UserError(
            f"the autoencoder in {path} has another shape than this preset's: leave --autoencoder out to train one"
        )
    return donor.autoencoder.state_dict()


def _left_out(state: Mapping[str, Tensor]) -> set[str]:
    """The names that a model folder does without: what only training needs, and second names of tied weights."""
    seen: set[int] = set()
    tied = {
        name
        for name, value in state.items()
        if value.numel() and (value.data_ptr() in seen or seen.add(value.data_ptr()))
    }
    return tied | {name for name in state if name.startswith(TRAINING_ONLY)}


def resolve_model_folder(path: Path, *, offline: bool = False) -> Path:
    """The model folder that `path` means: of a run's folder, its newest checkpoint's; of `ckpt_N.pt` that is not there,
    step N's beside it; of a Hub id, where the Hub's cache has it. Raises UserError where nothing is found. Nothing is
    unpickled.
    """
    if path.is_file():
        kind = "a pickle, which could run any code and is not opened" if path.suffix in _PICKLES else "a file"
        raise UserError(
            f"{path} is {kind}, and not a checkpoint of this program: give a run's folder, a step's or a model folder"
        )
    if not path.exists():
        step = _NAMES_A_STEP.fullmatch(path.name)
        if step is None and _is_hub_id(path):
            return _fetch(path.as_posix(), offline)
        if step is None or not (found := _step_beside(path, int(step[1]))).is_dir():
            raise UserError(
                f"no checkpoint at {path}: give a run's folder, a step's folder, a model folder or a Hub id"
            )
        path = found
    latest = latest_checkpoint(path)
    for folder in (path, *([latest / "model"] if latest else []), path / "model"):
        if (folder / CONFIG).is_file() and (folder / WEIGHTS).is_file():
            return folder
    raise UserError(
        f"{path} is not a checkpoint of this program: it holds no {CONFIG} with {WEIGHTS} (has the run saved yet?)"
    )


def _step_beside(path: Path, step: int) -> Path:
    """The folder of a run's step, in the folder that `path` would lie in.

    Raises UserError, with the steps there are, without one.
    """
    folder = path.parent / f"step_{step:08d}"
    others = sorted(int(other.name[5:]) for other in path.parent.glob("step_*") if other.name[5:].isdigit())
    if others and not folder.is_dir():
        raise UserError(
            f"no checkpoint at {path}: the run in {path.parent} has kept step {', '.join(map(str, others))}"
        )
    return folder


def _is_hub_id(path: Path) -> bool:
    """Whether `path`, which is not there, may be an id: a name in a folder that is here is a mistake, and not for the
    Hub.
    """
    return len(path.parts) == 2 and not path.is_absolute() and not Path(path.parts[0]).expanduser().exists()


def _fetch(source: str, offline: bool) -> Path:
    folder = find_file(source, CONFIG, "the checkpoint", offline=offline).parent
    find_file(source, WEIGHTS, "the checkpoint", offline=offline)
    for name in OPTIONAL:
        find_file(source, name, "the checkpoint", offline=offline, required=False)
    return folder
