"""Pictures and latents by the autoencoder of a Stable Diffusion folder."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import torch
from diffusers import AutoencoderKL
from torch import Tensor

from modules.common.errors import UserError
from modules.image_decoder.autoencoder import PretrainedAutoencoder
from modules.image_decoder.config import AutoencoderConfig
from modules.image_decoder.stable_diffusion import offload
from modules.pretrained.source import PretrainedSource
from tests.support.tensors import CLOSE, generator
from tests.support.tiny_stable_diffusion import write_stable_diffusion

SD15_VAE = {
    "_class_name": "AutoencoderKL",
    "act_fn": "silu",
    "block_out_channels": [128, 256, 512, 512],
    "down_block_types": ["DownEncoderBlock2D"] * 4,
    "in_channels": 3,
    "latent_channels": 4,
    "layers_per_block": 2,
    "norm_num_groups": 32,
    "out_channels": 3,
    "sample_size": 512,
    "up_block_types": ["UpDecoderBlock2D"] * 4,
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_stable_diffusion(
        tmp_path_factory.mktemp("hub") / "sd", vae={"scaling_factor": 0.4, "shift_factor": 0.1}
    )


@pytest.fixture
def pictures() -> Tensor:
    return torch.rand(3, 3, 16, 16, generator=generator()) * 2 - 1


def autoencoder(source: Path, **settings: int) -> PretrainedAutoencoder:
    config = {"image_size": 16, "latent_channels": 4, "unshuffle": 1, "block_out_channels": (8, 8)} | settings
    return PretrainedAutoencoder(AutoencoderConfig(source=str(source), **config))


def test_latents_are_at_the_unets_scale(folder, pictures):
    own, plain = autoencoder(folder), AutoencoderKL.from_pretrained(folder, subfolder="vae")
    latents = own.encode(pictures)
    with torch.no_grad():
        torch.testing.assert_close(latents, (plain.encode(pictures).latent_dist.mean - 0.1) * 0.4, **CLOSE)
        decoded = plain.decode(latents / 0.4 + 0.1).sample.clamp(-1, 1)
    torch.testing.assert_close(own.decode(latents), decoded, **CLOSE)
    assert latents.shape[1:] == own.config.latent_shape == (4, 8, 8) and decoded.shape == pictures.shape
    assert not any(parameter.requires_grad for parameter in own.parameters())


def test_autocast_leaves_the_autoencoder_in_full_precision(folder, pictures):
    own = autoencoder(folder)
    latents = own.encode(pictures)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert torch.equal(own.encode(pictures), latents)
        assert torch.equal(own.decode(latents.bfloat16()), own.decode(latents.bfloat16().float()))
    assert own.decode(latents.bfloat16()).dtype == torch.float32


def test_slices_give_the_same_and_tiles_nearly(folder, pictures):
    own, large = autoencoder(folder), torch.nn.functional.interpolate(pictures, size=32, mode="bilinear")
    latents, large_latents = own.encode(pictures), own.encode(large)
    decoded = own.decode(latents)
    own.save_memory(slicing=True, tiling=True)
    assert own.vae.use_slicing and own.vae.use_tiling
    torch.testing.assert_close(own.encode(pictures), latents, **CLOSE)
    torch.testing.assert_close(own.decode(latents), decoded, **CLOSE)
    tiled = own.encode(large)
    assert (
        tiled.shape == large_latents.shape
        and own.decode(tiled).shape == large.shape
        and not torch.equal(tiled, large_latents)
    )
    own.save_memory(slicing=False, tiling=False)
    assert torch.equal(own.encode(large), large_latents)


def test_the_autoencoder_can_wait_in_main_memory(folder, pictures):
    own = autoencoder(folder)
    latents = own.encode(pictures)
    offload([own.vae], torch.device("cpu"))
    assert torch.equal(own.encode(pictures), latents)


def test_another_size_is_refused(folder):
    with pytest.raises(UserError, match=r"the downsampling of the VAE in .* is 2, the config's is 4"):
        autoencoder(folder, unshuffle=2)
    with pytest.raises(UserError, match="image_size must be a multiple of 2, got 15"):
        autoencoder(folder, image_size=15)


def test_full_size_has_the_published_number_of_parameters(folder, tmp_path):
    copied = shutil.copytree(folder, tmp_path / "sd")
    (copied / "vae" / "config.json").write_text(json.dumps(SD15_VAE))
    config = AutoencoderConfig(512, 4, 1, (128, 256, 512, 512), source=str(copied))
    with torch.device("meta"):
        own = PretrainedAutoencoder(config, PretrainedSource(str(copied), "the part", random=True))
    assert sum(parameter.numel() for parameter in own.parameters()) == 83_653_863 and config.latent_shape == (4, 64, 64)
