"""Every preset at toy size: the same config, with the folders of `hub_folders` in the place of what the Hub holds."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from modules.config import StoryConfig
from modules.presets import BERT, CLIP, GPT2, GPT2_XL, LLAMA, MINILM, PRESETS, RESNET, SMOLLM2, STABLE_DIFFUSION, VIT
from tests.support import hub_folders

WRITERS = {
    GPT2: hub_folders.write_gpt2,
    GPT2_XL: hub_folders.write_gpt2,
    LLAMA: hub_folders.write_llama,
    SMOLLM2: hub_folders.write_llama,
    BERT: hub_folders.write_bert,
    MINILM: hub_folders.write_bert,
    CLIP: hub_folders.write_clip,
    RESNET: hub_folders.write_resnet,
    VIT: hub_folders.write_vit,
    STABLE_DIFFUSION: hub_folders.write_stable_diffusion,
}
PRETRAINED = ("gpt2-sd15", "storydiffusion", "next-step", "seed-story", "multimodal-gpt2", "picturebooks")
IMAGE_SIZE = 32


def write_hub(folder: Path) -> Path:
    """All that the presets name, below `folder` by their ids."""
    for name, write in WRITERS.items():
        write(folder / name)
    return folder


def tiny_preset(name: str, hub: Path) -> StoryConfig:
    """The preset `name`: its mechanisms, with everything that has a size as small as it gets."""
    config, tiny = PRESETS[name], PRESETS["tiny"]
    board, prior, text, image = config.storyboard, config.prior, config.text_decoder, config.image_decoder

    def local(part):
        return replace(part, source=str(hub / part.source)) if part.source else part

    encoder = local(board.image_encoder)
    pixels = replace(
        board.pixel_encoder,
        dim=32,
        num_layers=1,
        num_heads=2,
        image_size=IMAGE_SIZE,
        stem_channels=(8, 8),
        norm_num_groups=4,
    )
    experts = replace(prior.experts, num_experts=4, mult=0.75) if prior.experts.num_experts else prior.experts
    small_unet = {field: getattr(tiny.image_decoder, field) for field in SMALL_UNET}
    return replace(
        config,
        vocab_size=tiny.vocab_size,
        storyboard=replace(
            board,
            dim=32,
            num_layers=1,
            num_heads=2,
            patch_size=2,
            codebook_size=32,
            codebook_dim=8,
            qformer_layers=1,
            qformer_groups=min(4, board.qformer_groups),
            pixel_encoder=pixels,
            text_encoder=replace(local(board.text_encoder), max_length=40),
            image_encoder=replace(encoder, trainable_layers=min(2, encoder.trainable_layers)),
        ),
        prior=replace(
            prior,
            dim=32,
            code_dim=16,
            num_layers=2,
            num_heads=2,
            num_kv_heads=min(1, prior.num_kv_heads),
            dropout=0.0,
            attention_window=min(16, prior.attention_window),
            temporal_layers=min(1, prior.temporal_layers),
            experts=experts,
        ),
        predictor=tiny.predictor,
        text_decoder=replace(local(text), dim=32, num_layers=2, num_heads=2, max_length=40, lora_rank=2),
        image_decoder=replace(local(image), lora_rank=2, **small_unet),
        aids=tiny.aids,
        autoencoder=(
            replace(local(config.autoencoder), image_size=IMAGE_SIZE, block_out_channels=(8, 8))
            if config.autoencoder.source
            else tiny.autoencoder
        ),
        training=replace(
            tiny.training,
            max_steps=4,
            batch_size=2,
            num_stories=6,
            learning_rate=config.training.learning_rate,
            own_codes=config.training.own_codes,
            language_model_from=config.training.language_model_from,
            image_decoder_from=config.training.image_decoder_from,
            quantize_at=0.25,
        ),
    )


SMALL_UNET = (
    "block_out_channels",
    "attention_levels",
    "layers_per_block",
    "num_heads",
    "cross_attention_dim",
    "norm_num_groups",
)
