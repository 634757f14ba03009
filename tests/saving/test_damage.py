"""A flipped bit in what was saved is one line, never another story; and nothing of a user's is replaced."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path

import pytest
import torch

import story_generative_model
from modules.common.errors import UserError
from modules.common.sums import MANIFEST
from modules.evaluation.judge.judge import Judge
from modules.generation.pipeline import StoryPipeline
from modules.saving.checkpoint import checkpoint_to_resume, save_checkpoint
from modules.saving.model_folder import load_model, write_model_sums
from modules.training.monitor import cut_trace

ROOT = Path(__file__).parents[2]
FILES = ("config.json", "model.safetensors", "tokenizer.json", "words.json")


def flip(file: Path, place: int = -20) -> None:
    content = bytearray(file.read_bytes())
    content[place] ^= 1
    file.write_bytes(content)


@pytest.fixture
def model(tiny_checkpoint, tmp_path) -> Path:
    return shutil.copytree(tiny_checkpoint, tmp_path / "model")


@pytest.mark.parametrize("name", FILES)
def test_a_flipped_bit_in_a_model_folder(model, name):
    flip(model / name)
    with pytest.raises(UserError, match=f"is damaged .{name} is corrupt") as caught:
        StoryPipeline.from_pretrained(model)
    assert "\n" not in str(caught.value)


def test_folders_without_sums_and_with_another_card_load(model):
    (model / "README.md").write_text("My own card.")
    load_model(model)
    (model / "config.json").write_text((model / "config.json").read_text() + "\n")
    with pytest.raises(UserError, match="if you changed it yourself"):
        load_model(model)
    write_model_sums(model)
    load_model(model)
    (model / MANIFEST).unlink()
    load_model(model)


def test_the_shipped_folders_are_whole():
    for folder in ("storyworld", "judge"):
        sums = json.loads((ROOT / "checkpoints" / folder / MANIFEST).read_text())["files"]
        assert {"config.json", "model.safetensors"} <= sums.keys()
    load_model(ROOT / "checkpoints/storyworld")


def test_a_flipped_bit_in_a_judge(tiny_judge, tmp_path):
    tiny_judge.save(tmp_path)
    Judge.from_pretrained(tmp_path)
    flip(tmp_path / "model.safetensors")
    with pytest.raises(UserError, match="the judge in .* is damaged"):
        Judge.from_pretrained(tmp_path)


def run_with_steps(tiny_checkpoint: Path, run: Path) -> Path:
    for step in (1, 2):
        save_checkpoint(run, step, {}, {"step": step}, 0, lambda new: shutil.copytree(tiny_checkpoint, new / "model"))
    return run


@pytest.mark.parametrize("name", ["state.json", "model/model.safetensors", "manifest.json"])
def test_a_step_folder_is_verified_like_a_run(tiny_checkpoint, tmp_path, name):
    step = run_with_steps(tiny_checkpoint, tmp_path) / "step_00000002"
    load_model(step)
    flip(step / name, -3)
    with pytest.raises(UserError, match="is damaged"):
        load_model(step)
    load_model(tmp_path / "step_00000001")


def test_a_run_of_damaged_checkpoints_does_not_begin_again(tmp_path):
    for step in (1, 2):
        flip(save_checkpoint(tmp_path, step, {}, {"step": step}, 0) / "state.json", 3)
    with pytest.raises(UserError, match="--restart"), pytest.warns(UserWarning, match="not usable"):
        checkpoint_to_resume(tmp_path)
    assert len(list(tmp_path.glob("step_*"))) == 2
    with pytest.warns(UserWarning, match="moved to damaged_step_00000002, and the run begins again"):
        assert checkpoint_to_resume(tmp_path, restart=True) is None
    assert sorted(path.name for path in tmp_path.iterdir()) == ["damaged_step_00000001", "damaged_step_00000002"]
    assert checkpoint_to_resume(tmp_path) is None  # Nothing is left to resume.
    (tmp_path / "model").mkdir()
    with pytest.raises(UserError, match="but it has a model"):
        checkpoint_to_resume(tmp_path)
    (tmp_path / "model").rmdir()
    newest = save_checkpoint(tmp_path, 3, {}, {}, 0)
    assert checkpoint_to_resume(tmp_path, restart=True) == newest


@pytest.mark.parametrize(
    "bad", [b"\0\0\0\n", b"{}\n", b"[1]\n", b'{"global_step": "2"}\n', b"[" * 100_000 + b"\n", b"\xff\n"]
)
def test_a_damaged_trace_is_set_aside(tmp_path, bad):
    lines = [json.dumps({"global_step": step}).encode() + b"\n" for step in range(4)]
    path = tmp_path / "losses.jsonl"
    path.write_bytes(b"".join([*lines[:2], bad, *lines[2:]]))
    with pytest.warns(UserWarning, match="moved to damaged_losses.jsonl"):
        cut_trace(path, 4)
    assert path.read_bytes() == b"".join(lines[:2]) and bad in (tmp_path / "damaged_losses.jsonl").read_bytes()
    cut_trace(path, 1)
    assert path.read_bytes() == lines[0]


# --- exports


def export(*words: object) -> int:
    return story_generative_model.main(["export", *map(str, words)])


def test_an_export_replaces_no_card_and_no_foreign_file(model, tmp_path, capsys):
    out = tmp_path / "out"
    assert export("--ckpt", model, "--output", out) == 0
    (out / "README.md").write_text("My own card.")
    (out / "notes.txt").write_text("mine")
    assert export("--ckpt", model, "--output", out) == 0
    assert (out / "README.md").read_text() == "My own card."
    load_model(out)
    (out / "config.json").write_text("{}")
    assert export("--ckpt", model, "--output", out) == 2
    assert "config.json was not written by this program" in capsys.readouterr().err
    assert (out / "config.json").read_text() == "{}"
    assert sorted(path.name for path in out.iterdir()) == sorted([*FILES, MANIFEST, "README.md", "notes.txt"])


def test_a_model_is_not_exported_onto_itself(model, tmp_path, capsys):
    (model / "README.md").write_text("My own card.")
    before = {path: path.read_bytes() for path in model.iterdir()}
    assert export("--ckpt", model, "--output", model) == 2
    assert "the model that is exported" in capsys.readouterr().err
    assert before == {path: path.read_bytes() for path in model.iterdir()}
    assert export("--ckpt", model, "--lora", tmp_path / "lora") == 2
    assert "no LoRA" in capsys.readouterr().err and not (tmp_path / "lora").exists()


def test_a_card_of_a_user_is_not_replaced_by_an_evaluation(model, capsys):
    (model / "README.md").write_text("My own card.")
    assert story_generative_model.main(["evaluate", "--ckpt", str(model), "--card", "--num_stories", "2"]) == 2
    assert "README.md was not written by this program" in capsys.readouterr().err
    assert (model / "README.md").read_text() == "My own card."


def test_saved_weights_follow_the_umask(tiny_checkpoint, tiny_judge, tmp_path):
    before = os.umask(0o027)
    try:
        tiny_judge.save(tmp_path / "judge")
        assert export("--ckpt", tiny_checkpoint, "--output", tmp_path / "out") == 0
        save_checkpoint(tmp_path / "run", 1, {"model": {"a": torch.zeros(3)}}, {}, 0)
    finally:
        os.umask(before)
    files = [file for file in tmp_path.rglob("*") if file.is_file() and file.name != ".lock"]
    assert len(files) > 10 and {file.stat().st_mode & 0o777 for file in files} == {0o640}


def test_missing_updates_of_a_trace_are_told(tmp_path):
    path = tmp_path / "losses.jsonl"
    path.write_text("".join(json.dumps({"global_step": step}) + "\n" for step in (0, 1, 4, 5, 6)))
    with pytest.warns(UserWarning, match="lacks 2 of the 6 updates so far, the first of them 2"):
        cut_trace(path, 6)
    assert len(path.read_text().splitlines()) == 4
    path.unlink()
    with pytest.warns(UserWarning, match="lacks 3 of the 3 updates"):
        cut_trace(path, 3)
