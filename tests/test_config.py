"""Configurations survive the trip through JSON, and a file that does not fit is named."""

from __future__ import annotations

import dataclasses
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from modules.common.errors import UserError
from modules.config import FORMAT_VERSION, LossWeights, StoryConfig, load_config
from modules.presets import PRESETS


def write(folder: Path, **changes: Any) -> Path:
    """The tiny preset as a file, with some keys changed; a dot in a key goes one level down."""
    values = json.loads(PRESETS["tiny"].to_json())
    for key, value in changes.items():
        inner = values
        *parents, name = key.split(".")
        for parent in parents:
            inner = inner[parent]
        inner[name] = value
    path = folder / "config.json"
    path.write_text(json.dumps(values))
    return path


@pytest.mark.parametrize("name", PRESETS)
def test_every_preset_survives_json(name, tmp_path):
    path = tmp_path / "config.json"
    path.write_text(PRESETS[name].to_json())
    assert load_config(path) == PRESETS[name]
    assert PRESETS[name].preset == name
    assert json.loads(path.read_text())["format_version"] == FORMAT_VERSION


def test_what_was_changed_is_read(tmp_path):
    config = load_config(
        write(tmp_path, **{"prior.dim": 48, "training.adam_betas": [0.8, 0.9], "loss_weights.text_nll": 2})
    )
    assert config.prior.dim == 48 and config.training.adam_betas == (0.8, 0.9)
    assert config.loss_weights.text_nll == 2.0 and isinstance(config.loss_weights.text_nll, float)
    assert config.storyboard == PRESETS["tiny"].storyboard


def test_what_is_missing_has_its_default(tmp_path):
    path = tmp_path / "config.json"
    path.write_text(json.dumps({"format_version": FORMAT_VERSION, "prior": {"dim": 64}}))
    assert load_config(path) == dataclasses.replace(
        StoryConfig(), prior=dataclasses.replace(StoryConfig().prior, dim=64)
    )


def test_decoders_of_version_2_read_their_page_alone(tmp_path):
    path = tmp_path / "config.json"
    for version, context in ((FORMAT_VERSION, "plan"), (2, "page")):
        path.write_text(json.dumps({"format_version": version}))
        assert load_config(path) == dataclasses.replace(StoryConfig(), context=context)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"colour": 3}, "unknown setting 'colour' in StoryConfig"),
        ({"prior.depth": 3}, "prior: unknown setting 'depth' in PriorConfig"),
        ({"prior.dim": "64"}, "prior.dim must be a whole number, got '64'"),
        ({"prior.dim": 64.0}, "prior.dim must be a whole number, got 64.0"),
        ({"prior.dim": True}, "prior.dim must be a whole number, got True"),
        ({"prior.dropout": "high"}, "prior.dropout must be a number, got 'high'"),
        ({"prior.dropout": False}, "prior.dropout must be a number, got False"),
        ({"prior.dim": None}, "prior.dim must be a whole number, got None"),
        ({"preset": 3}, "preset must be a text, got 3"),
        ({"prior": 3}, "expected an object with the fields of PriorConfig"),
        ({"training.adam_betas": 0.9}, "training.adam_betas must be two numbers, got 0.9"),
        ({"image_decoder.attention_levels": [False, 1]}, "image_decoder.attention_levels must be true or false, got 1"),
        ({"format_version": FORMAT_VERSION + 1}, f"version {FORMAT_VERSION + 1}, this program reads {FORMAT_VERSION}"),
        ({"format_version": None}, "is not a story model's config"),
    ],
)
def test_a_file_that_does_not_fit_is_named(changes, message, tmp_path):
    path = write(tmp_path, **changes)
    with pytest.raises(UserError) as error:
        load_config(path)
    assert str(path) in str(error.value) and message in str(error.value)


@pytest.mark.parametrize("content", [b"", b"{", b"[1, 2]", b"3", b"\xff\xfe"])
def test_a_file_that_is_no_config_is_named(content, tmp_path):
    path = tmp_path / "config.json"
    path.write_bytes(content)
    with pytest.raises(UserError, match="config.json"):
        load_config(path)
    with pytest.raises(UserError, match="absent.json"):
        load_config(tmp_path / "absent.json")


def test_configs_cannot_be_changed_in_place():
    with pytest.raises(dataclasses.FrozenInstanceError):
        PRESETS["tiny"].vocab_size = 3
    assert all(getattr(LossWeights(), field.name) >= 0 for field in dataclasses.fields(LossWeights))


BAD_VALUES = [
    ({"storyboard.codebook_size": -1}, "storyboard.codebook_size must be from 0 to 16777216, got -1"),
    ({"storyboard.codebook_dim": 0}, "storyboard.codebook_dim must be from 1 to 65536, got 0"),
    ({"storyboard.qformer_groups": -1}, "storyboard.qformer_groups must be from 0 to 65536, got -1"),
    ({"storyboard.codebook_decay": 1.5}, "storyboard.codebook_decay must be from 0 to below 1, got 1.5"),
    ({"storyboard.image_encoder.trainable_layers": -2}, "trainable_layers must be from -1 to 1024, got -2"),
    (
        {"storyboard.pixel_encoder.stem_channels": []},
        "storyboard.pixel_encoder.stem_channels must have from 1 to 64 numbers, got 0",
    ),
    ({"storyboard.text_encoder.max_length": 2}, "storyboard.text_encoder.max_length must be from 3 to 65536, got 2"),
    ({"prior.dropout": 1.0}, "prior.dropout must be from 0 to below 1, got 1.0"),
    ({"prior.experts.mult": 0.0}, "prior.experts.mult must be above 0 to 1000000, got 0.0"),
    ({"predictor.num_layers": 0}, "predictor.num_layers must be from 1 to 1024, got 0"),
    ({"text_decoder.max_length": 1}, "text_decoder.max_length must be from 3 to 65536, got 1"),
    (
        {"image_decoder.block_out_channels": [8, 0]},
        "image_decoder.block_out_channels must be from 1 to 65536, got [8, 0]",
    ),
    ({"autoencoder.latent_noise": -0.1}, "autoencoder.latent_noise must be from 0 to 1000000, got -0.1"),
    ({"aids.draft_dim": 0}, "aids.draft_dim must be from 1 to 65536, got 0"),
    ({"loss_weights.text_nll": -1.0}, "loss_weights.text_nll must be from 0 to 1000000, got -1.0"),
    ({"loss_weights.prior_nll": float("nan")}, "loss_weights.prior_nll must be from 0 to 1000000, got nan"),
    ({"training.learning_rate": -1.0}, "training.learning_rate must be above 0 to 10, got -1.0"),
    ({"training.learning_rate": float("inf")}, "training.learning_rate must be above 0 to 10, got inf"),
    ({"training.adam_betas": [0.9]}, "training.adam_betas must be two numbers, got [0.9]"),
    ({"training.adam_betas": [0.9, 1.0]}, "training.adam_betas must be from 0 to below 1, got [0.9, 1.0]"),
    ({"training.modality_dropout": 0.6}, "training.modality_dropout must be from 0 to 0.5, got 0.6"),
    ({"training.planning_ratio": -0.1}, "training.planning_ratio must be from 0 to 1000, got -0.1"),
    ({"training.page_dropout": 1.5}, "training.page_dropout must be from 0 to 1, got 1.5"),
    ({"text_decoder.plan_dim": 0}, "text_decoder.plan_dim must be from 1 to 65536, got 0"),
    ({"image_decoder.plan_dim": 0}, "image_decoder.plan_dim must be from 1 to 65536, got 0"),
    ({"context": "story"}, "context must be one of plan, page, got 'story'"),
    ({"max_prompt_length": 1}, "max_prompt_length must be from 3 to 65536, got 1"),
    ({"max_steps": 0}, "max_steps must be from 1 to 65536, got 0"),
]


@pytest.mark.parametrize(("changes", "message"), BAD_VALUES)
def test_values_out_of_range_are_refused(changes, message, tmp_path):
    with pytest.raises(UserError) as error:
        load_config(write(tmp_path, **changes))
    assert message in str(error.value) and "\n" not in str(error.value)


def test_values_are_checked_in_python_too():
    with pytest.raises(UserError, match="codebook_size must be from 0 to 16777216, got -1"):
        dataclasses.replace(StoryConfig().storyboard, codebook_size=-1)
    with pytest.raises(UserError, match="adam_betas must be two numbers, got .0.9."):
        dataclasses.replace(StoryConfig().training, adam_betas=(0.9,))


def test_configs_and_presets_import_no_torch():
    code = "import sys, modules.presets; sys.exit(any(name in sys.modules for name in ('torch', 'numpy', 'PIL')))"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
