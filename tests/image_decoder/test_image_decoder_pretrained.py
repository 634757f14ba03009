"""p(x | z) on a Stable Diffusion folder: the plain model at first, then what the codes add."""

from __future__ import annotations

import copy
import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any, get_args

import pytest
import torch
from diffusers import DDPMScheduler, StableDiffusionImg2ImgPipeline, StableDiffusionPipeline, UNet2DConditionModel
from diffusers.models.attention_processor import Attention
from peft import PeftModel
from torch import Tensor

from modules.image_decoder.config import CONDITIONS, TUNINGS, ImageDecoderConfig, SchedulerName
from modules.image_decoder.decoupled_attention import DecoupledAttention
from modules.image_decoder.image_decoder import ImageDecoder
from modules.image_decoder.schedules import scheduler_class
from modules.image_decoder.stable_diffusion import offload, save_lora
from modules.pretrained.source import PretrainedSource
from tests.support.tensors import CLOSE, generator
from tests.support.tiny_stable_diffusion import write_stable_diffusion, write_tokenizer

TEXTS = ["a cat", "a cat in a hat", "the hat"]
TIMES = torch.tensor([1, 500, 999])
SD15_UNET = {
    "_class_name": "UNet2DConditionModel",
    "act_fn": "silu",
    "attention_head_dim": 8,
    "block_out_channels": [320, 640, 1280, 1280],
    "center_input_sample": False,
    "cross_attention_dim": 768,
    "down_block_types": ["CrossAttnDownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D", "DownBlock2D"],
    "downsample_padding": 1,
    "flip_sin_to_cos": True,
    "freq_shift": 0,
    "in_channels": 4,
    "layers_per_block": 2,
    "mid_block_scale_factor": 1,
    "norm_eps": 1e-05,
    "norm_num_groups": 32,
    "out_channels": 4,
    "sample_size": 64,
    "up_block_types": ["UpBlock2D", "CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "CrossAttnUpBlock2D"],
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_stable_diffusion(tmp_path_factory.mktemp("hub") / "stable-diffusion")


@pytest.fixture(scope="module")
def velocity_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_stable_diffusion(tmp_path_factory.mktemp("hub") / "stable-diffusion-2", prediction_type="v_prediction")


@pytest.fixture(scope="module")
def plain(folder: Path) -> UNet2DConditionModel:
    return UNet2DConditionModel.from_pretrained(folder, subfolder="unet").eval()


@pytest.fixture
def codes() -> Tensor:
    return torch.randn(3, 8, 8, generator=generator(7))


def build(source: Path, condition: str = "codes_and_text", tuning: str = "lora", **settings: Any) -> ImageDecoder:
    torch.manual_seed(0)
    config = ImageDecoderConfig(source=str(source), condition=condition, tuning=tuning, lora_rank=2, **settings)
    return ImageDecoder(config, (4, 8, 8), num_slots=8, code_dim=8).eval()


def latents_like(seed: int = 0) -> Tensor:
    return torch.randn(3, 4, 8, 8, generator=generator(seed))


def read(decoder: ImageDecoder) -> Tensor:
    return decoder.encode_text(decoder.tokenize(TEXTS))


def pipeline_of(folder: Path, cls: type = StableDiffusionPipeline) -> StableDiffusionPipeline:
    pipe = cls.from_pretrained(folder, safety_checker=None)
    pipe.set_progress_bar_config(disable=True)
    return pipe


def parameters(decoder: ImageDecoder, word: str) -> Iterator[Tensor]:
    return (parameter for name, parameter in decoder.unet.named_parameters() if word in name)


@torch.no_grad()
def stir(decoder: ImageDecoder) -> ImageDecoder:
    """As if trained: gates open, LoRA not zero, null codes of their own."""
    for parameter in (decoder.null_codes, *parameters(decoder, "processor.gate"), *parameters(decoder, "lora_B")):
        parameter.normal_(generator=generator(3))
    return decoder


# The plain model at first


def test_the_second_context_is_added_behind_the_gate():
    """Against softmax(q k / sqrt d) v, written out."""
    torch.manual_seed(0)
    layer = Attention(query_dim=10, cross_attention_dim=6, heads=2, dim_head=4)
    hidden, usual, extra = torch.randn(2, 5, 10), torch.randn(2, 7, 6), torch.randn(2, 3, 6)
    plain = layer(hidden, encoder_hidden_states=usual)
    processor = DecoupledAttention(layer, 7)
    layer.set_processor(processor)
    both = torch.cat([usual, extra], dim=1)
    assert torch.equal(layer(hidden, encoder_hidden_states=both), plain)
    for weight in (processor.to_k_extra.weight, processor.to_v_extra.weight, processor.gate):
        torch.nn.init.normal_(weight)
    added = []
    for head in (slice(0, 4), slice(4, 8)):
        query, key, value = (
            layer.to_q(hidden)[..., head],
            processor.to_k_extra(extra)[..., head],
            processor.to_v_extra(extra)[..., head],
        )
        added.append((query @ key.mT / 2).softmax(-1) @ value)
    expected = plain + (processor.gate * torch.cat(added, dim=-1)) @ layer.to_out[0].weight.T
    torch.testing.assert_close(layer(hidden, encoder_hidden_states=both), expected, **CLOSE)


@pytest.mark.parametrize("tuning", TUNINGS)
def test_first_output_is_the_plain_unets(folder, plain, codes, tuning):
    decoder, noisy = build(folder, tuning=tuning), latents_like()
    text = read(decoder)
    with torch.no_grad():
        expected = plain(noisy, TIMES, text).sample
        torch.testing.assert_close(
            decoder.predict(noisy, TIMES, decoder.context(codes, encoder_hidden_states=text)),
            expected,
            atol=1e-6,
            rtol=0,
        )
        stir(decoder)
        assert (
            decoder.predict(noisy, TIMES, decoder.context(codes, encoder_hidden_states=text)) - expected
        ).abs().max() > 1e-3


@pytest.mark.parametrize("scheduler", get_args(SchedulerName))
def test_first_pictures_are_the_pipelines(folder, codes, scheduler):
    """Guidance too: the gates hide the null codes as well, and what is left is the empty text."""
    decoder, pipe = build(folder), pipeline_of(folder)
    text = read(decoder)
    torch.testing.assert_close(text, pipe.encode_prompt(TEXTS, "cpu", 1, False)[0], atol=1e-6, rtol=0)
    pipe.scheduler = scheduler_class(scheduler).from_config(pipe.scheduler.config)
    expected = pipe(
        TEXTS, num_inference_steps=5, guidance_scale=3.0, generator=generator(5), output_type="latent"
    ).images
    drawn = decoder.sample(codes, 5, 3.0, scheduler, generator(5), encoder_hidden_states=text)
    torch.testing.assert_close(drawn, expected, atol=1e-4, rtol=1e-4)  # Many steps add up what machines round.


@pytest.mark.parametrize("strength", [0.2, 0.5, 1.0])
def test_first_redrawn_pictures_are_the_pipelines(velocity_folder, codes, strength):
    decoder, pipe = build(velocity_folder), pipeline_of(velocity_folder, StableDiffusionImg2ImgPipeline)
    pipe.scheduler = scheduler_class("ddim").from_config(pipe.scheduler.config)
    options = {"num_inference_steps": 6, "guidance_scale": 3.0, "generator": generator(5), "strength": strength}
    expected = pipe(TEXTS, image=latents_like(1), output_type="latent", **options).images
    options["generator"] = generator(5)
    drawn = decoder.sample(codes, init_latents=latents_like(1), encoder_hidden_states=read(decoder), **options)
    torch.testing.assert_close(drawn, expected, atol=1e-4, rtol=1e-4)  # Many steps add up what machines round.


# The loss and the conditions


@pytest.mark.parametrize("name", ["folder", "velocity_folder"])
def test_loss_is_the_error_of_what_the_folders_unet_predicts(request, codes, name):
    source = request.getfixturevalue(name)
    decoder, latents, noise = stir(build(source)), latents_like(1), latents_like(2)
    schedule = DDPMScheduler.from_pretrained(source, subfolder="scheduler")
    torch.testing.assert_close(decoder.alphas_cumprod, schedule.alphas_cumprod)
    noisy = schedule.add_noise(latents, noise, TIMES)
    target = noise if name == "folder" else schedule.get_velocity(latents, noise, TIMES)
    with torch.no_grad():
        expected = (
            (decoder.predict(noisy, TIMES, decoder.context(codes, encoder_hidden_states=read(decoder))) - target)
            .square()
            .mean((1, 2, 3))
        )
        torch.testing.assert_close(
            decoder(codes, latents, TIMES, noise, encoder_hidden_states=read(decoder)).loss, expected, **CLOSE
        )


def test_codes_alone_take_the_texts_place(folder, plain, codes):
    decoder = build(folder, condition="codes", tuning="frozen")
    context = decoder.context_norm(decoder.to_context(codes) + decoder.slot_position)
    assert torch.equal(
        decoder.predict(latents_like(), TIMES, decoder.context(codes)), plain(latents_like(), TIMES, context).sample
    )
    assert not any(name.startswith("text_encoder") for name, _ in decoder.named_parameters())
    with pytest.raises(ValueError, match="reads no text"):
        decoder.predict(latents_like(), TIMES, decoder.context(codes, encoder_hidden_states=torch.zeros(3, 77, 16)))
    with pytest.raises(ValueError, match="has no tokenizer"):
        decoder.tokenize(TEXTS)


@torch.no_grad()
def test_null_rows_have_neither_codes_nor_text(folder, codes):
    decoder, noisy, null = stir(build(folder)), latents_like(), torch.tensor([True, False, True])
    text, empty = read(decoder), decoder.encode_text(decoder.tokenize([""] * 3))
    out = decoder.predict(noisy, TIMES, decoder.context(codes, null, text))
    bare = decoder.predict(
        noisy, TIMES, decoder.context(decoder.null_codes.expand(3, -1, -1), encoder_hidden_states=empty)
    )
    full = decoder.predict(noisy, TIMES, decoder.context(codes, encoder_hidden_states=text))
    torch.testing.assert_close(out, torch.where(null[:, None, None, None], bare, full), **CLOSE)
    assert (bare - full).abs().amax((1, 2, 3)).min() > 1e-4
    torch.testing.assert_close(
        decoder.predict(noisy, TIMES, decoder.context(codes)),
        decoder.predict(noisy, TIMES, decoder.context(codes, encoder_hidden_states=empty)),
    )


def test_guidance_is_away_from_null_codes_and_empty_text(folder, codes):
    decoder = stir(build(folder))
    text, null = read(decoder), decoder.null_codes.detach().expand(3, -1, -1)
    none = decoder.sample(codes, 3, 0.0, generator=generator(), encoder_hidden_states=text)
    torch.testing.assert_close(none, decoder.sample(null, 3, 1.0, generator=generator()), **CLOSE)
    guided = decoder.sample(codes, 3, 3.0, generator=generator(), encoder_hidden_states=text)
    assert (guided - none).abs().max() > 1e-3


# What trains


@pytest.mark.parametrize("tuning", TUNINGS)
@pytest.mark.parametrize("condition", CONDITIONS)
def test_only_what_should_train_moves(folder, codes, condition, tuning):
    decoder = stir(build(folder, condition, tuning)).train()
    before = {name: parameter.detach().clone() for name, parameter in decoder.named_parameters()}
    optimizer = torch.optim.AdamW([parameter for parameter in decoder.parameters() if parameter.requires_grad], lr=1e-2)
    text = read(decoder) if condition == "codes_and_text" else None
    decoder(
        codes, latents_like(1), TIMES, latents_like(2), torch.tensor([True, False, False]), text
    ).loss.sum().backward()
    optimizer.step()
    moved = {name for name, parameter in decoder.named_parameters() if not torch.equal(parameter, before[name])}
    adapts = (".processor.", ".lora_") if tuning != "full" else ("",)
    trained = {name for name in before if not name.startswith("unet.") or any(word in name for word in adapts)}
    assert moved == {name for name in trained if not name.startswith("text_encoder.")}
    assert (tuning == "lora") == any(".lora_" in name for name in moved)


def test_at_first_the_gates_alone_learn_from_the_codes(folder, codes):
    decoder = build(folder, tuning="frozen")
    codes.requires_grad_()
    decoder(codes, latents_like(1), TIMES, latents_like(2)).loss.sum().backward()
    assert all((gate.grad != 0).all() for gate in parameters(decoder, "processor.gate"))
    assert (codes.grad == 0).all() and (decoder.to_context.weight.grad == 0).all()
    stir(decoder)(codes, latents_like(1), TIMES, latents_like(2)).loss.sum().backward()
    assert (codes.grad != 0).all()


@pytest.mark.parametrize("tuning", ["full", "lora"])
def test_checkpointing_changes_neither_loss_nor_gradients(folder, codes, tuning):
    decoder = stir(build(folder, tuning=tuning)).train()
    thrifty = copy.deepcopy(decoder)
    thrifty.enable_gradient_checkpointing()
    assert thrifty.unet.is_gradient_checkpointing
    losses = []
    for each in (decoder, thrifty):
        losses.append(each(codes, latents_like(1), TIMES, latents_like(2), encoder_hidden_states=read(each)).loss)
        losses[-1].sum().backward()
    torch.testing.assert_close(*losses)
    for (name, own), other in zip(decoder.named_parameters(), thrifty.parameters(), strict=True):
        assert own.requires_grad == (other.grad is not None) or name == "null_codes"
        torch.testing.assert_close(own.grad, other.grad)


def test_a_lora_alone_is_loaded_by_diffusers_and_peft(folder, plain, codes, tmp_path):
    decoder, noisy = build(folder), latents_like()
    for parameter in parameters(decoder, "lora_B"):
        torch.nn.init.normal_(parameter)
    save_lora(decoder.unet, tmp_path / "lora")
    text = read(decoder)
    with torch.no_grad():
        expected = decoder.predict(noisy, TIMES, decoder.context(codes, encoder_hidden_states=text))
        assert (expected - plain(noisy, TIMES, text).sample).abs().max() > 1e-3
        pipe = pipeline_of(folder)
        pipe.load_lora_weights(tmp_path / "lora")
        other = copy.deepcopy(plain)
        other.load_lora_adapter(tmp_path / "lora", prefix="unet", weight_name="pytorch_lora_weights.safetensors")
        for unet in (pipe.unet, other, PeftModel.from_pretrained(copy.deepcopy(plain), tmp_path / "lora")):
            torch.testing.assert_close(unet(noisy, TIMES, text).sample, expected, **CLOSE)


# Sizes, memory, precision


def test_full_size_unet_has_the_published_number_of_parameters(tmp_path):
    shutil.rmtree(write_stable_diffusion(tmp_path) / "tokenizer")
    (tmp_path / "unet" / "config.json").write_text(json.dumps(SD15_UNET))
    settings = json.loads((tmp_path / "text_encoder" / "config.json").read_text())
    sizes = {
        "vocab_size": 49408,
        "hidden_size": 768,
        "intermediate_size": 3072,
        "num_hidden_layers": 12,
        "num_attention_heads": 12,
    }
    (tmp_path / "text_encoder" / "config.json").write_text(json.dumps(settings | sizes))
    config = ImageDecoderConfig(source=str(tmp_path), condition="codes_and_text", tuning="frozen")
    with torch.device("meta"):
        decoder = ImageDecoder(config, (4, 64, 64), 8, 32, PretrainedSource(str(tmp_path), "the part", random=True))
    counts = {True: 0, False: 0}
    for parameter in decoder.unet.parameters():
        counts[parameter.requires_grad] += parameter.numel()
    assert counts[False] == 859_520_964 and counts[True] == (5 * 320 + 5 * 640 + 6 * 1280) * (2 * 768 + 1)
    assert sum(parameter.numel() for parameter in decoder.text_encoder.parameters()) == 123_060_480


def test_parts_can_wait_in_main_memory(folder, codes):
    decoder = stir(build(folder))
    expected = decoder.sample(codes, 2, generator=generator(), encoder_hidden_states=read(decoder))
    offload([decoder.text_encoder, decoder.unet], torch.device("cpu"))
    assert torch.equal(decoder.sample(codes, 2, generator=generator(), encoder_hidden_states=read(decoder)), expected)


def test_half_precision_by_autocast_gives_nearly_the_same_loss(folder, codes):
    decoder = stir(build(folder))
    with torch.no_grad():
        full = decoder(codes, latents_like(1), TIMES, latents_like(2), encoder_hidden_states=read(decoder)).loss
        with torch.autocast("cpu", dtype=torch.bfloat16):
            half = decoder(codes, latents_like(1), TIMES, latents_like(2), encoder_hidden_states=read(decoder)).loss
    assert half.dtype == torch.float32 and not torch.equal(half, full)
    torch.testing.assert_close(half, full, rtol=0.05, atol=0)


def test_the_tokenizer_reads_clips_files(folder, tmp_path):
    ids = build(folder).tokenize(TEXTS)
    size = write_tokenizer(tmp_path)
    assert ids.shape == (3, 77) and (ids[:, 0] == size - 2).all() and (ids[:, -1] == size - 1).all()
    assert len(ids[1].unique()) > len(ids[0].unique())
