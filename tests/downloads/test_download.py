"""The command that writes the story world as a folder."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

import download_data
from modules.data.folder import open_split
from modules.storyworld import StoryWorld

REPOSITORY = Path(__file__).resolve().parents[2]


def download(*arguments) -> int:
    try:
        return download_data.main([str(argument) for argument in arguments])
    except SystemExit as exit:
        return exit.code


def test_download_writes_both_splits(tmp_path):
    assert (
        download(
            "storyworld",
            "--stories",
            4,
            "--val-stories=2",
            "--seed",
            3,
            "--image-size",
            32,
            "--output",
            tmp_path / "my-data",
        )
        == 0
    )
    train, val = open_split(tmp_path / "my-data", "train"), open_split(tmp_path / "my-data", "val")
    story = StoryWorld(2, 3, split="val", image_size=32)[1]
    assert (len(train), len(val), train[0].steps[0].image.size) == (4, 2, (32, 32))
    assert (val[1].id, val[1].prompt, [step.text for step in val[1].steps]) == (
        story.id,
        story.prompt,
        [step.text for step in story.steps],
    )
    assert val[1].steps[0].image.tobytes() == story.steps[0].image.tobytes()
    assert sorted(path.name for path in (tmp_path / "my-data").iterdir()) == ["train", "val"]


def test_download_refuses_to_overwrite(tmp_path, capsys):
    arguments = ("storyworld", "--stories", 1, "--output", tmp_path)
    assert download(*arguments) == 0
    (tmp_path / "train" / "note.txt").write_text("mine")
    assert download(*arguments, "--seed", 1) == 2
    assert "--overwrite" in capsys.readouterr().err and (tmp_path / "train" / "note.txt").exists()
    assert download(*arguments, "--seed", 1, "--overwrite") == 2
    assert "note.txt was not written by this program" in capsys.readouterr().err
    (tmp_path / "train" / "note.txt").unlink()
    assert download(*arguments, "--seed", 1, "--overwrite") == 0
    assert (
        open_split(tmp_path, "train")[0].prompt == StoryWorld(1, 1)[0].prompt and len(open_split(tmp_path, "val")) == 1
    )
    assert sorted(path.name for path in tmp_path.iterdir()) == ["train", "val"]


def test_ctrl_c_changes_nothing(tmp_path, monkeypatch, capsys):
    assert download("storyworld", "--stories", 1, "--output", tmp_path) == 0

    def interrupt(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(StoryWorld, "__getitem__", interrupt)
    assert download("storyworld", "--stories", 5, "--output", tmp_path, "--overwrite") == 130
    assert "interrupted" in capsys.readouterr().err
    assert len(open_split(tmp_path, "train")) == 1 and sorted(path.name for path in tmp_path.iterdir()) == [
        "train",
        "val",
    ]


@pytest.mark.parametrize(
    "arguments",
    [
        ("nowhere",),
        ("storyworld", "--stories", "0"),
        ("storyworld", "--stories", "many"),
        ("storyworld", "--seed", "-1"),
        ("storyworld", "--image_size", "5"),
        ("storyworld", "--colour", "red"),
        ("storyworld", "--output", __file__),
    ],
)
def test_bad_input_is_one_sentence(arguments, capsys):
    assert download(*arguments) == 2
    captured = capsys.readouterr()
    assert captured.err.count("\n") == 1 and "Traceback" not in captured.err and captured.out == ""


def test_help_imports_nothing_heavy():
    code = "import sys, download_data\ntry: download_data.main(['storyworld', '--help'])\nexcept SystemExit: pass\n"
    code += "assert not {'torch', 'numpy', 'rich', 'tokenizers'} & set(sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], cwd=REPOSITORY, capture_output=True, timeout=60).returncode == 0
