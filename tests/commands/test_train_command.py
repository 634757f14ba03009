"""Flags, errors and output of the train command; runs at tiny size with the real classes."""

from __future__ import annotations

import json
import math
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from modules.common.errors import UserError
from modules.common.folder_lock import FolderLock
from modules.config import load_config
from modules.data.writing import write_stories
from modules.image_decoder.autoencoder import PictureAutoencoder
from modules.presets import TINY
from modules.saving.checkpoint import latest_checkpoint, load_checkpoint
from modules.story import Story, StoryStep
from modules.story_model.story_model import StoryModel
from modules.storyworld import StoryWorld
from modules.training.processes import forgotten_precision, make_accelerator
from modules.training.settings import TrainSettings
from modules.training.state import check_same_run
from tests.support.runs import all_finite, events, fails, moved, outcome, trace, train, write_config


@pytest.fixture(scope="module")
def other_stories(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder that lacks what can be lacking: prompts, texts, pictures; also of the story that samples are made of
    first.
    """
    folder = tmp_path_factory.mktemp("stories")
    for split in ("train", "val"):
        world = StoryWorld(8, split=split, image_size=32)
        bare = Story("bare", " ", tuple(StoryStep(step.text) for step in world[0].steps))
        mute = Story("mute", world[1].prompt, tuple(StoryStep(None, step.image) for step in world[1].steps))
        write_stories(folder / split, [bare, mute, *(world[index] for index in range(2, 8))])
    return folder


OTHER_RUNS = {
    "seed": (("--seed", 1), "another seed (0, now 1)"),
    "learning rate": (("--learning_rate", 0.5), "another config.training.learning_rate (0.001, now 0.5)"),
    "number of stories": (("--num_stories", 25), "another config.training.num_stories (24, now 25)"),
    "steps": (("--max_steps", 8), "another config.training.max_steps (9, now 8)"),
    "batch": (("--gradient_accumulation_steps", 4), "another global_batch (8, now 16)"),
    "precision": (("--mixed_precision", "bf16"), "another mixed_precision ('no', now 'bf16')"),
}


@pytest.mark.parametrize("name", OTHER_RUNS)
def test_another_run_on_the_same_folder_is_refused(reference, capsys, name):
    flags, message = OTHER_RUNS[name]
    before = outcome(reference)
    line = fails(capsys, reference, *flags)
    assert message in line
    assert "another --output_dir" in line
    assert outcome(reference) == before


def test_other_data_on_the_same_folder_is_refused(reference, other_stories, capsys):
    assert "another data ('" in fails(capsys, reference, "--data", other_stories)


def test_a_setting_newer_than_a_run_counts_as_its_default(tmp_path):
    values = json.loads(TINY.to_json())
    del values["storyboard"]["pooling"]
    older, now = {"config": json.dumps(values)}, {"config": TINY.to_json()}
    check_same_run(tmp_path, older, now)
    voting = {"config": replace(TINY, storyboard=replace(TINY.storyboard, pooling="majority_vote")).to_json()}
    with pytest.raises(UserError, match=r"another config.storyboard.pooling \('queries', now 'majority_vote'\)"):
        check_same_run(tmp_path, older, voting)


@pytest.mark.slow
def test_stories_with_missing_parts_are_trained_on(other_stories, tmp_path):
    flags = (
        "--data",
        other_stories,
        "--max_steps",
        6,
        "--batch_size",
        1,
        "--gradient_accumulation_steps",
        4,
        "--sample_every",
        2,
    )
    assert train(tmp_path, *flags) == 0
    assert all(math.isfinite(line["loss"]) for line in trace(tmp_path))
    logged = events(tmp_path)
    assert "stories/2" in logged.Tags()["images"]
    assert "stories/0" not in logged.Tags()["images"]


def test_an_autoencoder_without_pictures_is_reported(tmp_path, capsys):
    stories = [Story(str(index), "a fox", (StoryStep("A fox."),)) for index in range(8)]
    write_stories(tmp_path / "data/train", stories)
    line = fails(capsys, tmp_path / "run", "--data", tmp_path / "data")
    reason = "the first 8 stories contain no picture to train the autoencoder on: give a trained one with --autoencoder"
    assert line == f"error: {reason}"


def test_autoencoder_of_another_checkpoint_is_used_as_it_is(reference, tiny_checkpoint, tmp_path, capsys):
    flags = ("--phases", "opening,joint", "--max_steps", 1, "--autoencoder")
    assert train(tmp_path, *flags, reference / "model") == 0
    given, used = (load_file(folder / "model/model.safetensors") for folder in (reference, tmp_path))
    assert len([name for name in used if name.startswith("autoencoder.")]) > 20
    assert not [name for name in moved(given, used) if name.startswith("autoencoder.")]
    assert [line["phase"] for line in trace(tmp_path)] == ["opening", "joint"]
    capsys.readouterr()
    assert "has another autoencoder than" in fails(capsys, tmp_path, *flags, tiny_checkpoint)
    assert train(tmp_path, *flags, reference) == 0
    capsys.readouterr()
    assert "--autoencoder replaces the only phase" in fails(
        capsys, tmp_path / "new", "--phases", "autoencoder", "--autoencoder", reference
    )


def test_autoencoder_of_a_model_with_other_parts_is_used(reference, tmp_path):
    config = write_config(tmp_path / "config.json", storyboard={"codebook_dim": 16}, prior={"num_layers": 2})
    flags = ("--config", config, "--phases", "opening", "--max_steps", 1, "--autoencoder", reference)
    assert train(tmp_path / "run", *flags) == 0
    given, used = (load_file(folder / "model/model.safetensors") for folder in (reference, tmp_path / "run"))
    names = [name for name in given if name.startswith("autoencoder.")]
    assert len(names) > 20 and all(torch.equal(given[name], used[name]) for name in names)
    assert given["storyboard.to_slots.weight"].shape != used["storyboard.to_slots.weight"].shape


def test_autoencoder_of_another_shape_is_refused(reference, tmp_path, capsys):
    config = write_config(tmp_path / "config.json", autoencoder={"image_size": 64})
    assert "has another shape" in fails(capsys, tmp_path / "run", "--config", config, "--autoencoder", reference)


def test_dry_run_prints_a_usable_config_and_writes_nothing(tmp_path, capsys):
    folder, plan = tmp_path / "run", tmp_path / "plan.json"
    flags = ("--dry_run", "--phases", "joint")
    assert train(folder, *flags) == 0
    printed = capsys.readouterr().out
    report = json.loads(printed)
    assert list(tmp_path.iterdir()) == []
    model = StoryModel(TINY)
    counts = {
        name: sum(p.numel() for p in getattr(model, name).parameters())
        for name in report["parameters"]
        if name != "total"
    }
    assert set(counts) == {"storyboard", "prior", "text_decoder", "image_decoder", "aids", "autoencoder"}
    assert {
        name: report["parameters"][name]["trainable"] + report["parameters"][name]["frozen"] for name in counts
    } == counts
    assert report["parameters"]["total"] == sum(counts.values())
    for content in (printed, json.dumps(report["config"])):
        plan.write_text(content)
        config = load_config(plan)
        assert config == replace(TINY, training=replace(TINY.training, max_steps=9))
        assert train(folder, "--config", plan, "--preset", "storyworld", "--learning_rate", 0.5, *flags) == 0
        assert json.loads(capsys.readouterr().out)["config"] == report["config"] | {
            "training": report["config"]["training"] | {"learning_rate": 0.5}
        }
    assert not folder.exists()


UNBUILDABLE = {
    "storyboard's heads": ({"storyboard": {"dim": 33}}, "dim 33 is not a multiple of num_heads 2"),
    "prior's heads": ({"prior": {"dim": 6}}, "heads of an even width"),
    "text decoder's heads": ({"text_decoder": {"dim": 33}}, "describes no model that can be built"),
    "groups": ({"image_decoder": {"norm_num_groups": 3}}, "describes no model that can be built"),
    "picture size": ({"autoencoder": {"image_size": 36}}, "image_size 36 is not a multiple of 8"),
    "patches": ({"storyboard": {"patch_size": 3}}, "patch_size 3 does not divide"),
    "vocabulary": ({"vocab_size": -1}, "vocab_size must be from 1 to 16777216, got -1"),
    "batch": ({"training": {"batch_size": 0}}, "training.batch_size must be from 1 to 65536, got 0"),
    "quantised never": ({"training": {"quantize_at": 1.0}}, "training.quantize_at must be from 0 to below 1, got 1.0"),
}


@pytest.mark.parametrize("name", UNBUILDABLE)
def test_a_config_that_cannot_be_built_is_reported(tmp_path, capsys, name):
    sections, message = UNBUILDABLE[name]
    config = write_config(tmp_path / "config.json", **sections)
    for flags in ((), ("--dry_run",)):
        line = fails(capsys, tmp_path / "run", "--config", config, *flags)
        assert line.startswith("error: ") and message in line
    assert not list(tmp_path.glob("run/[!.]*"))


@pytest.mark.parametrize("phases", ["joint,autoencoder", "joint,text", "autoencoder,sleep", "joint,joint", ","])
def test_phases_out_of_order_are_refused(tmp_path, capsys, phases):
    assert (
        "--phases must be some of autoencoder,opening,joint,consolidation,writing,illustration,planning, in this order"
        in fails(capsys, tmp_path, "--phases", phases)
    )


def test_a_phase_of_ratio_0_is_left_out(reference, tmp_path, capsys):
    none = {
        "max_steps": 2,
        "opening_ratio": 0,
        "consolidation_ratio": 0.5,
        "writing_ratio": 0,
        "illustration_ratio": 0,
        "planning_ratio": 0,
    }
    config = write_config(tmp_path / "config.json", training=none)
    assert train(tmp_path / "run", "--config", config, "--max_steps", 2, "--autoencoder", reference) == 0
    assert [line["phase"] for line in trace(tmp_path / "run")] == ["joint", "joint", "consolidation"]
    capsys.readouterr()
    line = fails(capsys, tmp_path / "other", "--config", config, "--phases", "planning", "--autoencoder", reference)
    assert line.startswith(
        "error: this config trains nothing in planning: name some of autoencoder,joint,consolidation by --phases"
    )
    config = write_config(tmp_path / "config.json", training=none | {"autoencoder_ratio": 0})
    assert "autoencoder_ratio is 0: give a trained autoencoder by --autoencoder" in fails(
        capsys, tmp_path / "other", "--config", config
    )


def test_validation_stories_may_be_absent_and_not_damaged(other_stories, tmp_path, capsys):
    data = shutil.copytree(other_stories, tmp_path / "data")
    (data / "val" / "stories.jsonl").write_text("{no record\n")
    assert "val/stories.jsonl line 1" in fails(capsys, tmp_path / "run", "--data", data)
    shutil.rmtree(data / "val")
    assert train(tmp_path / "run", "--data", data, "--phases", "autoencoder", "--max_steps", 1, "--batch_size", 1) == 0
    assert "no validation stories" in capsys.readouterr().err


def test_fp16_without_a_gpu_is_reported(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    line = fails(capsys, tmp_path, "--mixed_precision", "fp16")
    assert line == "error: --mixed_precision fp16 needs a GPU; on a CPU use auto, bf16 or no"
    assert list(tmp_path.iterdir()) == []


@pytest.mark.slow
def test_auto_precision_is_what_this_machine_computes_fast(tmp_path, monkeypatch, capsys):
    for fast, expected in ((True, "bf16"), (False, "no")):
        monkeypatch.setattr("modules.common.precision.has_fast_bf16", lambda fast=fast: fast)
        assert train(tmp_path / "run", "--dry_run", "--phases", "joint", "--mixed_precision", "auto") == 0
        assert json.loads(capsys.readouterr().out)["run"]["mixed_precision"] == expected
    monkeypatch.setattr("modules.training.processes.has_fast_bf16", lambda: False)
    message = "this machine emulates bfloat16, slowly: --mixed_precision auto takes float32 here"
    with forgotten_precision(), pytest.warns(UserWarning, match=message):
        make_accelerator(TrainSettings(tmp_path, mixed_precision="bf16"))


def test_bf16_trains_and_keeps_its_weights_in_float32(reference, tmp_path):
    flags = (
        "--phases",
        "opening,joint,consolidation",
        "--autoencoder",
        reference,
        "--max_steps",
        2,
        "--mixed_precision",
        "bf16",
    )
    assert train(tmp_path, *flags) == 0
    lines = trace(tmp_path)
    assert [line["phase"] for line in lines] == ["opening", "joint", "joint", "consolidation"]
    assert all(math.isfinite(line["loss"]) for line in lines)
    assert all_finite(tmp_path)
    kinds = {
        value.dtype
        for value in load_checkpoint(latest_checkpoint(tmp_path))[0]["model"].values()
        if value.is_floating_point()
    }
    assert kinds == {torch.float32}


def test_every_phase_computes_in_the_asked_for_precision(tmp_path, monkeypatch):
    """Also when its module was prepared for an earlier phase, which accelerate does not expect."""
    seen = []
    for model in (PictureAutoencoder, StoryModel):
        forward = model.forward

        def spied(self, *inputs, forward=forward):
            seen.append(torch.is_autocast_enabled("cpu"))
            return forward(self, *inputs)

        monkeypatch.setattr(model, "forward", spied)
    assert train(tmp_path, "--max_steps", 2, "--mixed_precision", "bf16") == 0
    assert seen == [True] * 2 * len(trace(tmp_path))  # Two micro-batches an update.
    assert len({line["phase"] for line in trace(tmp_path)}) == 7


def test_second_training_on_a_folder_is_refused(tmp_path, capsys):
    with FolderLock(tmp_path):
        assert f"another process is writing into {tmp_path}" in fails(capsys, tmp_path)
    assert list(tmp_path.iterdir()) == []
