"""`benchmarks/gpu_weights.py`, rehearsed on the CPU at tiny size."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from modules.encoded.codes import cache_codes
from modules.encoded.stories import EncodedStories
from modules.saving.model_folder import load_model
from modules.storyworld import StoryWorld
from tests.support.benchmarks import load

gpu_widen = load("gpu_widen")
ROOT = Path(__file__).parents[2]


def run(*arguments: object) -> None:
    command = [sys.executable, ROOT / "benchmarks" / "gpu_weights.py", *map(str, arguments)]
    environment = os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr[-2000:]


def codes_of(folder: Path) -> torch.Tensor:
    model, tokenizer = load_model(folder)
    stories = EncodedStories(StoryWorld(4, split="tune", image_size=32), model, tokenizer)
    return cache_codes(model, stories, visible=False)


def test_wider_latents_leave_codes_and_pictures_as_they_were(tiny_checkpoint):
    old, tokenizer = load_model(tiny_checkpoint)
    new = gpu_widen.widen(old, 6)
    stories = StoryWorld(4, split="tune", image_size=32)
    before, after = (EncodedStories(stories, model, tokenizer) for model in (old, new))
    assert torch.equal(after.latents[:, :4], before.latents)
    assert torch.equal(cache_codes(new, after, visible=False), cache_codes(old, before, visible=False))
    decoded = [model.autoencoder.decode(each.latents.float()) for model, each in ((old, before), (new, after))]
    torch.testing.assert_close(*decoded)
    embeds = torch.randn(2, *old.image_decoder.null_codes.shape)
    noisy = torch.randn(2, 6, *before.latents.shape[2:])
    predicted = [
        model.image_decoder.predict(part, torch.tensor([500, 20]), model.image_decoder.context(embeds))
        for model, part in ((old, noisy[:, :4]), (new, noisy))
    ]
    torch.testing.assert_close(predicted[1][:, :4], predicted[0])


@pytest.mark.slow
@pytest.mark.exhaustive
def test_the_autoencoder_and_the_parts_are_trained_and_joined(tiny_checkpoint, tmp_path):
    common = ("--num_stories", 12, "--processes", 2, "--rows", 16)
    wide, new, joined = tmp_path / "wide", tmp_path / "new", tmp_path / "joined"
    flags = ("--channels", 6, "--length", 120, "--json", tmp_path / "wide.json")
    run("autoencoder", "--ckpt", tiny_checkpoint, *flags, *common, "--output", wide)
    found = json.loads((tmp_path / "wide.json").read_text())
    assert found["updates"] == 120 and found["shift"] < 0.5 and len(found["losses"]) == 1
    assert (codes_of(wide) == codes_of(tiny_checkpoint)).float().mean() > 0.5
    flags = ("--parts", "image_decoder=32", "prior=1s", "text_decoder=32", "--held_out", 4, "--plan_rows", 16)
    run("decoders", "--ckpt", wide, *flags, *common, "--output", new, "--json", tmp_path / "new.json")
    found = json.loads((tmp_path / "new.json").read_text())
    assert found["image_decoder"]["updates"] == 32 and found["prior"]["updates"] >= 30
    assert found["image_decoder"]["held_out"] != found["image_decoder"]["held_out_before"]
    files = sorted((wide / "parts").iterdir()) + sorted((new / "parts").iterdir())
    run("join", "--ckpt", tiny_checkpoint, "--parts", *files, "--output", joined)
    assert (joined / "model.safetensors").read_bytes() == (new / "model.safetensors").read_bytes()
