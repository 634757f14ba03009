"""Every mistake of a user is reported in one line, before any work is done."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from tests.support.commands import PROMPT, fails, files

BAD_FLAGS = {
    "empty prompt": (("--prompt", "  "), "prompt is empty"),
    "no prompt": ((), "required: --prompt"),
    "no steps": (("--num_steps", "0"), "--num_steps: must be 1 or more"),
    "negative steps": (("--num_steps", "-3"), "--num_steps: must be 1 or more"),
    "steps in words": (("--num-steps", "x"), "--num_steps: must be a whole number, got 'x'"),
    "too many steps": (("--num_steps", "2000"), "num_steps must be from 1 to 1000"),
    "nan temperature": (("--temperature", "nan"), "temperature must be"),
    "negative temperature": (("--temperature", "-1"), "temperature must be"),
    "top_p": (("--top_p", "2"), "top_p must be"),
    "nan guidance": (("--guidance_scale", "nan"), "guidance_scale must be"),
    "reversed interval": (
        ("--guidance_interval", ".9", ".1"),
        "must be two numbers, the lower one first, got [0.9, 0.1]",
    ),
    "interval out of range": (("--guidance_interval", "0", "2"), "guidance_interval must lie from 0 to 1, got [0.0, 2"),
    "nan interval": (("--guidance_interval", "nan", "1"), "must be two numbers, the lower one first, got [nan, 1.0]"),
    "half an interval": (("--guidance_interval", "0.5"), "--guidance_interval: expected 2 arguments"),
    "interval in words": (("--guidance_interval", "low", "high"), "--guidance_interval: must be a number, got 'low'"),
    "inference steps": (("--num_inference_steps", "1001"), "--num_inference_steps: must be from 1 to 1000, got 1001"),
    "penalty": (("--penalty_alpha", "0.6", "--decoding", "beam"), "penalty_alpha changes greedy decoding only"),
    "seed": (("--seed", str(2**70)), "--seed: must be from 0 to"),
    "no output": (("--output", ""), "--output: must not be empty"),
    "scheduler": (("--scheduler", "magic"), "invalid choice: 'magic'"),
    "unknown flag": (("--colour", "red"), "unrecognized arguments: --colour red"),
    "short flag": (("--prom", "red"), "unrecognized arguments: --prom red"),
}


@pytest.mark.parametrize("name", BAD_FLAGS)
def test_bad_flag_is_reported_before_anything_is_loaded(tmp_path, capsys, name):
    flags, message = BAD_FLAGS[name]
    prompt = () if name in ("no prompt", "empty prompt") else ("--prompt", PROMPT)
    assert message in fails(
        capsys, "generate", *prompt, *flags, "--ckpt", tmp_path / "absent", "--output", tmp_path / "out"
    )
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("interval", [("0.9", "0.1"), ("0", "2"), ("nan", "1"), ("0.5",)])
@pytest.mark.parametrize("command", [("continue", "--story", "absent"), ("illustrate", "--text", "A fox.")])
def test_a_bad_interval_is_reported_by_every_command(tmp_path, capsys, command, interval):
    line = fails(capsys, *command, "--guidance_interval", *interval, "--output", tmp_path / "out")
    assert "guidance_interval" in line and not list(tmp_path.iterdir())


@pytest.mark.parametrize("flags", [("--num_steps", 33), ("--device", "meta"), ("--device", "nonsense")])
def test_limits_of_model_and_machine_are_reported(tiny_checkpoint, tmp_path, capsys, flags):
    assert fails(
        capsys, "generate", "--prompt", "Zorblax", *flags, "--ckpt", tiny_checkpoint, "--output", tmp_path / "out"
    )


def test_unwritable_results_are_not_computed(tiny_checkpoint, tmp_path, capsys):
    (tmp_path / "file").write_text("")
    started = ("--ckpt", tiny_checkpoint, "--num_stories", 2, "--num_drawn", 0)
    assert "cannot write" in fails(capsys, "evaluate", *started, "--json", tmp_path / "file" / "out.json")
    assert "--seed: must be from 0 to" in fails(capsys, "evaluate", *started, "--seed", -1)


@pytest.mark.parametrize("argv", [(), ("conjure",), ("--prompt", "a"), ("caption",), ("illustrate", "--text", " ")])
def test_bad_command_is_reported(capsys, argv):
    assert fails(capsys, *argv)


def edit_config(folder: Path, **values) -> None:
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | values))


BAD_CHECKPOINTS = {
    "absent": (shutil.rmtree, "no checkpoint at"),
    "a file": (lambda folder: (shutil.rmtree(folder), folder.write_text("x")), "is a file, and not a checkpoint"),
    "random files": (
        lambda folder: [(folder / name).unlink() for name in ("config.json", "words.json")],
        "not a checkpoint",
    ),
    "another program": (
        lambda folder: (folder / "config.json").write_text('{"model_type": "gpt2"}'),
        "is not a story model's config",
    ),
    "no JSON": (
        lambda folder: (folder / "config.json").write_bytes(b"\xff\xfe{"),
        "config.json is not a readable config",
    ),
    "newer": (lambda folder: edit_config(folder, format_version=4), "format version 4"),
    "another shape": (lambda folder: edit_config(folder, vocab_size=500), "does not contain this model's weights"),
    "no such shape": (
        lambda folder: edit_config(folder, vocab_size=-1),
        "config.json: vocab_size must be from 1 to 16777216, got -1",
    ),
    "truncated": (
        lambda folder: (folder / "model.safetensors").write_bytes(b"\x08\0\0\0\0\0\0\0{"),
        "model.safetensors does not contain",
    ),
    "no tokenizer": (lambda folder: (folder / "tokenizer.json").unlink(), "tokenizer.json"),
}


@pytest.mark.parametrize("name", BAD_CHECKPOINTS)
def test_bad_checkpoint_is_reported(tiny_checkpoint, tmp_path, capsys, name):
    break_it, message = BAD_CHECKPOINTS[name]
    folder = shutil.copytree(tiny_checkpoint, tmp_path / "model")
    (folder / "manifest.json").unlink()  # With it, any change is called damage.
    break_it(folder)
    assert message in fails(capsys, "generate", "--prompt", PROMPT, "--ckpt", folder, "--output", tmp_path / "out")
    assert not files(tmp_path / "out")


@pytest.mark.parametrize("output", ["file", "file/below"])
def test_unwritable_output_is_reported_before_the_model_loads(tmp_path, capsys, output):
    (tmp_path / "file").write_text("mine")
    line = fails(capsys, "generate", "--prompt", PROMPT, "--ckpt", tmp_path / "absent", "--output", tmp_path / output)
    assert str(tmp_path / output) in line
    assert files(tmp_path) == {"file": b"mine"}


STEP = {"text": "A fox.", "image_path": None}
BAD_STORIES = {
    "absent": (None, "no story at"),
    "no JSON": (b"{", "not valid JSON"),
    "not UTF-8": (b'{"prompt": "\xff"}', "not UTF-8"),
    "a list": ([], "must be an object"),
    "no prompt": ({"steps": [STEP]}, '"prompt" is missing'),
    "empty prompt": ({"prompt": " ", "steps": [STEP]}, "prompt is empty"),
    "no steps": ({"prompt": "a", "steps": []}, "no steps"),
    "empty step": ({"prompt": "a", "steps": [STEP, {"text": " "}]}, "step 2: has neither"),
    "leaves": ({"prompt": "a", "steps": [{"text": "b", "image_path": "../secret.png"}]}, "inside the folder"),
    "no picture": ({"prompt": "a", "steps": [{"text": "b", "image_path": "c.png"}]}, "c.png does not exist"),
    "broken picture": ({"prompt": "a", "steps": [{"text": "b", "image_path": "story.json"}]}, "story.json is broken"),
}


@pytest.mark.parametrize("name", BAD_STORIES)
def test_bad_story_is_reported(tiny_checkpoint, tmp_path, capsys, name):
    content, message = BAD_STORIES[name]
    path = tmp_path / "story.json"
    if content is not None:
        path.write_bytes(content if isinstance(content, bytes) else json.dumps(content).encode())
    line = fails(capsys, "continue", "--story", path, "--ckpt", tiny_checkpoint, "--output", tmp_path / "out")
    assert message in line
    assert str(tmp_path) in line or "prompt is empty" in line
    assert not (tmp_path / "out").exists()


def test_folder_without_a_story_is_reported(tmp_path, capsys):
    assert "neither story.json nor stories.jsonl" in fails(capsys, "continue", "--story", tmp_path)
    (tmp_path / "stories.jsonl").write_text("\n")
    assert "contains no stories" in fails(capsys, "continue", "--story", tmp_path)
