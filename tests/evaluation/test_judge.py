"""The judge: it learns to classify renders, matches texts, and is restored exactly."""

from __future__ import annotations

import json
import os
import signal

import pytest
import torch

import story_generative_model
from modules.common.errors import UserError
from modules.evaluation.judge.judge import NOT_SHOWN, SINGLE, Judge, targets_of
from modules.evaluation.judge.train_judge import degrade, draw_pages, score_judge
from modules.storyworld import CHARACTERS, COLORS, StoryWorld


@pytest.fixture(scope="module")
def steps() -> list:
    world = StoryWorld(12, split="val", image_size=32)
    return [step for index in range(12) for step in world[index].steps]


def test_it_learns_to_read_renders(tiny_judge):
    figures = score_judge(tiny_judge, num_stories=12)
    for name in ("place", "weather"):
        assert figures[name]["value"] > figures[name]["floor"] + 0.2, name
    assert figures["character_f1"]["ceiling"] == 1


def test_a_reading_has_the_labels_of_the_truth(tiny_judge, steps):
    readings = tiny_judge.read([step.image for step in steps])
    assert len(readings) == len(steps)
    for reading in readings:
        assert reading["characters"] == set(reading["colors"]) <= set(CHARACTERS)
        assert set(reading["colors"].values()) <= set(COLORS)
        assert all(reading[name] in labels for name, labels in SINGLE.items())


def test_targets_hold_the_truth():
    page = {
        "characters": ["fox", "bear"],
        "colors": ["blue", "red"],
        "place": "moon",
        "object": None,
        "weather": "rain",
        "action": "play",
    }
    targets = targets_of([page])
    assert targets["characters"][0].nonzero()[:, 0].tolist() == sorted(map(CHARACTERS.index, ("fox", "bear")))
    assert targets["colors"][0, CHARACTERS.index("fox")] == COLORS.index("blue")
    assert (targets["colors"][0] == NOT_SHOWN).sum() == len(CHARACTERS) - 2
    assert SINGLE["object"][targets["object"][0]] is None and SINGLE["action"][targets["action"][0]] == "play"


def test_embeddings_are_unit_vectors_without_unknown_words(tiny_judge, steps):
    images, texts = (
        tiny_judge.embed_images([step.image for step in steps]),
        tiny_judge.embed_texts([step.text for step in steps]),
    )
    assert images.shape == texts.shape == (len(steps), 16)
    for vectors in (images, texts):
        torch.testing.assert_close(vectors.norm(dim=1), torch.ones(len(steps)))
    once, twice = tiny_judge.embed_texts([steps[0].text, steps[0].text + " Zxqv!"])
    torch.testing.assert_close(once, twice)
    assert tiny_judge.embed_texts(["", "zxqv"]).isfinite().all()
    assert tiny_judge.features([step.image for step in steps]).shape == (len(steps), 16)


def test_it_comes_back_from_its_folder(tiny_judge, steps, tmp_path):
    tiny_judge.save(tmp_path)
    loaded = Judge.from_pretrained(tmp_path)
    images = [step.image for step in steps]
    torch.testing.assert_close(loaded.features(images), tiny_judge.features(images), atol=1e-2, rtol=1e-2)
    assert loaded.config == tiny_judge.config and not any(parameter.requires_grad for parameter in loaded.parameters())


@pytest.mark.parametrize("damage", ["missing", "config", "weights"])
def test_a_folder_without_a_judge_is_told(tiny_judge, tmp_path, damage):
    if damage != "missing":
        tiny_judge.save(tmp_path)
        (tmp_path / "manifest.json").unlink()
        values = json.loads((tmp_path / "config.json").read_text())
        if damage == "config":
            (tmp_path / "config.json").write_text(json.dumps(values | {"legs": 3}))
        else:
            (tmp_path / "model.safetensors").write_bytes(b"no")
    with pytest.raises(UserError, match="legs" if damage == "config" else "train_judge"):
        Judge.from_pretrained(tmp_path)


def test_degraded_pages_resemble_the_pages():
    pixels, texts, pages = draw_pages(StoryWorld(2, image_size=32))
    assert len(pixels) == len(texts) == len(pages)
    exact = pixels.float() / 127.5 - 1
    errors = [(degrade(pixels, torch.Generator().manual_seed(seed)) - exact).abs().mean().item() for seed in range(16)]
    assert min(errors) == 0 and 0.01 < max(errors) < 0.2


def test_the_command_trains_saves_scores_and_resumes(tmp_path, monkeypatch, capsys):
    flags = ["train_judge", "--num_stories", "3", "--max_steps", "2", "--output"]
    assert story_generative_model.main([*flags, str(tmp_path / "whole")]) == 0
    assert "characters, F1" in capsys.readouterr().out
    assert Judge.from_pretrained(tmp_path / "whole").config.image_size == 96
    stopped, degraded = [*flags, str(tmp_path / "stopped")], []

    def signalled(pixels, generator):
        degraded.append(os.kill(os.getpid(), signal.SIGTERM))
        return degrade(pixels, generator)

    with monkeypatch.context() as patch:
        patch.setattr("modules.evaluation.judge.train_judge.degrade", signalled)
        assert story_generative_model.main(stopped) == 143
    assert len(degraded) == 1 and "the same command goes on" in capsys.readouterr().err.splitlines()[-1]
    other = [*stopped[:4], "4", *stopped[5:]]
    assert story_generative_model.main(other) == 2
    assert "a stopped training of another judge" in capsys.readouterr().err
    kept = (tmp_path / "stopped" / "unfinished.safetensors").read_bytes()
    (tmp_path / "stopped" / "unfinished.safetensors").write_bytes(kept[:1000])
    assert story_generative_model.main(stopped) == 2
    assert "remove it to train anew" in capsys.readouterr().err
    (tmp_path / "stopped" / "unfinished.safetensors").write_bytes(kept)
    assert story_generative_model.main(stopped) == 0
    assert [path.name for path in sorted((tmp_path / "stopped").iterdir())] == [
        "config.json",
        "manifest.json",
        "model.safetensors",
    ]
    for name in ("config.json", "model.safetensors"):
        assert (tmp_path / "stopped" / name).read_bytes() == (tmp_path / "whole" / name).read_bytes()
