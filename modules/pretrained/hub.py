"""The files of pretrained parts: in a local folder, in the Hub's cache, on the Hub or, for known architectures, among
the assets.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from huggingface_hub import HfApi, constants, hf_hub_download, is_offline_mode
from huggingface_hub.errors import (
    EntryNotFoundError,
    GatedRepoError,
    HfHubHTTPError,
    HFValidationError,
    LocalEntryNotFoundError,
    RepositoryNotFoundError,
)

from modules.common.errors import UserError
from modules.common.shipped import shipped

CONFIG = "config.json"


# The config files of the models that presets name, in the Hub's layout, so that their sizes are known without it.
ARCHITECTURES = shipped("assets/architectures")


# Other names of these, for the assets alone: whoever fetched "gpt2" has it in the cache under that name.
OTHER_NAMES = {
    "gpt2": "openai-community/gpt2",
    "gpt2-xl": "openai-community/gpt2-xl",
    "bert-base-uncased": "google-bert/bert-base-uncased",
    "runwayml/stable-diffusion-v1-5": "stable-diffusion-v1-5/stable-diffusion-v1-5",
}
_PICKLES = {"model": "pytorch_model.bin", "diffusion_pytorch_model": "diffusion_pytorch_model.bin"}


def find_file(source: str, name: str, what: str, *, offline: bool = False, required: bool = True) -> Path | None:
    """The local path of one file of a folder or of a Hub id, fetched where need be; None where an optional one is not
    there.

    Raises UserError, which calls the part `what`.
    """
    folder = local_folder(source, what)
    if folder is not None:
        if (folder / name).is_file():
            return folder / name
        if not required:
            return None
        raise UserError(
            f"{what}: the folder {source} holds no {name}: give the folder that `save_pretrained` wrote, or a Hub id"
        )
    try:
        return Path(hf_hub_download(source, name, local_files_only=offline))
    except (
        Exception
    ) as error:  # Whatever the transport raises as well: the HTTP library's errors have no base in common with ours.
        if not required and isinstance(error, EntryNotFoundError):
            return None
        raise UserError(f"{what}: {_reason(error, source, name, offline)}") from error


def local_folder(source: str, what: str) -> Path | None:
    """The folder that `source` names, None where it is a Hub id. Raises UserError where it can be neither."""
    path = Path(source).expanduser()
    if source and path.is_dir():
        return path
    if path.is_file():
        raise UserError(f"{what}: {source} is a file: give the folder that it lies in, or a Hub id")
    if not source or source.startswith(("/", ".", "~")) or source.count("/") > 1 or "\\" in source:
        raise UserError(f"{what}: there is no folder {source!r}: correct the path, or give a Hub id such as gpt2-xl")
    return None


def find_config(source: str, what: str, *, offline: bool = False, subfolder: str = "", name: str = CONFIG) -> Path:
    """A config file, wherever it is nearest: an architecture that is known is not asked for over the network.

    Raises as `find_file`.
    """
    name = f"{subfolder}/{name}" if subfolder else name
    if local_folder(source, what) is None:
        known = ARCHITECTURES / OTHER_NAMES.get(source, source) / name
        cached = find_file(source, name, what, offline=True, required=False)
        if cached is not None or known.is_file():
            return cached or known
    return find_file(source, name, what, offline=offline)


def find_weights(source: str, stem: str, what: str, *, offline: bool = False, subfolder: str = "") -> list[Path]:
    """The safetensors files of a model, `stem`.safetensors or its shards.

    Raises as `find_file`, and where there are pickles alone.
    """
    prefix = f"{subfolder}/" if subfolder else ""
    single = find_file(source, f"{prefix}{stem}.safetensors", what, offline=offline, required=False)
    if single is not None:
        return [single]
    index = find_file(source, f"{prefix}{stem}.safetensors.index.json", what, offline=offline, required=False)
    if index is not None:
        try:
            shards = sorted(set(read_json(index, what)["weight_map"].values()))
        except (AttributeError, KeyError, TypeError) as error:
            raise UserError(f"{what}: {index} lists no weights: copy or fetch {source} anew") from error
        return [find_file(source, f"{prefix}{shard}", what, offline=offline) for shard in shards]
    if _has_file(source, prefix + _PICKLES[stem], offline):
        raise UserError(
            f"{what}: {source} has its weights in {_PICKLES[stem]} alone, a pickle, which could run any code:"
            f" convert them to {stem}.safetensors, or choose a model that has it"
        )
    return [
        find_file(source, f"{prefix}{stem}.safetensors", what, offline=offline)
    ]  # Raises, saying why it is not there.


def read_json(path: Path, what: str) -> dict[str, Any]:
    """The object in a JSON file. Raises UserError where there is none."""
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise UserError(f"{what}: {path} is not readable JSON ({error}): copy or fetch it anew") from error
    if not isinstance(values, dict):
        raise UserError(f"{what}: {path} holds no JSON object: copy or fetch it anew")
    return values


def _has_file(source: str, name: str, offline: bool) -> bool:
    folder = Path(source).expanduser()
    if folder.is_dir():
        return (folder / name).is_file()
    try:
        return not (offline or is_offline_mode()) and HfApi().file_exists(source, name)
    except Exception:
        return False


def _reason(error: Exception, source: str, name: str, offline: bool) -> str:
    """Why a file of a Hub id is not to be had, and what to do."""
    cause = error.__cause__ if isinstance(error, LocalEntryNotFoundError) else error
    status = cause.response.status_code if isinstance(cause, HfHubHTTPError) else None
    if isinstance(error, HFValidationError):
        return f"{source!r} is neither a folder nor a Hub id: correct it"
    if isinstance(error, GatedRepoError):
        return f"{source} is gated: accept its terms at {constants.ENDPOINT}/{source}, log in by `hf auth login` and run again"
    if isinstance(error, RepositoryNotFoundError):
        return f"{source} is neither a folder here nor a public model on the Hub: correct it (a private one needs `hf auth login`)"
    if offline or is_offline_mode():
        return f"{name} of {source} is not in the cache and offline mode is on: run once with a network, or give a local folder"
    if isinstance(cause, EntryNotFoundError) and not isinstance(cause, LocalEntryNotFoundError):
        return f"{source} on the Hub has no {name}: choose a model that has it"
    if status in (401, 403):
        return f"the Hub refuses {source} ({status}): log in by `hf auth login` with a token that may read it"
    if status is not None:
        return f"the Hub answers {status} for {source}: try again later, or give a local folder"
    if isinstance(cause, OSError) and cause.filename:
        return f"{source} cannot be written to the cache ({cause.strerror}: {cause.filename}): make room there or set HF_HOME elsewhere"
    return f"the Hub cannot be reached and {source} is not in the cache: check the network, or give a local folder"
