"""Folders that are not what they should be, each told in one sentence."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from modules.common.errors import UserError
from modules.image_decoder.autoencoder import PretrainedAutoencoder
from modules.image_decoder.config import AutoencoderConfig, ImageDecoderConfig
from modules.image_decoder.image_decoder import ImageDecoder
from modules.pretrained.source import PretrainedSource
from tests.support.tiny_stable_diffusion import write_stable_diffusion


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_stable_diffusion(tmp_path_factory.mktemp("hub") / "sd")


@pytest.fixture
def copied(folder: Path, tmp_path: Path) -> Path:
    return shutil.copytree(folder, tmp_path / "sd")


def build(source: Path | str, latent_channels: int = 4, offline: bool = False, **settings: int) -> ImageDecoder:
    config = ImageDecoderConfig(source=str(source), condition="codes_and_text", tuning="frozen", **settings)
    return ImageDecoder(
        config, (latent_channels, 8, 8), 8, 8, PretrainedSource(str(source), "image_decoder.source", offline=offline)
    )


def autoencoder(source: Path, **settings: int) -> PretrainedAutoencoder:
    config = {"image_size": 16, "latent_channels": 4, "unshuffle": 1, "block_out_channels": (8, 8)} | settings
    return PretrainedAutoencoder(AutoencoderConfig(source=str(source), **config))


def told(call: Callable[[], object]) -> str:
    with pytest.raises(UserError) as caught:
        call()
    message = str(caught.value)
    assert "\n" not in message and 40 < len(message) < 600
    return message


def rewrite(path: Path, **changes: object) -> None:
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


# Folders that cannot be used


@pytest.mark.parametrize("part", ["unet", "text_encoder", "tokenizer", "scheduler"])
def test_a_missing_subfolder_is_named(copied, part):
    shutil.rmtree(copied / part)
    message = told(lambda: build(copied))
    assert message.startswith("image_decoder.source: ") and str(copied) in message and part in message


def test_a_missing_autoencoder_is_named(copied):
    shutil.rmtree(copied / "vae")
    message = told(lambda: autoencoder(copied))
    assert message.startswith("autoencoder.source: ") and "vae" in message


def test_a_language_models_folder_and_none_at_all_are_refused(tmp_path):
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "gpt2"}))
    for source in (tmp_path, tmp_path / "nowhere"):
        assert str(source) in told(lambda source=source: build(source))


def test_offline_asks_nobody():
    assert "unet" in told(lambda: build("a-name-of-nobody/stable-diffusion", offline=True))


def test_another_class_in_a_subfolder_is_refused(copied):
    shutil.rmtree(copied / "unet")
    shutil.copytree(copied / "vae", copied / "unet")
    assert "contains AutoencoderKL, expected UNet2DConditionModel" in told(lambda: build(copied))


def test_another_text_encoder_is_refused(copied):
    rewrite(copied / "text_encoder" / "config.json", model_type="bert")
    assert "contains bert, expected clip_text_model" in told(lambda: build(copied))


@pytest.mark.parametrize("part", ["unet/diffusion_pytorch_model", "text_encoder/model"])
def test_absent_and_broken_weights_are_refused(copied, part):
    path = copied / f"{part}.safetensors"
    path.write_bytes(path.read_bytes()[:-1000])
    assert str(copied) in told(lambda: build(copied))
    path.rename(path.with_suffix(".bin"))  # Nothing is unpickled.
    assert str(copied) in told(lambda: build(copied))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"in_channels": 9}, "9 channels in, 4 out"),
        ({"class_embed_type": "timestep"}, "class_embed_type timestep"),
        ({"cross_attention_dim": 24}, "the text encoder in .* is 16 wide, its UNet reads 24"),
    ],
)
def test_other_kinds_of_unet_are_refused(tmp_path, changes, message):
    source = write_stable_diffusion(tmp_path, unet=changes)
    with pytest.raises(UserError, match=message):
        build(source)


def test_latents_of_other_channels_are_refused(tmp_path):
    source = write_stable_diffusion(tmp_path, vae={"latent_channels": 8})
    assert "latent_channels of the VAE" in told(lambda: autoencoder(source))
    message = told(lambda: build(source, latent_channels=autoencoder(source, latent_channels=8).config.latent_channels))
    assert "draws latents of 4 channels, the autoencoder's have 8" in message


def test_other_schedules_are_refused(copied):
    assert "num_train_timesteps is 500, in" in told(lambda: build(copied, num_train_timesteps=500))
    rewrite(copied / "scheduler" / "scheduler_config.json", prediction_type="sample")
    assert "predicts 'sample'" in told(lambda: build(copied))


@pytest.mark.parametrize(
    "settings", [{"condition": "codes_and_text"}, {"tuning": "lora"}, {"condition": "text"}, {"lora_rank": 0}]
)
def test_settings_that_make_no_sense_are_refused(settings):
    assert next(iter(settings)) in told(lambda: ImageDecoderConfig(**settings))
