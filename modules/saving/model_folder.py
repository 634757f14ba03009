"""The `model/` folder, from which stories are generated: config.json, model.safetensors, tokenizer.json, words.json.

The tokenizer of a pretrained language model is in tokenizer/. Of a pretrained part that trains in full, the folder has
all weights and the architecture (tokenizer/config.json, unet/config.json, scheduler/scheduler_config.json), so the
source is not needed.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from modules.common.errors import UserError
from modules.common.files import write_whole
from modules.common.sums import MANIFEST, damage, write_sums
from modules.common.tensor_files import save_tensors
from modules.config import StoryConfig, load_config
from modules.pretrained.source import PretrainedSource
from modules.saving.checkpoint import STATE, latest_checkpoint, verify_checkpoint
from modules.story_model.story_model import StoryModel, build_model
from modules.storyboard.quantizer import TRAINING_STATE
from modules.text_decoder.nearest_words import FILE as NEAREST_WORDS
from modules.text_decoder.tokenizers import FOLDER, Vocabulary, load_vocabulary

CONFIG, WEIGHTS = "config.json", "model.safetensors"
NEEDED = (CONFIG, WEIGHTS)
LANGUAGE_MODEL, UNET, SCHEDULER = f"{FOLDER}/config.json", "unet/config.json", "scheduler/scheduler_config.json"
OPTIONAL = (  # Files that some configs have.
    "tokenizer.json",
    "words.json",
    NEAREST_WORDS,
    *(f"{FOLDER}/{name}.json" for name in ("tokenizer", "tokenizer_config", "special_tokens_map")),
    LANGUAGE_MODEL,
    UNET,
    SCHEDULER,
    MANIFEST,
)


# Not needed to generate; a loaded model has their initial values.
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
    """Write a model folder, without the weights that only training needs, and with tied weights once.

    Floats become float16, except the codebook's, whose nearest code must not change. `architectures` are those of
    `architectures_of`.
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
    save_tensors(weights, folder / WEIGHTS)
    write_model_sums(folder)


def copy_model(source: Path, target: Path) -> None:
    """Copy a model folder into another, which may have other files too; the weights and the sums come last.

    Raises UserError if a file cannot be written.
    """
    last = (WEIGHTS, MANIFEST)
    names = [path.relative_to(source).as_posix() for path in sorted(source.rglob("*")) if path.is_file()]
    for name in (*(name for name in names if name not in last), *(name for name in last if name in names)):
        write_whole(target / name, (source / name).read_bytes())


def write_model_sums(folder: Path) -> Path:
    """Write the sizes and SHA-256 of a model folder's files anew, its card's left out. Raises UserError."""
    names = [name for name in (*NEEDED, *OPTIONAL) if name != MANIFEST and (folder / name).is_file()]
    return write_sums(folder, names)


def check_model_folder(folder: Path) -> None:
    """Raise UserError if a file differs from the folder's manifest; folders of older versions have none."""
    if (folder / MANIFEST).exists() and (problem := damage(folder, NEEDED, (*NEEDED, *OPTIONAL))):
        raise UserError(
            f"the model in {folder} is damaged ({problem}): copy it anew; if you changed it yourself, delete its"
            f" {MANIFEST}"
        )


def load_model(path: str | Path, *, offline: bool = False) -> tuple[StoryModel, Vocabulary]:
    """Load a model in float32, ready to generate, from a model folder, a step folder, a run folder or a Hub id.

    Pretrained parts are read from their sources, with `offline` from the local cache only. Raises UserError where there
    is no model, or it is not one of this program.
    """
    folder = resolve_model_folder(Path(path), offline=offline)
    check_model_folder(folder)
    config = load_config(folder / CONFIG)
    model = _build(config, folder, offline)
    with _fitting(folder):
        state = load_file(folder / WEIGHTS)  # Mapped; loading copies it into the model, and float16 to float32.
        fresh = model.state_dict()
        model.load_own_state({name: fresh[name] for name in _left_out(fresh)} | state)
    return model, load_vocabulary(folder, config.text_decoder)


@contextmanager
def _fitting(folder: Path) -> Iterator[None]:
    """Raise UserError where weights that are loaded inside cannot be read or do not fit."""
    try:
        yield
    except (OSError, SafetensorError, RuntimeError) as error:
        reason = " ".join(str(error).split())[:200]
        raise UserError(
            f"{folder / WEIGHTS} does not contain this model's weights ({reason}): copy the folder anew"
        ) from error


def architectures_of(model: StoryModel) -> dict[str, str]:
    """Return the configs of pretrained parts that train in full, as texts by their file names in a model folder."""
    config, found = model.config, {}
    if _language_model_is_ours(config):
        found[LANGUAGE_MODEL] = model.text_decoder.language_model.config.to_json_string()
    if _unet_is_ours(config):
        found[UNET] = model.image_decoder.unet.to_json_string()
        found[SCHEDULER] = json.dumps(model.image_decoder.noise_schedule, indent=2) + "\n"
    return found


def _build(config: StoryConfig, folder: Path, offline: bool) -> StoryModel:
    """Return the model of a folder, before its weights are loaded.

    A part whose architecture is in the folder gets random weights instead of its source's: all of them are overwritten.
    """
    sources = {}
    if _language_model_is_ours(config) and (folder / LANGUAGE_MODEL).is_file():
        sources["text_decoder"] = PretrainedSource(str(folder / FOLDER), "text_decoder.source", offline, random=True)
    if _unet_is_ours(config) and (folder / UNET).is_file():
        sources["image_decoder"] = PretrainedSource(str(folder), "image_decoder.source", offline, random=True)
    try:
        return build_model(config, str(folder / CONFIG), offline=offline, sources=sources).eval()
    except UserError as error:
        if not _NAMES_A_SOURCE.match(str(error)):
            raise
        raise UserError(f"{folder / CONFIG}, {error}") from error


def _language_model_is_ours(config: StoryConfig) -> bool:
    """Return whether a model folder contains every weight of the pretrained language model."""
    return bool(config.text_decoder.source) and config.text_decoder.tuning == "full"


def _unet_is_ours(config: StoryConfig) -> bool:
    """Return whether a model folder contains every weight of a pretrained image decoder; a text encoder is frozen."""
    decoder = config.image_decoder
    return bool(decoder.source) and decoder.tuning == "full" and decoder.condition == "codes"


def load_autoencoder(path: Path, model: StoryModel, *, offline: bool = False) -> dict[str, Tensor]:
    """Return the weights of a checkpoint's autoencoder, in float32, for `model`, whose other parts may differ.

    Raises UserError where they do not fit.
    """
    config = model.config.autoencoder
    if config.source:
        raise UserError(f"this preset has the autoencoder of {config.source}: leave {path} out")
    folder, prefix = resolve_model_folder(path, offline=offline), "autoencoder."
    check_model_folder(folder)
    if load_config(folder / CONFIG).autoencoder.architecture != config.architecture:
        raise UserError(
            f"the autoencoder in {path} has another shape than this preset's: leave --autoencoder out to train one"
        )
    fresh = model.autoencoder.state_dict()
    with _fitting(folder):
        found = {name: value for name, value in load_file(folder / WEIGHTS).items() if name.startswith(prefix)}
        if {name: value.shape for name, value in found.items()} != {
            prefix + name: value.shape for name, value in fresh.items()
        }:
            raise RuntimeError("its autoencoder has other tensors")
    return {name: found[prefix + name].to(value.dtype) for name, value in fresh.items()}


def _left_out(state: Mapping[str, Tensor]) -> set[str]:
    """Return the names left out of a model folder: weights that only training needs, second names of tied weights."""
    first: dict[int, str] = {}
    tied = {name for name, value in state.items() if value.numel() and first.setdefault(value.data_ptr(), name) != name}
    return tied | {name for name in state if name.startswith(TRAINING_ONLY)}


def resolve_model_folder(path: Path, *, offline: bool = False) -> Path:
    """Return the model folder for `path`: a model folder, a step folder, a run folder (its newest checkpoint), a Hub id
    (fetched to its cache), or a missing `ckpt_N.pt` (the folder of step N beside it).

    Nothing is unpickled. Raises UserError where no model is found.
    """
    if path.is_file():
        kind = "a pickle, which could run any code and is not opened" if path.suffix in _PICKLES else "a file"
        raise UserError(f"{path} is {kind}, and not a checkpoint of this program: give a run, step or model folder")
    if not path.exists():
        step = _NAMES_A_STEP.fullmatch(path.name)
        if step is None and _is_hub_id(path):
            return _fetch(path.as_posix(), offline)
        if step is None or not (found := _step_beside(path, int(step[1]))).is_dir():
            raise UserError(f"no checkpoint at {path}: give a run folder, a step folder, a model folder or a Hub id")
        path = found
    if (path / STATE).is_file() and (problem := verify_checkpoint(path)):
        raise UserError(f"the checkpoint {path} is damaged ({problem}): give another step of the run, or copy it anew")
    latest = latest_checkpoint(path)
    for folder in (path, *([latest / "model"] if latest else []), path / "model"):
        if (folder / CONFIG).is_file() and (folder / WEIGHTS).is_file():
            return folder
    raise UserError(
        f"{path} is not a checkpoint of this program: it contains no {CONFIG} with {WEIGHTS} (has the run saved yet?)"
    )


def _step_beside(path: Path, step: int) -> Path:
    """Return the folder of a run's step beside `path`. Raises UserError where the run has only other steps."""
    folder = path.parent / f"step_{step:08d}"
    others = sorted(int(other.name[5:]) for other in path.parent.glob("step_*") if other.name[5:].isdigit())
    if others and not folder.is_dir():
        raise UserError(
            f"no checkpoint at {path}: the run in {path.parent} has kept step {', '.join(map(str, others))}"
        )
    return folder


def _is_hub_id(path: Path) -> bool:
    """Return whether a missing `path` may be a Hub id; a name within an existing folder is a mistake."""
    return len(path.parts) == 2 and not path.is_absolute() and not os.path.exists(os.path.expanduser(path.parts[0]))


def _fetch(repo_id: str, offline: bool) -> Path:
    source = PretrainedSource(repo_id, "the checkpoint", offline)
    folder = source.find(CONFIG).parent
    source.find(WEIGHTS)
    for name in OPTIONAL:
        source.find_optional(name)
    return folder
