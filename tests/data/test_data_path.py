"""Training from a folder, from shards and from far away: the same order, the same losses, and a run goes on from any of
them.
"""

from __future__ import annotations

import signal
from dataclasses import replace
from pathlib import Path

import fsspec
import pytest

import story_generative_model
from modules.data import pack as packing
from modules.data.pack import pack
from modules.data.shards import StoryShards
from modules.data.writing import write_stories
from modules.presets import TINY
from modules.storyworld import StoryWorld
from modules.training.phases import JointPhase
from tests.support.runs import fails, state_of, trace, train
from tests.support.tiny_presets import tiny_preset
from tests.training.test_training import signal_at

SHORT = (
    "--max_steps",
    3,
    "--save_every",
    100,
    "--sample_every",
    100,
    "--phases",
    "autoencoder,opening,joint,consolidation",
)


def outcome(run: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in (run / "losses.jsonl", *(run / "model").iterdir())}


@pytest.fixture(scope="module")
def forms(tmp_path_factory: pytest.TempPathFactory) -> dict[str, object]:
    """The same stories, some pictures missing, as a folder, as shards, and as shards in fsspec's memory."""
    folder = tmp_path_factory.mktemp("forms")
    world = StoryWorld(14, image_size=32)
    stories = [world[index] for index in range(14)]
    stories[2] = replace(
        stories[2], steps=(stories[2].steps[0], *(replace(step, image=None) for step in stories[2].steps[1:]))
    )
    write_stories(folder / "data" / "train", stories)
    write_stories(folder / "data" / "val", [replace(story, id=f"val-{story.id}") for story in stories[:3]])
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(packing, "ROW_GROUP_BYTES", 20_000)
        pack(folder / "data", folder / "shards", 60_000)
    assert len(list((folder / "shards").glob("train-*"))) > 1
    files = fsspec.filesystem("memory")
    for path in (folder / "shards").iterdir():
        files.pipe_file(f"/forms/{path.name}", path.read_bytes())
    return {"folder": folder / "data", "shards": folder / "shards", "far away": "memory://forms"}


@pytest.fixture(scope="module")
def from_folder(forms, tmp_path_factory: pytest.TempPathFactory) -> Path:
    run = tmp_path_factory.mktemp("run")
    assert train(run, *SHORT, "--data", forms["folder"]) == 0
    return run


def test_the_form_of_the_data_changes_nothing(forms, from_folder, tmp_path):
    assert train(tmp_path, *SHORT, "--data", forms["far away"]) == 0
    assert outcome(tmp_path) == outcome(from_folder)


def test_a_run_goes_on_from_another_form_of_its_data(forms, from_folder, tmp_path, monkeypatch):
    with monkeypatch.context() as patch:
        signal_at(patch, JointPhase, 1, signal.SIGTERM)
        assert train(tmp_path, *SHORT, "--data", forms["folder"]) == 143
    assert (state_of(tmp_path)["phase"], state_of(tmp_path)["step"]) == ("joint", 2)
    assert train(tmp_path, *SHORT, "--data", forms["shards"]) == 0
    assert outcome(tmp_path) == outcome(from_folder)


def test_other_shards_are_refused(from_folder, tmp_path, capsys):
    write_stories(tmp_path / "data" / "train", [StoryWorld(1, image_size=32)[0]])
    pack(tmp_path / "data", tmp_path / "shards", 1 << 20)
    assert "was trained with another data" in fails(capsys, from_folder, *SHORT, "--data", tmp_path / "shards")


# Reading ahead, and not at all


def read_pixels(path: Path) -> Path:
    """A model that reads pixels with every batch, as a config file."""
    config = tiny_preset("captioner", path)
    (path / "captioner.json").write_text(replace(config, training=replace(TINY.training, batch_size=4)).to_json())
    return path / "captioner.json"


@pytest.mark.slow
def test_threads_that_read_ahead_change_nothing(forms, tmp_path, monkeypatch):
    flags = (*SHORT, "--config", read_pixels(tmp_path), "--data", forms["shards"])
    assert train(tmp_path / "none", *flags, "--num_workers", 0) == 0
    with monkeypatch.context() as patch:
        signal_at(patch, JointPhase, 1, signal.SIGTERM)
        assert train(tmp_path / "three", *flags, "--num_workers", 3) == 143
    assert train(tmp_path / "three", *flags, "--num_workers", 3) == 0
    assert outcome(tmp_path / "three") == outcome(tmp_path / "none")


def test_training_with_a_cache_opens_no_picture(forms, from_folder, tmp_path, monkeypatch, capsys):
    data = ("--preset", "tiny", "--data", str(forms["shards"]))
    command = ["precompute", *data, "--ckpt", str(from_folder), "--output", str(tmp_path / "cache")]
    assert story_generative_model.main([*command[:5], *command[7:]]) == 2
    assert "give a checkpoint with a trained one by --ckpt" in capsys.readouterr().err
    assert story_generative_model.main(command) == 0
    flags = (*SHORT, *data, "--phases", "opening,joint,consolidation", "--autoencoder", from_folder)
    assert train(tmp_path / "without", *flags) == 0
    with monkeypatch.context() as patch:
        patch.setattr(StoryShards, "_group", lambda *_: pytest.fail("a picture was opened"))
        assert train(tmp_path / "with", *flags, "--cache", tmp_path / "cache") == 0
    for one, other in zip(trace(tmp_path / "with"), trace(tmp_path / "without"), strict=True):
        assert one.pop("phase") == other.pop("phase")
        assert one == pytest.approx(other, rel=2**-8)
    capsys.readouterr()
    cache = ("--cache", tmp_path / "cache")
    assert "--cache belongs to the autoencoder" in fails(capsys, tmp_path / "new", *SHORT, *data, *cache)
    other_data = fails(capsys, tmp_path / "new", *flags, "--data", "storyworld", *cache)
    assert "was made from other data: run precompute again, or leave --cache out" in other_data
