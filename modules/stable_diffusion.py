"""The parts of a folder or Hub repository in Stable Diffusion's layout: unet/, vae/, text_encoder/, tokenizer/, scheduler/."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from accelerate import cpu_offload_with_hook
from diffusers import AutoencoderKL, DDIMScheduler, ModelMixin, UNet2DConditionModel
from peft import LoraConfig, get_peft_model_state_dict
from safetensors import SafetensorError
from safetensors.torch import save_file
from torch import nn
from transformers import CLIPTextModel, CLIPTokenizer, PreTrainedTokenizerBase

from modules.story import UserError

ATTENTION_PROJECTIONS = ("to_q", "to_k", "to_v", "to_out.0")
LORA_FILES = {"unet": "pytorch_lora_weights.safetensors", "base_model.model": "adapter_model.safetensors"}  # By their keys' prefix.
_BROKEN = (AttributeError, LookupError, OSError, RuntimeError, SafetensorError, TypeError, ValueError)


def load_unet(source: str, what: str, *, offline: bool = False, random: bool = False) -> UNet2DConditionModel:
    """The UNet of Stable Diffusion 1.x or 2.x.

    Raises:
        UserError: there is none, or it needs more than latents, a timestep and a text (Stable Diffusion XL, inpainting, ...).
    """
    unet = _load_pretrained(UNet2DConditionModel, source, what, offline=offline, random=random, subfolder="unet")
    settings = unet.config
    needs = [f"{name} {settings[name]}" for name in ("addition_embed_type", "class_embed_type", "encoder_hid_dim_type") if settings[name]]
    if settings.in_channels != settings.out_channels:
        needs.append(f"{settings.in_channels} channels in, {settings.out_channels} out")
    if needs:
        raise UserError(f"{what}: the UNet in {source} is another model's ({needs[0]}): give a text-to-image Stable Diffusion 1.x or 2.x")
    return unet


def load_vae(source: str, what: str, *, offline: bool = False, random: bool = False) -> AutoencoderKL:
    return _load_pretrained(AutoencoderKL, source, what, offline=offline, random=random, subfolder="vae")


def load_text_encoder(source: str, what: str, *, offline: bool = False, random: bool = False) -> CLIPTextModel:
    return _load_pretrained(CLIPTextModel, source, what, offline=offline, random=random, subfolder="text_encoder")


def load_text_tokenizer(source: str, what: str, *, offline: bool = False) -> PreTrainedTokenizerBase:
    return _load_tokenizer(source, what, offline=offline, subfolder="tokenizer")


def load_schedule(source: str, what: str, *, offline: bool = False) -> dict[str, Any]:
    """The settings of the folder's scheduler, for `from_config` of any diffusers scheduler.

    Raises:
        UserError: there are none, or the UNet predicts neither noise nor velocity.
    """
    schedule = _load_config(DDIMScheduler, source, what, offline=offline, subfolder="scheduler")
    if (predicted := schedule.get("prediction_type", "epsilon")) not in ("epsilon", "v_prediction"):
        raise UserError(f"{what}: the UNet in {source} predicts {predicted!r}: give one that predicts noise (epsilon) or v_prediction")
    return schedule


def add_lora(unet: UNet2DConditionModel, rank: int) -> None:
    """Low-rank updates of every attention's projections (LoRA, arXiv 2106.09685), zero at the start; the scale is 1."""
    targets = list(ATTENTION_PROJECTIONS)
    unet.add_adapter(LoraConfig(r=rank, lora_alpha=rank, init_lora_weights="gaussian", target_modules=targets))


def save_lora(unet: UNet2DConditionModel, folder: Path) -> None:
    """Write the LoRA alone, twice: for diffusers' `load_lora_weights` (pytorch_lora_weights.safetensors) and for peft (adapter_*)."""
    weights = {name: tensor.contiguous() for name, tensor in get_peft_model_state_dict(unet).items()}
    unet.peft_config["default"].save_pretrained(str(folder))
    for prefix, name in LORA_FILES.items():
        save_file({f"{prefix}.{key}": tensor for key, tensor in weights.items()}, folder / name, metadata={"format": "pt"})


def offload(parts: Sequence[nn.Module], device: torch.device) -> None:
    """Keep parts that are called in turn in main memory: each moves to the device for its calls, and back when the next one's begin."""
    hook = None
    for part in parts:
        _, hook = cpu_offload_with_hook(part, device, hook)


def _load_pretrained(
    auto_class: type, source: str, what: str, *, offline: bool = False, random: bool = False, subfolder: str = "", **kwargs: Any
) -> nn.Module:  # fmt: skip
    """A transformers or diffusers model, in eval mode; with `random`, its architecture with random weights, also on the meta device.

    Raises:
        UserError: there is no such model, it is of another kind, or its weights are absent, broken or another model's.
    """
    settings = _load_config(auto_class, source, what, offline=offline, subfolder=subfolder)
    is_diffusers, where = issubclass(auto_class, ModelMixin), f"{source}/{subfolder}"
    found = settings.get("_class_name" if is_diffusers else "model_type")
    wanted = auto_class.__name__ if is_diffusers else auto_class.config_class.model_type
    if found != wanted:
        raise UserError(f"{what}: {where} holds {found or 'nothing known'}, wanted is {wanted}: give a folder or id of that kind")
    if random:
        config = settings if is_diffusers else auto_class.config_class.from_dict(settings)
        return (auto_class.from_config(config) if is_diffusers else auto_class(config)).eval()
    shared = {"subfolder": subfolder, "use_safetensors": True, "local_files_only": offline, "output_loading_info": True}
    try:
        model, info = auto_class.from_pretrained(source, **shared, **kwargs)
    except _BROKEN as error:
        reason = " ".join(str(error).split())[:200]
        raise UserError(f"{what}: the model in {where} cannot be loaded ({reason}): copy or fetch it anew") from error
    if info["missing_keys"]:
        raise UserError(f"{what}: the weights in {where} lack {min(info['missing_keys'])}: they are another model's, or a part")
    return model.eval()


def _load_config(auto_class: type, source: str, what: str, *, offline: bool = False, subfolder: str = "") -> dict[str, Any]:
    """The config of a part as a dict. Raises UserError where there is none."""
    try:
        if hasattr(auto_class, "load_config"):
            return auto_class.load_config(source, subfolder=subfolder, local_files_only=offline)
        return auto_class.config_class.get_config_dict(source, subfolder=subfolder, local_files_only=offline)[0]
    except _BROKEN as error:
        reason = " ".join(str(error).split())[:200]
        raise UserError(
            f"{what}: there is no {subfolder}/ of Stable Diffusion's layout in {source} ({reason}): give a whole folder or a Hub id"
        ) from error


def _load_tokenizer(source: str, what: str, *, offline: bool = False, subfolder: str = "") -> PreTrainedTokenizerBase:
    """The tokenizer of a folder or Hub id. Raises UserError where there is none that can be read."""
    try:
        tokenizer = CLIPTokenizer.from_pretrained(source, subfolder=subfolder, local_files_only=offline)
        if len(tokenizer) < 256:  # Every byte is a token; where there is no file the library makes up an empty vocabulary.
            raise OSError("it has no vocabulary")
        return tokenizer
    except _BROKEN as error:
        reason = " ".join(str(error).split())[:200]
        raise UserError(f"{what}: the tokenizer in {source} cannot be read ({reason}): copy or fetch it anew") from error
