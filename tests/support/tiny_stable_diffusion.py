"""A folder in Stable Diffusion's layout: the real classes at toy size, with random weights."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from diffusers import AutoencoderKL, PNDMScheduler, StableDiffusionPipeline, UNet2DConditionModel
from safetensors.torch import load_file, save_file
from tokenizers.pre_tokenizers import ByteLevel
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTokenizer

UNET = {
    "sample_size": 8,
    "in_channels": 4,
    "out_channels": 4,
    "block_out_channels": (8, 16),
    "layers_per_block": 1,
    "norm_num_groups": 4,
    "attention_head_dim": 2,
    "cross_attention_dim": 16,
    "down_block_types": ("CrossAttnDownBlock2D", "DownBlock2D"),
    "up_block_types": ("UpBlock2D", "CrossAttnUpBlock2D"),
}
VAE = {
    "sample_size": 16,
    "latent_channels": 4,
    "block_out_channels": (8, 8),
    "layers_per_block": 1,
    "norm_num_groups": 4,
    "down_block_types": ("DownEncoderBlock2D",) * 2,
    "up_block_types": ("UpDecoderBlock2D",) * 2,
}
TEXT_ENCODER = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2}
SCHEDULER = {  # As in Stable Diffusion 1.5.
    "_class_name": "PNDMScheduler",
    "beta_end": 0.012,
    "beta_schedule": "scaled_linear",
    "beta_start": 0.00085,
    "clip_sample": False,
    "num_train_timesteps": 1000,
    "set_alpha_to_one": False,
    "skip_prk_steps": True,
    "steps_offset": 1,
    "trained_betas": None,
}
MERGES = ("c a", "ca t</w>", "h a", "ha t</w>")


def write_tokenizer(folder: Path) -> int:
    """CLIP's files, vocab.json and merges.txt, for a vocabulary of bytes and four merges; return its size."""
    letters = sorted(ByteLevel.alphabet())
    words = [*letters, *(f"{letter}</w>" for letter in letters), *(merge.replace(" ", "") for merge in MERGES)]
    vocabulary = {word: index for index, word in enumerate([*words, "<|startoftext|>", "<|endoftext|>"])}
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "vocab.json").write_text(json.dumps(vocabulary))
    (folder / "merges.txt").write_text("\n".join(["#version: 0.2", *MERGES]) + "\n")
    (folder / "tokenizer_config.json").write_text(
        json.dumps({"tokenizer_class": "CLIPTokenizer", "model_max_length": 77})
    )
    return len(vocabulary)


def write_stable_diffusion(
    folder: Path, unet: dict[str, Any] | None = None, vae: dict[str, Any] | None = None, **scheduler: Any
) -> Path:
    """Write the folder, with some settings of the UNet, the VAE or the scheduler changed."""
    size = write_tokenizer(folder / "tokenizer")
    ids = {"bos_token_id": size - 2, "eos_token_id": size - 1, "pad_token_id": size - 1}
    with torch.random.fork_rng():
        torch.manual_seed(4)
        StableDiffusionPipeline(
            vae=AutoencoderKL(**VAE | (vae or {})),
            text_encoder=CLIPTextModel(CLIPTextConfig(vocab_size=size, **TEXT_ENCODER, **ids)),
            tokenizer=CLIPTokenizer.from_pretrained(folder / "tokenizer"),
            unet=UNet2DConditionModel(**UNET | (unet or {})),
            scheduler=PNDMScheduler(steps_offset=1),
            safety_checker=None,
            feature_extractor=None,
            requires_safety_checker=False,
        ).save_pretrained(folder)
    (folder / "scheduler" / "scheduler_config.json").write_text(json.dumps(SCHEDULER | scheduler))
    _age(folder)
    return folder


def _age(folder: Path) -> None:
    """The Hub's folders were written by older libraries: no tokenizer.json, and another prefix in the text encoder."""
    (folder / "tokenizer" / "tokenizer.json").unlink(missing_ok=True)
    write_tokenizer(folder / "tokenizer")
    path = folder / "text_encoder" / "model.safetensors"
    weights = {f"text_model.{name}": tensor for name, tensor in load_file(path).items()}
    weights["text_model.embeddings.position_ids"] = torch.arange(77)[None]
    save_file(weights, path, metadata={"format": "pt"})
