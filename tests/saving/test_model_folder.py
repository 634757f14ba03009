"""What may be given for a checkpoint, and what a model folder needs of its sources."""

from __future__ import annotations

import pickle
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from modules.common.errors import UserError
from modules.presets import TINY
from modules.pretrained.source import PretrainedSource
from modules.saving.checkpoint import save_checkpoint
from modules.saving.model_folder import architectures_of, load_autoencoder, load_model, resolve_model_folder, save_model
from modules.story_model.story_model import StoryModel
from modules.text_decoder.tokenizers import PretrainedVocabulary
from tests.support.hub_folders import write_gpt2, write_stable_diffusion


@pytest.fixture(scope="module")
def run(tiny_checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run's folder with the steps 100 and 20000, and a pickle and a folder with names that look alike."""
    folder = tmp_path_factory.mktemp("runs") / "story_gen"
    for step in (100, 20_000):
        save_checkpoint(
            folder, step, {}, {}, 0, extra=lambda folder: shutil.copytree(tiny_checkpoint, folder / "model")
        )
    (folder / "ckpt_100.pt").write_bytes(pickle.dumps([1]))
    shutil.copytree(tiny_checkpoint, folder / "mine.pt")
    return folder


@pytest.mark.parametrize(
    ("name", "folder"),
    [
        ("ckpt_20000.pt", "step_00020000/model"),
        ("ckpt_100", "step_00000100/model"),
        ("step_100.safetensors", "step_00000100/model"),
        ("ckpt_0000100.pth", "step_00000100/model"),
        ("mine.pt", "mine.pt"),
        (".", "step_00020000/model"),
        ("step_00000100", "step_00000100/model"),
        ("step_00000100/model", "step_00000100/model"),
    ],
)
def test_what_looks_like_a_file_may_be_our_folder(run, name, folder):
    assert resolve_model_folder(run / name) == run / folder


def test_a_step_that_is_not_there_is_told_with_those_that_are(run):
    with pytest.raises(
        UserError, match=r"no checkpoint at \S*ckpt_300\.pt: the run in \S*story_gen has kept step 100, 20000$"
    ):
        resolve_model_folder(run / "ckpt_300.pt")
    with pytest.raises(UserError, match="no checkpoint at"):
        resolve_model_folder(run / "nowhere" / "ckpt_300.pt")


def test_a_real_file_is_refused_and_not_opened(run, monkeypatch):
    monkeypatch.setattr(pickle, "load", None)
    with pytest.raises(UserError, match=r"ckpt_100\.pt is a pickle, which could run any code and is not opened"):
        load_model(run / "ckpt_100.pt")


@pytest.mark.parametrize(
    ("path", "said"),
    [
        ("a-name-of/nobody", "config.json of a-name-of/nobody is not in the cache and offline"),
        ("checkpoints/nobody", "no checkpoint at checkpoints/nobody"),
    ],
)
def test_only_what_lies_in_no_folder_here_may_be_a_hub_id(path, said):
    with pytest.raises(UserError, match=said):
        load_model(path, offline=True)


def test_a_folder_whose_parts_trained_in_full_needs_no_source(tmp_path):
    hub, folder = tmp_path / "hub", tmp_path / "model"
    gpt2, diffusion = write_gpt2(hub / "gpt2"), write_stable_diffusion(hub / "sd")
    config = replace(
        TINY,
        text_decoder=replace(TINY.text_decoder, source=str(gpt2)),
        image_decoder=replace(TINY.image_decoder, source=str(diffusion)),
    )
    model = StoryModel(config, offline=True)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.copy_(parameter.half())  # As they are saved.
    save_model(
        folder,
        config,
        model.own_state(),
        PretrainedVocabulary(PretrainedSource(str(gpt2), "the part")),
        architectures_of(model),
    )
    shutil.rmtree(hub)
    loaded, tokenizer = load_model(folder, offline=True)
    assert loaded.config == config and tokenizer.decode(tokenizer.encode("Rusty", 9)) == "Rusty"
    weights = model.state_dict()
    for name, value in loaded.state_dict().items():
        assert name.startswith(("aids.", "storyboard.quantizer")) or torch.equal(value, weights[name]), name
    assert loaded.image_decoder.noise_schedule == model.image_decoder.noise_schedule
    (folder / "unet" / "config.json").unlink()
    (folder / "manifest.json").unlink()
    with pytest.raises(UserError, match=r"config\.json, image_decoder\.source: there is no folder"):
        load_model(folder, offline=True)


def test_an_autoencoder_is_taken_from_another_model(tiny_checkpoint, tmp_path):
    other = StoryModel(replace(TINY, text_decoder=replace(TINY.text_decoder, dim=48)))
    found, donor = load_autoencoder(tiny_checkpoint, other), load_model(tiny_checkpoint)[0].autoencoder.state_dict()
    assert found.keys() == donor.keys() and all(torch.equal(found[name], donor[name]) for name in found)
    shutil.copytree(tiny_checkpoint, tmp_path / "model")
    weights = tmp_path / "model" / "model.safetensors"
    state = load_file(weights)
    save_file({name: value for name, value in state.items() if name != f"autoencoder.{min(donor)}"}, weights)
    (tmp_path / "model" / "manifest.json").unlink()
    with pytest.raises(UserError, match="its autoencoder has other tensors"):
        load_autoencoder(tmp_path / "model", other)
    wide = StoryModel(replace(TINY, autoencoder=replace(TINY.autoencoder, latent_channels=6)))
    with pytest.raises(UserError, match="has another shape"):
        load_autoencoder(tiny_checkpoint, wide)
