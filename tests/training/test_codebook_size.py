"""A codebook whose size the config leaves open: chosen from the data, told, and a number from then on."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest

import story_generative_model
from modules.common.errors import UserError
from modules.config import load_config
from modules.presets import PRESETS
from modules.story_model.story_model import build_model
from modules.training.codebook_size import fitting_size


@pytest.mark.parametrize(
    ("num_steps", "size"), [(1, 16), (300, 16), (330, 32), (3_000, 256), (13_000, 1024), (30_000, 2048), (10**6, 4096)]
)
def test_it_follows_the_number_of_steps(num_steps, size):
    assert fitting_size(num_steps) == size


@pytest.mark.slow
def test_a_run_tells_it_writes_it_and_resumes_with_it(tmp_path, capsys):
    tiny = PRESETS["tiny"]
    config = replace(tiny, storyboard=replace(tiny.storyboard, codebook_size=0))
    config = replace(config, training=replace(tiny.training, max_steps=4, num_stories=60))
    with pytest.raises(UserError, match=r"codebook_size is 0, which only train resolves"):
        build_model(config, "this config")
    (tmp_path / "config.json").write_text(config.to_json())
    run = tmp_path / "run"
    words = ["train", "--config", str(tmp_path / "config.json"), "--output_dir", str(run)]
    assert story_generative_model.main([*words, "--phases", "joint", "--dry_run"]) == 0
    shown = capsys.readouterr()
    resolved = json.loads(shown.out)["config"]["storyboard"]["codebook_size"]
    assert resolved in (16, 32) and f"codebook_size: {resolved} codes for" in shown.err
    assert story_generative_model.main([*words, "--phases", "autoencoder,opening,joint"]) == 0
    assert f"codebook_size: {resolved} codes for" in capsys.readouterr().err
    assert load_config(run / "model" / "config.json").storyboard.codebook_size == resolved
    assert story_generative_model.main(words) == 0  # The phases that are left.
    mine = ["train", "--config", str(tmp_path / "config.json"), "--init_from", str(run), "--phases", "planning"]
    assert story_generative_model.main([*mine, "--output_dir", str(tmp_path / "more")]) == 0
    assert f"{resolved} codes as in {run}" in capsys.readouterr().err
