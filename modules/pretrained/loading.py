"""Loading of pretrained parts by the libraries' own `from_pretrained`, from safetensors only."""

from __future__ import annotations

import inspect
import logging
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import torch
from huggingface_hub.errors import StrictDataclassError
from safetensors import SafetensorError
from torch import nn
from transformers import AutoConfig, PreTrainedConfig
from transformers.models.auto.configuration_auto import CONFIG_MAPPING
from transformers.models.auto.modeling_auto import (
    MODEL_FOR_MASKED_LM_MAPPING_NAMES,
    AutoModelForCausalLM,
    AutoModelForTextEncoding,
)
from transformers.utils import logging as transformers_logging

from modules.common.errors import UserError
from modules.common.versions import version_problem
from modules.pretrained.files import CONFIG, SourceFiles, read_object

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

TOKENIZER = "tokenizer.json"

# A tokenizer older than tokenizer.json is made from one of these.
VOCABULARIES = ("vocab.txt", "vocab.json", "tokenizer.model", "spiece.model", "sentencepiece.bpe.model")
TOKENIZER_EXTRAS = ("merges.txt", "tokenizer_config.json", "special_tokens_map.json", "added_tokens.json", CONFIG)
_AUTO_KINDS = {
    AutoModelForCausalLM: "a causal language model (gpt2, llama, ...)",
    AutoModelForTextEncoding: "a text encoder (bert, ...)",
}
_BROKEN = (  # The errors that the libraries raise on a broken file.
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


def load_model(model_class: Any, source: SourceFiles, dtype: torch.dtype = torch.float32, **kwargs: Any) -> nn.Module:
    """Return a transformers or diffusers model in eval mode; see `source.PretrainedSource.load`.

    Raises:
        UserError: There is no such model, it is of another kind, or its weights are missing, broken or another model's.
    """
    if not source.random:  # The config beside the weights, not one of the assets.
        path = source.find(CONFIG)
        settings = source.settings if path == source.config_path else read_object(path, source.what)
    else:
        path, settings = source.config_path, source.settings
    check_kind(model_class, settings, source)
    if not source.random:
        source.find_weights("diffusion_pytorch_model" if _is_diffusers(model_class) else "model")
    with one_line_errors(f"{source.what}: the model in {source.where}"):
        if source.random:
            return _build(model_class, source, dtype, kwargs).eval()
        model, info = _read(model_class, source, dtype, kwargs)
    missing = sorted(info["missing_keys"])
    if missing:
        others = f" and {len(missing) - 1} more" if len(missing) > 1 else ""
        raise UserError(
            f"{source.what}: the weights in {source.where} lack {missing[0]}{others}:"
            " they belong to another model or are incomplete; give a complete one"
        )
    return model.eval()


def load_config(source: SourceFiles) -> PreTrainedConfig:
    """Return the config of a transformers model of any kind. Raises UserError where there is none."""
    check_kind(AutoConfig, source.settings, source)
    with one_line_errors(f"{source.what}: the config in {source.id}"):
        config = CONFIG_MAPPING[source.settings["model_type"]].from_dict(dict(source.settings))
        config.name_or_path = str(source.config_path.parent)
        return config


def load_tokenizer(source: SourceFiles) -> PreTrainedTokenizerBase:
    """Return the tokenizer of a source. Raises UserError where there is none, or it cannot be read."""
    found = source.find_optional(TOKENIZER)
    for name in VOCABULARIES:
        found = found or source.find_optional(name)
    found = found or source.find(TOKENIZER)  # Raises with the reason.
    for name in TOKENIZER_EXTRAS:
        source.find_optional(name)
    with one_line_errors(f"{source.what}: the tokenizer in {source.id}"):
        from transformers import AutoTokenizer

        return AutoTokenizer.from_pretrained(found.parent, local_files_only=True, trust_remote_code=False)


def check_kind(model_class: Any, settings: dict[str, Any], source: SourceFiles) -> None:
    """Raise UserError where a config belongs to a model that `model_class` cannot load.

    The libraries would build a model that is partly random.
    """
    found = str(settings.get("_class_name") or settings.get("model_type") or "")
    if _is_diffusers(model_class):
        wanted, fits = model_class.__name__, found == model_class.__name__
    elif model_class is AutoConfig:
        wanted, fits = "a model of transformers", found in CONFIG_MAPPING
    elif _is_auto(model_class):
        # The two-way attention of a masked language model would see the words that it predicts; the library only warns.
        two_way = (
            model_class is AutoModelForCausalLM
            and found in MODEL_FOR_MASKED_LM_MAPPING_NAMES
            and not settings.get("is_decoder")
        )
        wanted = _AUTO_KINDS.get(model_class, f"a model for {model_class.__name__}")
        fits = found in CONFIG_MAPPING and CONFIG_MAPPING[found] in model_class._model_mapping and not two_way
    else:
        wanted = model_class.config_class.model_type
        section = settings.get(model_class.config_class.base_config_key)  # A CLIP config contains its vision model's.
        fits = found == wanted or (isinstance(section, dict) and section.get("model_type", wanted) == wanted)
    if not fits:
        raise UserError(
            f"{source.what}: {source.where} contains {found or 'a model of no known kind'}, expected {wanted}:"
            " give a folder or id of that kind"
        )


def _is_diffusers(model_class: type) -> bool:
    return any(base.__module__.startswith("diffusers.") for base in model_class.__mro__)


def _is_auto(model_class: Any) -> bool:
    return model_class is AutoConfig or hasattr(model_class, "_model_mapping")


def config_of(model_class: Any, source: SourceFiles) -> PreTrainedConfig:
    """Return the config that `model_class` is built from; of a CLIP's vision model, a part of the source's."""
    config = load_config(source)
    if _is_auto(model_class) or isinstance(config, model_class.config_class):
        return config
    return model_class.config_class.from_pretrained(source.config_path.parent, local_files_only=True)


def _options(model_class: Any, config: PreTrainedConfig, kwargs: dict[str, Any]) -> dict[str, Any]:
    """Return `kwargs`, without `add_pooling_layer` where the model has no such argument."""
    if "add_pooling_layer" not in kwargs:
        return kwargs
    if _is_auto(model_class):
        model_class = model_class._model_mapping[type(config)]
    known = inspect.signature(model_class.__init__).parameters
    return {name: value for name, value in kwargs.items() if name != "add_pooling_layer" or name in known}


def _build(model_class: Any, source: SourceFiles, dtype: torch.dtype, kwargs: dict[str, Any]) -> nn.Module:
    if _is_diffusers(model_class):
        return model_class.from_config(source.settings, **kwargs).to(dtype)
    config = config_of(model_class, source)
    build = model_class.from_config if _is_auto(model_class) else model_class._from_config
    return build(config, dtype=dtype, **_options(model_class, config, kwargs))


def _read(
    model_class: Any, source: SourceFiles, dtype: torch.dtype, kwargs: dict[str, Any]
) -> tuple[nn.Module, dict[str, Any]]:
    folder = source.find(CONFIG).parent
    shared: dict[str, Any] = {"use_safetensors": True, "local_files_only": True, "output_loading_info": True}
    if _is_diffusers(model_class):
        return model_class.from_pretrained(folder, torch_dtype=dtype, **shared, **kwargs)
    if folder == source.config_path.parent:
        shared["config"] = config = config_of(model_class, source)
    else:
        config = AutoConfig.from_pretrained(folder, local_files_only=True)
    options = _options(model_class, config, kwargs)
    return model_class.from_pretrained(folder, dtype=dtype, trust_remote_code=False, **shared, **options)


@contextmanager
def one_line_errors(thing: str) -> Iterator[None]:
    """Report errors of the libraries in one line; silence their progress bars and their tables of unused weights."""
    loggers = [logging.getLogger(name) for name in ("transformers", "diffusers")]
    levels, showed_bars = [logger.level for logger in loggers], transformers_logging.is_progress_bar_enabled()
    for logger in loggers:
        logger.setLevel(logging.ERROR)
    transformers_logging.disable_progress_bar()
    try:
        yield
    except _BROKEN as error:
        reason = " ".join(str(error).split())[:200]
        raise UserError(
            version_problem(error) or f"{thing} cannot be read ({reason}): copy or fetch it anew"
        ) from error
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)
        if showed_bars:
            transformers_logging.enable_progress_bar()
