"""The source of a pretrained part: its config, tokenizer and weights, from a local folder or a Hub id.

Imports neither torch nor a library of models until something is read.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cached_property
from typing import TYPE_CHECKING, Any

from modules.pretrained.files import SourceFiles

if TYPE_CHECKING:
    from torch import nn
    from transformers import PreTrainedConfig, PreTrainedTokenizerBase


@dataclass(frozen=True)
class PretrainedSource(SourceFiles):
    """A folder or Hub id that a pretrained part is read from; config and tokenizer are read once.

    With `random` the architecture gets random weights. Every method raises UserError where a file is missing, broken or
    of another kind.
    """

    def part(self, subfolder: str) -> PretrainedSource:
        """Return the source of one subfolder, such as "unet"."""
        return replace(self, subfolder=subfolder)

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
