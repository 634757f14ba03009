"""The parts of a folder or Hub repository in Stable Diffusion's layout: unet/, vae/, text_encoder/, tokenizer/,
scheduler/.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import torch
from torch import nn

from modules.common.errors import UserError
from modules.common.tensor_files import save_tensors
from modules.image_decoder.config import ImageDecoderConfig
from modules.pretrained.libraries import AutoencoderKL, UNet2DConditionModel
from modules.pretrained.lora import add_lora
from modules.pretrained.source import PretrainedSource

if TYPE_CHECKING:
    from transformers import CLIPTextModel

ATTENTION_PROJECTIONS = ("to_q", "to_k", "to_v", "to_out.0")
LORA_FILES = {  # By the prefix of their keys: for diffusers, for peft.
    "unet": "pytorch_lora_weights.safetensors",
    "base_model.model": "adapter_model.safetensors",
}


def unet_settings(source: PretrainedSource) -> dict[str, Any]:
    """Return the config of the UNet of Stable Diffusion 1.x or 2.x.

    Raises:
        UserError: There is none, or it needs more than latents, a timestep and a text (Stable Diffusion XL, inpainting,
        ...).
    """
    settings = source.part("unet").settings_for(UNet2DConditionModel)
    needs = [
        f"{name} {settings[name]}"
        for name in ("addition_embed_type", "class_embed_type", "encoder_hid_dim_type")
        if settings.get(name)
    ]
    channels_in, channels_out = settings.get("in_channels", 4), settings.get("out_channels", 4)
    if channels_in != channels_out:
        needs.append(f"{channels_in} channels in, {channels_out} out")
    if needs:
        raise UserError(
            f"{source.what}: the UNet in {source.id} is another model's ({needs[0]}):"
            " give a text-to-image Stable Diffusion 1.x or 2.x"
        )
    return settings


def check_unet(source: PretrainedSource, config: ImageDecoderConfig, latent_channels: int) -> dict[str, Any]:
    """Return the source's noise schedule. Raises UserError where the source does not fit; reads no weights."""
    settings = unet_settings(source)
    channels = settings.get("in_channels", 4)
    if channels != latent_channels:
        raise UserError(
            f"{source.what}: the UNet in {source.id} draws latents of {channels} channels, the autoencoder's have"
            f" {latent_channels}: take both from one folder"
        )
    schedule = load_schedule(source)
    timesteps = schedule.get("num_train_timesteps", 1000)
    if timesteps != config.num_train_timesteps:
        raise UserError(
            f"image_decoder.num_train_timesteps is {config.num_train_timesteps}, in {source.id} it is {timesteps}:"
            " set that"
        )
    if config.condition == "codes_and_text":
        width, expected = text_width(source), settings.get("cross_attention_dim", 1280)
        if width != expected:
            raise UserError(
                f"{source.what}: the text encoder in {source.id} is {width} wide, its UNet reads {expected}:"
                " give a complete folder"
            )
    return schedule


def load_unet(source: PretrainedSource) -> UNet2DConditionModel:
    """Return the UNet. Raises UserError as `unet_settings` does, and where its weights are missing or broken."""
    unet_settings(source)
    return cast(UNet2DConditionModel, source.part("unet").load(UNet2DConditionModel))


def load_vae(source: PretrainedSource) -> AutoencoderKL:
    """Return the autoencoder. Raises UserError where there is none."""
    return cast(AutoencoderKL, source.part("vae").load(AutoencoderKL))


def text_width(source: PretrainedSource) -> int:
    """Return the width of the text encoder's states. Raises UserError where there is no text encoder."""
    from transformers import CLIPTextModel

    return source.part("text_encoder").config_for(CLIPTextModel).hidden_size


def load_text_encoder(source: PretrainedSource) -> CLIPTextModel:
    """Return the text encoder. Raises UserError where there is none."""
    from transformers import CLIPTextModel

    return cast("CLIPTextModel", source.part("text_encoder").load(CLIPTextModel))


def load_schedule(source: PretrainedSource) -> dict[str, Any]:
    """Return the settings of the folder's scheduler, for `from_config` of any diffusers scheduler.

    Raises:
        UserError: There are none, or the UNet predicts neither noise nor velocity.
    """
    schedule = source.part("scheduler").schedule
    predicted = schedule.get("prediction_type", "epsilon")
    if predicted not in ("epsilon", "v_prediction"):
        raise UserError(
            f"{source.what}: the UNet in {source.id} predicts {predicted!r}:"
            " give one that predicts noise (epsilon) or v_prediction"
        )
    return schedule


def add_attention_lora(unet: UNet2DConditionModel, rank: int) -> None:
    """Freeze the UNet and add low-rank updates to every attention's projections, zero at the start, of scale 1."""
    add_lora(unet, rank, lora_alpha=rank, init_lora_weights="gaussian", target_modules=list(ATTENTION_PROJECTIONS))


def save_lora(unet: UNet2DConditionModel, folder: Path) -> None:
    """Write the LoRA alone, twice: for diffusers' `load_lora_weights` (pytorch_lora_weights.safetensors) and for peft
    (adapter_*).
    """
    from peft import get_peft_model_state_dict

    weights = {name: tensor.contiguous() for name, tensor in get_peft_model_state_dict(unet).items()}
    unet.peft_config["default"].save_pretrained(str(folder))
    for prefix, name in LORA_FILES.items():
        prefixed = {f"{prefix}.{key}": tensor for key, tensor in weights.items()}
        save_tensors(prefixed, folder / name, {"format": "pt"})


def offload(parts: Sequence[nn.Module], device: torch.device) -> None:
    """Keep parts that are called in turn in main memory: each moves to the device for its calls, and back when the next
    part is called.
    """
    from accelerate import cpu_offload_with_hook

    hook = None
    for part in parts:
        _, hook = cpu_offload_with_hook(part, device, hook)
