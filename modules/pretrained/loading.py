"""Pretrained parts: a Hub id such as "gpt2-xl" or a local folder, read by the libraries' own `from_pretrained`, from
safetensors alone.
"""

from __future__ import annotations

import inspect
import logging
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from huggingface_hub.errors import StrictDataclassError
from safetensors import SafetensorError
from torch import nn
from transformers import (
    CONFIG_MAPPING,
    AutoConfig,
    AutoModelForCausalLM,
    AutoModelForTextEncoding,
    AutoTokenizer,
    PreTrainedConfig,
    PreTrainedTokenizerBase,
)
from transformers.models.auto.modeling_auto import MODEL_FOR_MASKED_LM_MAPPING_NAMES
from transformers.utils import logging as transformers_logging

from modules.common.errors import UserError
from modules.pretrained.hub import CONFIG, find_config, find_file, find_weights, read_json

TOKENIZER = "tokenizer.json"


# A tokenizer older than tokenizer.json is made from one of these.
VOCABULARIES = ("vocab.txt", "vocab.json", "tokenizer.model", "spiece.model", "sentencepiece.bpe.model")
TOKENIZER_EXTRAS = ("merges.txt", "tokenizer_config.json", "special_tokens_map.json", "added_tokens.json", CONFIG)
_AUTO_KINDS = {
    AutoModelForCausalLM: "a causal language model (gpt2, llama, ...)",
    AutoModelForTextEncoding: "a text encoder (bert, ...)",
}
_BROKEN = (  # What the libraries raise over a broken file.
    ArithmeticError,
    AssertionError,
    AttributeError,
    ImportError,
    LookupError,
    OSError,
    RuntimeError,
    SafetensorError,
    StrictDataclassError,
    TypeError,
    ValueError,
)


def load_pretrained(
    auto_class: type,
    source: str,
    what: str,
    *,
    offline: bool = False,
    random: bool = False,
    subfolder: str = "",
    dtype: torch.dtype = torch.float32,
    **kwargs: Any,
) -> nn.Module:
    """A transformers or diffusers model, in eval mode; with `random`, its architecture with random weights, also on the
    meta device.

    `kwargs` go to the library; `add_pooling_layer` only to the models that know it.

    Raises:
        UserError: there is no such model, it is of another kind, or its weights are absent, broken or another model's;
        calls it `what`.
    """
    where = f"{source}/{subfolder}" if subfolder else source
    if random:
        path = find_config(source, what, offline=offline, subfolder=subfolder)
    else:
        path = find_file(source, f"{subfolder}/{CONFIG}" if subfolder else CONFIG, what, offline=offline)
    _check_kind(auto_class, read_json(path, what), where, what)
    if not random:
        stem = "diffusion_pytorch_model" if _is_diffusers(auto_class) else "model"
        find_weights(source, stem, what, offline=offline, subfolder=subfolder)
    with _reading(f"{what}: the model in {where}"):
        if random:
            return _build(auto_class, path.parent, dtype, kwargs).eval()
        model, info = _read(auto_class, path.parent, dtype, kwargs)
    missing = sorted(info["missing_keys"])
    if missing:
        more = f" and {len(missing) - 1} more" if len(missing) > 1 else ""
        raise UserError(
            f"{what}: the weights in {where} lack {missing[0]}{more}: they are another model's, or a part; give a whole one"
        )
    return model.eval()


def load_config(
    auto_class: type, source: str, what: str, *, offline: bool = False, subfolder: str = ""
) -> PreTrainedConfig | dict:
    """The config of what `load_pretrained` would load; for a diffusers class, schedulers included, a dict for its
    `from_config`.

    Raises UserError as `load_pretrained` does.
    """
    path = find_config(
        source, what, offline=offline, subfolder=subfolder, name=getattr(auto_class, "config_name", CONFIG)
    )
    settings = read_json(path, what)
    _check_kind(auto_class, settings, f"{source}/{subfolder}" if subfolder else source, what)
    if _is_diffusers(auto_class):
        return settings
    with _reading(f"{what}: the config in {source}"):
        return _config_class(auto_class).from_pretrained(path.parent, local_files_only=True)


def load_tokenizer(source: str, what: str, *, offline: bool = False, subfolder: str = "") -> PreTrainedTokenizerBase:
    """The tokenizer of a Hub id or folder. Raises UserError where there is none that can be read."""
    prefix = f"{subfolder}/" if subfolder else ""

    def find(name: str, required: bool = False) -> Path | None:
        return find_file(source, prefix + name, what, offline=offline, required=required)

    found = (
        find(TOKENIZER)
        or next((path for name in VOCABULARIES if (path := find(name))), None)
        or find(TOKENIZER, required=True)
    )
    for name in TOKENIZER_EXTRAS:
        find(name)
    with _reading(f"{what}: the tokenizer in {source}"):
        return AutoTokenizer.from_pretrained(found.parent, local_files_only=True, trust_remote_code=False)


def _is_diffusers(cls: type) -> bool:
    return cls.__module__.startswith("diffusers.")


def _is_auto(cls: type) -> bool:
    return cls is AutoConfig or hasattr(cls, "_model_mapping")


def _config_class(cls: type) -> type:
    return AutoConfig if _is_auto(cls) else cls.config_class


def _check_kind(cls: type, settings: dict[str, Any], where: str, what: str) -> None:
    """Raise UserError where a config is of a model that `cls` is not made for; the libraries would build one that is
    half random.
    """
    found = settings.get("_class_name") or settings.get("model_type")
    if _is_diffusers(cls):
        wanted, fits = cls.__name__, found == cls.__name__ or (cls.has_compatibles and "_class_name" in settings)
    elif cls is AutoConfig:
        wanted, fits = "a model of transformers", found in CONFIG_MAPPING
    elif _is_auto(cls):
        # Its two-way attention would see the words that it is to guess; the library only warns.
        two_way = (
            cls is AutoModelForCausalLM
            and found in MODEL_FOR_MASKED_LM_MAPPING_NAMES
            and not settings.get("is_decoder")
        )
        wanted = _AUTO_KINDS.get(cls, f"a model for {cls.__name__}")
        fits = found in CONFIG_MAPPING and CONFIG_MAPPING[found] in cls._model_mapping and not two_way
    else:
        wanted = cls.config_class.model_type
        section = settings.get(cls.config_class.base_config_key)  # CLIP's vision model lies in a CLIP.
        fits = found == wanted or (isinstance(section, dict) and section.get("model_type", wanted) == wanted)
    if not fits:
        raise UserError(
            f"{what}: {where} holds {found or 'a model of no known kind'}, wanted is {wanted}: give a folder or id of that kind"
        )


def _options(cls: type, folder: Path, kwargs: dict[str, Any]) -> dict[str, Any]:
    """`kwargs` without `add_pooling_layer` where the model that will be built has no such argument."""
    if "add_pooling_layer" not in kwargs:
        return kwargs
    if _is_auto(cls):
        cls = cls._model_mapping[type(AutoConfig.from_pretrained(folder, local_files_only=True))]
    known = inspect.signature(cls.__init__).parameters
    return {name: value for name, value in kwargs.items() if name != "add_pooling_layer" or name in known}


def _build(cls: type, folder: Path, dtype: torch.dtype, kwargs: dict[str, Any]) -> nn.Module:
    if _is_diffusers(cls):
        return cls.from_config(cls.load_config(folder), **kwargs).to(dtype)
    config = _config_class(cls).from_pretrained(folder, local_files_only=True)
    build = cls.from_config if _is_auto(cls) else cls._from_config
    return build(config, dtype=dtype, **_options(cls, folder, kwargs))


def _read(cls: type, folder: Path, dtype: torch.dtype, kwargs: dict[str, Any]) -> tuple[nn.Module, dict[str, Any]]:
    shared = {"use_safetensors": True, "local_files_only": True, "output_loading_info": True}
    if _is_diffusers(cls):
        return cls.from_pretrained(folder, torch_dtype=dtype, **shared, **kwargs)
    return cls.from_pretrained(folder, dtype=dtype, trust_remote_code=False, **shared, **_options(cls, folder, kwargs))


@contextmanager
def _reading(thing: str) -> Iterator[None]:
    """Tell what the libraries raise in one line, and keep their bars and their tables of left-over weights to
    themselves.
    """
    loggers = [logging.getLogger(name) for name in ("transformers", "diffusers")]
    levels, had_bar = [logger.level for logger in loggers], transformers_logging.is_progress_bar_enabled()
    for logger in loggers:
        logger.setLevel(logging.ERROR)
    transformers_logging.disable_progress_bar()
    try:
        yield
    except _BROKEN as error:
        reason = " ".join(str(error).split())[:200]
        raise UserError(f"{thing} cannot be read ({reason}): copy or fetch it anew") from error
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)
        if had_bar:
            transformers_logging.enable_progress_bar()
