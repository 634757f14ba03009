"""The source of a pretrained part: a local folder or a Hub id, its files, config, tokenizer and weights.

Imports neither torch nor a library of models until something is read.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from modules.common.errors import UserError
from modules.common.shipped import ARCHITECTURES, shipped

if TYPE_CHECKING:
    from torch import nn
    from transformers import PreTrainedConfig, PreTrainedTokenizerBase

CONFIG, SCHEDULER_CONFIG = "config.json", "scheduler_config.json"

# Config files of the models that presets name, in the Hub's layout: their sizes are known without the Hub.

# Other names of these models, for the assets only: the cache has "gpt2" under the name that it was fetched by.
OTHER_NAMES = {
    "gpt2": "openai-community/gpt2",
    "gpt2-xl": "openai-community/gpt2-xl",
    "bert-base-uncased": "google-bert/bert-base-uncased",
    "runwayml/stable-diffusion-v1-5": "stable-diffusion-v1-5/stable-diffusion-v1-5",
}
_PICKLES = {"model": "pytorch_model.bin", "diffusion_pytorch_model": "diffusion_pytorch_model.bin"}


@dataclass(frozen=True)
class PretrainedSource:
    """A folder or Hub id that a pretrained part is read from; config and tokenizer are read once.

    `what` starts every error message, such as "text_decoder.source". With `offline` only the local cache is read; with
    `random` the architecture gets random weights, and no weights need to exist. `subfolder` is that of one part of a
    Stable Diffusion folder. Every method raises UserError where a file is missing, broken or of another kind.
    """

    id: str
    what: str
    offline: bool = False
    random: bool = False
    subfolder: str = ""

    def part(self, subfolder: str) -> PretrainedSource:
        """Return the source of one subfolder, such as "unet"."""
        return replace(self, subfolder=subfolder)

    @property
    def where(self) -> str:
        """The id with its subfolder, for messages."""
        return f"{self.id}/{self.subfolder}" if self.subfolder else self.id

    @cached_property
    def folder(self) -> Path | None:
        """The local folder; None for a Hub id."""
        path = Path(self.id).expanduser()
        if self.id and path.is_dir():
            return path
        if path.is_file():
            raise UserError(f"{self.what}: {self.id} is a file: give the folder that contains it, or a Hub id")
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
        if self.folder is None:
            known = shipped(ARCHITECTURES) / OTHER_NAMES.get(self.id, self.id) / self.subfolder / name
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
                shards = sorted(set(read_json(index, self.what)["weight_map"].values()))
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
        return read_json(self.config_path, self.what)

    @cached_property
    def config(self) -> PreTrainedConfig:
        """The config of a transformers model of any kind."""
        from modules.pretrained.loading import load_config

        return load_config(self)

    def config_for(self, model_class: type) -> PreTrainedConfig:
        """Return the config of a transformers model that `model_class` can load."""
        from modules.pretrained.loading import config_of

        self.settings_for(model_class)
        return config_of(model_class, self)

    def settings_for(self, model_class: type) -> dict[str, Any]:
        """Return the contents of the nearest config.json, of a model that `model_class` can load."""
        from modules.pretrained.loading import check_kind

        check_kind(model_class, self.settings, self)
        return self.settings

    @cached_property
    def schedule(self) -> dict[str, Any]:
        """The settings of a diffusers scheduler, for `from_config` of any scheduler class."""
        settings = read_json(self.find_config(SCHEDULER_CONFIG), self.what)
        if "_class_name" not in settings:
            raise UserError(f"{self.what}: {self.where} contains no scheduler of diffusers: give a folder that has one")
        return settings

    @cached_property
    def tokenizer(self) -> PreTrainedTokenizerBase:
        """The tokenizer of the source."""
        from modules.pretrained.loading import load_tokenizer

        return load_tokenizer(self)

    def load(self, model_class: type, **kwargs: Any) -> nn.Module:
        """Return a model in eval mode, in float32 unless `dtype` is given; `kwargs` go to the library.

        `model_class` is one of transformers, an Auto class included, or of diffusers. With `random`, the model may be
        built on the meta device. `add_pooling_layer` is passed only to the models that have it.
        """
        from modules.pretrained.loading import load_model

        return load_model(model_class, self, **kwargs)


def read_json(path: Path, what: str) -> dict[str, Any]:
    """Return the object in a JSON file. Raises UserError where there is none."""
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise UserError(f"{what}: {path} is not readable JSON ({error}): copy or fetch it anew") from error
    if not isinstance(values, dict):
        raise UserError(f"{what}: {path} contains no JSON object: copy or fetch it anew")
    return values
