"""Tiny models with random weights in folders as the Hub has them: the real classes, written by `save_pretrained`."""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path

import torch
from diffusers import AutoencoderKL, PNDMScheduler, UNet2DConditionModel
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers
from transformers import (
    BertConfig,
    BertModel,
    BertTokenizer,
    CLIPConfig,
    CLIPModel,
    CLIPTextConfig,
    CLIPTextModel,
    GPT2Config,
    GPT2LMHeadModel,
    LlamaConfig,
    LlamaForCausalLM,
    PreTrainedModel,
    PreTrainedTokenizerFast,
    ResNetConfig,
    ResNetForImageClassification,
    SiglipConfig,
    SiglipModel,
    ViTConfig,
    ViTForImageClassification,
)

TEXTS = (
    "Rusty the fox wants a kite.",
    "Pip the mouse walks to the garden.",
    "The kite is in the tree!",
    "Rusty and Pip are happy.",
)
VOCAB_SIZE = 320
WIDTH = 32
_TOWER = {"hidden_size": WIDTH, "intermediate_size": 48, "num_hidden_layers": 3, "num_attention_heads": 2}
_CLIP_TEXT = {**_TOWER, "vocab_size": VOCAB_SIZE, "max_position_embeddings": 77, "projection_dim": 16}


def write_gpt2(folder: Path, texts: Iterable[str] = TEXTS, **changes: int | float) -> Path:
    """As gpt2: a causal model with tied embeddings and byte-level BPE whose only special token is <|endoftext|>."""
    tokenizer = _byte_level_bpe(texts, ["<|endoftext|>"])
    tokens = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, bos_token="<|endoftext|>", eos_token="<|endoftext|>", model_max_length=64
    )
    tokens.save_pretrained(folder)
    sizes = {"vocab_size": len(tokens), "n_positions": 64, "n_embd": WIDTH, "n_layer": 2, "n_head": 2, **changes}
    return _write(GPT2LMHeadModel, GPT2Config(bos_token_id=0, eos_token_id=0, **sizes), folder)


def write_llama(folder: Path, texts: Iterable[str] = TEXTS, **changes: int | float) -> Path:
    """As TinyLlama: grouped-query attention, <s> before every text, no padding token."""
    tokenizer = _byte_level_bpe(texts, ["<unk>", "<s>", "</s>"])
    tokenizer.post_processor = processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 1)])
    names = {"unk_token": "<unk>", "bos_token": "<s>", "eos_token": "</s>"}
    tokens = PreTrainedTokenizerFast(tokenizer_object=tokenizer, model_max_length=64, **names)
    tokens.save_pretrained(folder)
    sizes = {
        **_TOWER,
        "num_hidden_layers": 2,
        "num_key_value_heads": 1,
        "max_position_embeddings": 64,
        "vocab_size": len(tokens),
        **changes,
    }
    return _write(LlamaForCausalLM, LlamaConfig(bos_token_id=1, eos_token_id=2, **sizes), folder)


def write_bert(folder: Path, texts: Iterable[str] = TEXTS, **changes: int | float) -> Path:
    """As bert-base-uncased: [CLS] text [SEP], lower case, [PAD] = 0."""
    trained = Tokenizer(models.WordPiece(unk_token="[UNK]"))
    trained.normalizer, trained.pre_tokenizer = normalizers.BertNormalizer(), pre_tokenizers.BertPreTokenizer()
    special = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
    trainer = trainers.WordPieceTrainer(vocab_size=VOCAB_SIZE, special_tokens=special, show_progress=False)
    trained.train_from_iterator(texts, trainer)
    tokens = BertTokenizer(vocab=trained.get_vocab(), model_max_length=64)
    tokens.save_pretrained(folder)
    return _write(
        BertModel, BertConfig(**{**_TOWER, "vocab_size": len(tokens), "max_position_embeddings": 64, **changes}), folder
    )


def write_resnet(folder: Path) -> Path:
    """As microsoft/resnet-50: a classifier of bottlenecks, its statistics as if it had seen pictures."""
    config = ResNetConfig(
        embedding_size=8, hidden_sizes=[8, 12, 16, WIDTH], depths=[1, 1, 1, 2], layer_type="bottleneck", num_labels=5
    )
    model, generator = _model(ResNetForImageClassification, config), torch.Generator().manual_seed(0)
    for norm in model.modules():
        if isinstance(norm, torch.nn.BatchNorm2d):
            norm.running_mean.normal_(std=0.1, generator=generator)
            norm.running_var.uniform_(0.5, 1.5, generator=generator)
    _write_preprocessor(folder, [0.485, 0.456, 0.406], [0.229, 0.224, 0.225], size={"shortest_edge": 64})
    return _save(model, folder)


def write_vit(folder: Path) -> Path:
    """As google/vit-base-patch16-224: a classifier, so without a pooler."""
    _write_preprocessor(folder, [0.5] * 3, [0.5] * 3, size={"height": 32, "width": 32})
    config = ViTConfig(**_TOWER, image_size=32, patch_size=8, num_labels=5, hidden_dropout_prob=0.3)
    return _write(ViTForImageClassification, config, folder)


def write_clip(folder: Path) -> Path:
    """As openai/clip-vit-large-patch14: both towers in one folder."""
    mean, std = [0.48145466, 0.4578275, 0.40821073], [0.26862954, 0.26130258, 0.27577711]
    _write_preprocessor(folder, mean, std, size={"shortest_edge": 32}, crop_size={"height": 32, "width": 32})
    vision = {**_TOWER, "image_size": 32, "patch_size": 8, "projection_dim": 16}
    return _write(CLIPModel, CLIPConfig(text_config=_CLIP_TEXT, vision_config=vision, projection_dim=16), folder)


def write_siglip(folder: Path) -> Path:
    """As google/siglip-base-patch16-224: both towers in one folder, no class token."""
    _write_preprocessor(folder, [0.5] * 3, [0.5] * 3, size={"height": 32, "width": 32})
    text = {**_TOWER, "vocab_size": VOCAB_SIZE, "max_position_embeddings": 64}
    return _write(
        SiglipModel, SiglipConfig(text_config=text, vision_config={**_TOWER, "image_size": 32, "patch_size": 8}), folder
    )


def write_stable_diffusion(folder: Path, texts: Iterable[str] = TEXTS) -> Path:
    """As Stable Diffusion 1.5: unet, vae, text_encoder, tokenizer and scheduler in folders of their own."""
    names = {
        "unk_token": "<|endoftext|>",
        "bos_token": "<|startoftext|>",
        "eos_token": "<|endoftext|>",
        "pad_token": "<|endoftext|>",
    }
    tokenizer = _byte_level_bpe(texts, ["<|startoftext|>", "<|endoftext|>"])
    template = "<|startoftext|> $A <|endoftext|>"
    tokenizer.post_processor = processors.TemplateProcessing(
        single=template, special_tokens=[("<|startoftext|>", 0), ("<|endoftext|>", 1)]
    )
    PreTrainedTokenizerFast(tokenizer_object=tokenizer, model_max_length=77, **names).save_pretrained(
        folder / "tokenizer"
    )
    _write(
        CLIPTextModel,
        CLIPTextConfig(**_CLIP_TEXT, bos_token_id=0, eos_token_id=1, pad_token_id=1),
        folder / "text_encoder",
    )
    with torch.random.fork_rng():
        torch.manual_seed(0)
        unet = UNet2DConditionModel(
            sample_size=8,
            block_out_channels=(8, 16),
            layers_per_block=1,
            cross_attention_dim=WIDTH,
            attention_head_dim=2,
            norm_num_groups=4,
            down_block_types=("CrossAttnDownBlock2D", "DownBlock2D"),
            up_block_types=("UpBlock2D", "CrossAttnUpBlock2D"),
        )
        levels = ("DownEncoderBlock2D",) * 2, ("UpDecoderBlock2D",) * 2
        vae = AutoencoderKL(
            down_block_types=levels[0],
            up_block_types=levels[1],
            block_out_channels=(8, 8),
            norm_num_groups=4,
            sample_size=16,
        )
    unet.save_pretrained(folder / "unet")
    vae.save_pretrained(folder / "vae")
    scheduler = PNDMScheduler(
        beta_start=0.00085,
        beta_end=0.012,
        beta_schedule="scaled_linear",
        skip_prk_steps=True,
        set_alpha_to_one=False,
        steps_offset=1,
    )
    scheduler.save_pretrained(folder / "scheduler")
    parts = {
        "scheduler": ["diffusers", "PNDMScheduler"],
        "text_encoder": ["transformers", "CLIPTextModel"],
        "tokenizer": ["transformers", "CLIPTokenizer"],
        "unet": ["diffusers", "UNet2DConditionModel"],
        "vae": ["diffusers", "AutoencoderKL"],
    }
    (folder / "model_index.json").write_text(json.dumps({"_class_name": "StableDiffusionPipeline", **parts}))
    return folder


def _byte_level_bpe(texts: Iterable[str], special: list[str]) -> Tokenizer:
    """Special tokens have the first ids."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer, tokenizer.decoder = pre_tokenizers.ByteLevel(add_prefix_space=False), decoders.ByteLevel()
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    trainer = trainers.BpeTrainer(
        vocab_size=VOCAB_SIZE, special_tokens=special, initial_alphabet=alphabet, show_progress=False
    )
    tokenizer.train_from_iterator(texts, trainer)
    return tokenizer


def _write_preprocessor(folder: Path, mean: list[float], std: list[float], **sizes: dict[str, int]) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    settings = {"do_normalize": True, "do_resize": True, "image_mean": mean, "image_std": std, "resample": 3, **sizes}
    (folder / "preprocessor_config.json").write_text(json.dumps(settings))


def _model(model_class: type[PreTrainedModel], config: object) -> PreTrainedModel:
    """The same weights every time, larger than at the start of a training, so that whatever is wrong shows."""
    with torch.random.fork_rng(), torch.no_grad():
        torch.manual_seed(0)
        model = model_class(config).eval()
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.1)
    return model


def _save(model: PreTrainedModel, folder: Path) -> Path:
    model.save_pretrained(folder)
    return folder


def _write(model_class: type[PreTrainedModel], config: object, folder: Path) -> Path:
    return _save(_model(model_class, config), folder)
