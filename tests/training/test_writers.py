"""Curves go to TensorBoard, to Weights & Biases, or to both."""

from __future__ import annotations

import sys
from typing import Any

import numpy as np
import pytest

from modules.common.errors import UserError
from modules.training.writers import WandbWriter, check_log_with, open_writers
from tests.support.runs import events, fails, train

SENTENCE = "--log_with wandb needs the package wandb: pip install wandb, or use --log_with tensorboard"


@pytest.mark.parametrize("name", ["wandb", "all"])
def test_a_missing_package_is_reported_before_files_are_written(tmp_path, monkeypatch, capsys, name):
    monkeypatch.setitem(sys.modules, "wandb", None)
    assert fails(capsys, tmp_path, "--log_with", name) == f"error: {SENTENCE}"
    assert list(tmp_path.iterdir()) == []


def test_a_folder_of_that_name_is_not_the_package(tmp_path, monkeypatch):
    """Its runs lie in one, and python would import that where the package is not installed."""
    (tmp_path / "wandb").mkdir()
    monkeypatch.delitem(sys.modules, "wandb", raising=False)
    monkeypatch.setattr(sys, "path", [str(tmp_path)])
    with pytest.raises(UserError, match="pip install wandb"):
        check_log_with("wandb")
    del sys.modules["wandb"]


def test_an_unknown_writer_is_reported():
    with pytest.raises(UserError, match="must be one of tensorboard, wandb, all, got 'paper'"):
        check_log_with("paper")


def test_tensorboard_drops_events_that_are_written_again(tmp_path):
    for start in (0, 2):
        writers = open_writers("tensorboard", tmp_path, start)
        for step in range(start, 4):
            writers.add_scalar("loss", 10 * start + step, step)
        writers.close()
    assert [(event.step, event.value) for event in events(tmp_path).Scalars("loss")] == [
        (0, 0),
        (1, 1),
        (2, 22),
        (3, 23),
    ]
    assert [path.name for path in tmp_path.iterdir()] == ["tensorboard"]


@pytest.fixture
def logged(monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """The last logged value of each name at the end of a wandb run; offline, and only with the package."""
    pytest.importorskip("wandb")
    monkeypatch.setenv("WANDB_MODE", "offline")
    values, close = {}, WandbWriter.close

    def closing(self: WandbWriter) -> None:
        self.flush()
        values.update(self.run.summary)
        close(self)

    monkeypatch.setattr(WandbWriter, "close", closing)
    return values


def test_wandb_gets_curves_pictures_and_texts(tmp_path, logged):
    writers = open_writers("all", tmp_path, 0)
    for step in (4, 5):
        writers.add_scalar("joint/loss", step / 2, step)
    writers.add_image("stories/0", np.zeros((3, 4, 4), np.uint8), 5)
    writers.add_text("stories/0", "A fox.", 5)
    writers.close()
    assert (logged["joint/loss"], logged["stories/0/text"], logged["global_step"]) == (2.5, "A fox.", 5)
    assert logged["stories/0"]["_type"] == "image-file"
    assert len(list(tmp_path.glob("wandb/offline-run-*/*.wandb"))) == 1
    assert len(events(tmp_path).Scalars("joint/loss")) == 2


@pytest.mark.usefixtures("logged")
def test_a_resumed_training_goes_on_in_the_same_wandb_run(tmp_path):
    names = set()
    for start in (0, 2):
        writers = open_writers("wandb", tmp_path, start)
        names.add(writers.writers[0].run.id)
        writers.add_scalar("loss", start, start)
        writers.close()
    assert len(names) == 1 and not (tmp_path / "tensorboard").exists()


def test_a_training_logs_with_wandb(tmp_path, logged, capsys):
    assert train(tmp_path, "--phases", "autoencoder", "--log_with", "all") == 0
    curve = events(tmp_path).Scalars("autoencoder/loss")
    assert logged["autoencoder/loss"] == pytest.approx(curve[-1].value) and logged["global_step"] == curve[-1].step
    assert "wandb" not in capsys.readouterr().out
