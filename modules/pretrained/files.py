"""The files of a pretrained part, in a local folder or on the Hub: configs, weights, and how they are found."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from modules.common.errors import UserError
from modules.common.files import read_json
from modules.common.shipped import ARCHITECTURES, shipped
from modules.pretrained.unpacked import PACKAGE, unpacked_folder

CONFIG, SCHEDULER_CONFIG = "config.json", "scheduler_config.json"

# Other names of these models, for the assets only: the cache has "gpt2" under the name that it was fetched by.
OTHER_NAMES = {
    "gpt2": "openai-community/gpt2",
    "gpt2-xl": "openai-community/gpt2-xl",
    "bert-base-uncased": "google-bert/bert-base-uncased",
    "runwayml/stable-diffusion-v1-5": "stable-diffusion-v1-5/stable-diffusion-v1-5",
}
_PICKLES = {"model": "pytorch_model.bin", "diffusion_pytorch_model": "diffusion_pytorch_model.bin"}


@dataclass(frozen=True)
class SourceFiles:
    """The files of a folder or Hub id; configs are read once.

    `what` starts every error message, such as "text_decoder.source". With `offline` only the local cache is read; with
    `random` no weights need to exist. `subfolder` is that of one part of a Stable Diffusion folder. Every method raises
    UserError where a file is missing or broken.
    """

    id: str
    what: str
    offline: bool = False
    random: bool = False
    subfolder: str = ""

    @property
    def where(self) -> str:
        """The id with its subfolder, for messages."""
        return f"{self.id}/{self.subfolder}" if self.subfolder else self.id

    @cached_property
    def folder(self) -> Path | None:
        """The local folder, into which a GGUF file or the model of a package is written out; None for a Hub id."""
        path = Path(self.id).expanduser()
        if self.id and path.is_dir():
            return path
        unpacked = unpacked_folder(self.id, self.what)
        if unpacked is not None:
            return unpacked
        if path.is_file():
            raise UserError(
                f"{self.what}: {self.id} is a file: give the folder that contains it, a GGUF file, or a Hub id"
            )
        if not self.id or self.id.startswith(("/", ".", "~")) or self.id.count("/") > 1 or "\\" in self.id:
            raise UserError(
                f"{self.what}: there is no folder {self.id!r}: correct the path, or give a Hub id such as gpt2-xl"
            )
        return None

    def find(self, name: str) -> Path:
        """Return the local path of a required file, fetched if need be."""
        path = self._find(name, self.offline, required=True)
        assert path is not None
        return path

    def find_optional(self, name: str) -> Path | None:
        """Return the local path of a file, or None where the source has no such file."""
        return self._find(name, self.offline, required=False)

    def _find(self, name: str, offline: bool, required: bool) -> Path | None:
        name = f"{self.subfolder}/{name}" if self.subfolder else name
        if self.folder is None:
            from modules.pretrained.hub import fetch_file

            return fetch_file(self.id, name, self.what, offline=offline, required=required)
        if (self.folder / name).is_file():
            return self.folder / name
        if not required:
            return None
        raise UserError(
            f"{self.what}: the folder {self.id} contains no {name}:"
            " give a folder that `save_pretrained` wrote, or a Hub id"
        )

    def find_config(self, name: str = CONFIG) -> Path:
        """Return the nearest config file: from the folder, the cache or, for a known architecture, the assets."""
        architecture = OTHER_NAMES.get(self.id, self.id.removeprefix(PACKAGE))
        known = shipped(ARCHITECTURES) / architecture / self.subfolder / name
        if self.id.startswith(PACKAGE) and known.is_file():  # The package need not be installed.
            return known
        if self.folder is None:
            cached = self._find(name, offline=True, required=False)
            if cached is not None or known.is_file():
                return cached or known
        return self.find(name)

    def find_weights(self, stem: str) -> list[Path]:
        """Return the safetensors files of a model: `stem`.safetensors or its shards. Pickles are refused."""
        single = self.find_optional(f"{stem}.safetensors")
        if single is not None:
            return [single]
        index = self.find_optional(f"{stem}.safetensors.index.json")
        if index is not None:
            try:
                shards = sorted(set(read_object(index, self.what)["weight_map"].values()))
            except (AttributeError, KeyError, TypeError) as error:
                raise UserError(f"{self.what}: {index} lists no weights: copy or fetch {self.id} anew") from error
            return [self.find(shard) for shard in shards]
        if self._has(_PICKLES[stem]):
            raise UserError(
                f"{self.what}: {self.id} has its weights only in {_PICKLES[stem]}, a pickle, which could run any code:"
                f" convert them to {stem}.safetensors, or choose a model that has it"
            )
        return [self.find(f"{stem}.safetensors")]  # Raises with the reason.

    def _has(self, name: str) -> bool:
        name = f"{self.subfolder}/{name}" if self.subfolder else name
        if self.folder is not None:
            return (self.folder / name).is_file()
        from modules.pretrained.hub import has_remote_file

        return has_remote_file(self.id, name, self.offline)

    @cached_property
    def config_path(self) -> Path:
        """The nearest config.json."""
        return self.find_config()

    @cached_property
    def settings(self) -> dict[str, Any]:
        """The contents of the nearest config.json."""
        return read_object(self.config_path, self.what)

    @cached_property
    def schedule(self) -> dict[str, Any]:
        """The settings of a diffusers scheduler, for `from_config` of any scheduler class."""
        settings = read_object(self.find_config(SCHEDULER_CONFIG), self.what)
        if "_class_name" not in settings:
            raise UserError(f"{self.what}: {self.where} contains no scheduler of diffusers: give a folder that has one")
        return settings


def read_object(path: Path, what: str) -> dict[str, Any]:
    """Return the object in a JSON file of the part called `what`. Raises UserError where there is none."""
    try:
        values = read_json(path, "JSON file")
    except UserError as error:
        raise UserError(f"{what}: {error}: copy or fetch it anew") from error
    if not isinstance(values, dict):
        raise UserError(f"{what}: {path} contains no JSON object: copy or fetch it anew")
    return values
