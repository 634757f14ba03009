"""The parts of a folder or Hub repository in Stable Diffusion's layout: unet/, vae/, text_encoder/, tokenizer/,
scheduler/.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from accelerate import cpu_offload_with_hook
from diffusers import AutoencoderKL, DDIMScheduler, UNet2DConditionModel
from peft import LoraConfig, get_peft_model_state_dict
from safetensors.torch import save_file
from torch import nn
from transformers import CLIPTextModel, PreTrainedTokenizerBase

from modules.common.errors import UserError
from modules.pretrained.loading import load_config, load_pretrained, load_tokenizer

ATTENTION_PROJECTIONS = ("to_q", "to_k", "to_v", "to_out.0")
LORA_FILES = {
    "unet": "pytorch_lora_weights.safetensors",
    "base_model.model": "adapter_model.safetensors",
}  # By their keys' prefix.


def load_unet(source: str, what: str, *, offline: bool = False, random: bool = False) -> UNet2DConditionModel:
    """The UNet of Stable Diffusion 1.x or 2.x.

    Raises:
        UserError: there is none, or it needs more than latents, a timestep and a text (Stable Diffusion XL, inpainting,
        ...).
    """
    unet = load_pretrained(UNet2DConditionModel, source, what, offline=offline, random=random, subfolder="unet")
    settings = unet.config
    needs = [
        f"{name} {settings[name]}"
        for name in ("addition_embed_type", "class_embed_type", "encoder_hid_dim_type")
        if settings[name]
    ]
    if settings.in_channels != settings.out_channels:
        needs.append(f"{settings.in_channels} channels in, {settings.out_channels} out")
    if needs:
        raise UserError(
            f"{what}: the UNet in {source} is another model's ({needs[0]}): give a text-to-image Stable Diffusion 1.x or 2.x"
        )
    return unet


def load_vae(source: str, what: str, *, offline: bool = False, random: bool = False) -> AutoencoderKL:
    return load_pretrained(AutoencoderKL, source, what, offline=offline, random=random, subfolder="vae")


def load_text_encoder(source: str, what: str, *, offline: bool = False, random: bool = False) -> CLIPTextModel:
    return load_pretrained(CLIPTextModel, source, what, offline=offline, random=random, subfolder="text_encoder")


def load_text_tokenizer(source: str, what: str, *, offline: bool = False) -> PreTrainedTokenizerBase:
    return load_tokenizer(source, what, offline=offline, subfolder="tokenizer")


def load_schedule(source: str, what: str, *, offline: bool = False) -> dict[str, Any]:
    """The settings of the folder's scheduler, for `from_config` of any diffusers scheduler.

    Raises:
        UserError: there are none, or the UNet predicts neither noise nor velocity.
    """
    schedule = load_config(DDIMScheduler, source, what, offline=offline, subfolder="scheduler")
    if (predicted := schedule.get("prediction_type", "epsilon")) not in ("epsilon", "v_prediction"):
        raise UserError(
            f"{what}: the UNet in {source} predicts {predicted!r}: give one that predicts noise (epsilon) or v_prediction"
        )
    return schedule


def add_lora(unet: UNet2DConditionModel, rank: int) -> None:
    """Low-rank updates of every attention's projections (LoRA, arXiv 2106.09685), zero at the start; the scale is 1."""
    targets = list(ATTENTION_PROJECTIONS)
    unet.add_adapter(LoraConfig(r=rank, lora_alpha=rank, init_lora_weights="gaussian", target_modules=targets))


def save_lora(unet: UNet2DConditionModel, folder: Path) -> None:
    """Write the LoRA alone, twice: for diffusers' `load_lora_weights` (pytorch_lora_weights.safetensors) and for peft
    (adapter_*).
    """
    weights = {name: tensor.contiguous() for name, tensor in get_peft_model_state_dict(unet).items()}
    unet.peft_config["default"].save_pretrained(str(folder))
    for prefix, name in LORA_FILES.items():
        save_file(
            {f"{prefix}.{key}": tensor for key, tensor in weights.items()}, folder / name, metadata={"format": "pt"}
        )


def offload(parts: Sequence[nn.Module], device: torch.device) -> None:
    """Keep parts that are called in turn in main memory: each moves to the device for its calls, and back when the next
    one's begin.
    """
    hook = None
    for part in parts:
        _, hook = cpu_offload_with_hook(part, device, hook)
