"""--help of every command, and the program as a process of its own."""

from __future__ import annotations

import dataclasses
import json
import re
import subprocess
import sys
from functools import cache
from pathlib import Path

import pytest

import story_generative_model
from modules.commands import data_cli
from modules.common.shipped import shipped
from modules.downloads import SOURCES
from modules.generation.settings import GenerationSettings
from tests.support.commands import PROMPT, ROOT, run

HEAVY = {
    "torch",
    "transformers",
    "diffusers",
    "accelerate",
    "peft",
    "matplotlib",
    "numpy",
    "datasets",
    "pyarrow",
    "scipy",
}
COMMANDS = {
    "story_generative_model": ("", *story_generative_model.COMMANDS),
    "download_data": ("", *data_cli.COMMANDS, *SOURCES),
}
# Prints the help of every command, each in a child of its own of a process that imported the program.
SHOW_HELP = """
import io, json, os, sys, time
from contextlib import redirect_stdout
import {script}
started = time.process_time()
for command in json.loads(sys.argv[1]):
    if not (child := os.fork()):
        with redirect_stdout(io.StringIO()) as shown:
            try: {script}.main([*command.split(), "--help"])
            except SystemExit as stop: code = stop.code
        seconds = started + time.process_time()
        print(json.dumps([command, [code, seconds, list(sys.modules), shown.getvalue()]]), flush=True)
        os._exit(0)
    os.waitpid(child, 0)
"""


@cache
def helps(script: str) -> dict[str, tuple[int, float, list[str], str]]:
    """Return of each command of a program: exit code of --help, CPU seconds, modules loaded, and the text."""
    code = [sys.executable, "-c", SHOW_HELP.format(script=script), json.dumps(COMMANDS[script])]
    shown = subprocess.run(code, capture_output=True, text=True, cwd=ROOT, timeout=120, check=True)
    return dict(map(json.loads, shown.stdout.splitlines()))


@pytest.mark.parametrize(("script", "command"), [(script, name) for script in COMMANDS for name in COMMANDS[script]])
def test_help_is_quick_and_explains_every_flag(script, command):
    code, seconds, loaded, text = helps(script)[command]
    assert code == 0 and seconds < 1.0 and HEAVY.isdisjoint(loaded)
    assert text.startswith(f"usage: {' '.join([f'{script}.py', command]).strip()} ")
    entries = re.split(r"^  (?=-)", text, flags=re.MULTILINE)[1:]
    lacking = [entry for entry in entries if not re.search(r"  +\S|\n", entry.strip())]
    assert entries and not lacking


def test_help_lists_the_commands(capsys):
    assert run("--help") == 0
    shown = capsys.readouterr().out
    assert all(re.search(rf"^ +{name}\s", shown, re.MULTILINE) for name in story_generative_model.COMMANDS)


def test_every_generation_setting_is_a_flag(capsys):
    for command in ("generate", "continue", "illustrate"):
        assert run(command, "--help") == 0
        shown = capsys.readouterr().out
        assert all(f"--{field.name} " in shown for field in dataclasses.fields(GenerationSettings))


def test_default_checkpoint_is_found_from_another_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert shipped("checkpoints/storyworld") == ROOT / "checkpoints" / "storyworld"
    assert shipped("checkpoints/run") == Path("checkpoints/run")
    (tmp_path / "checkpoints" / "storyworld").mkdir(parents=True)
    assert shipped("checkpoints/storyworld") == Path("checkpoints/storyworld")


def program(*argv: object) -> subprocess.CompletedProcess:
    return subprocess.run(
        [sys.executable, ROOT / "story_generative_model.py", *map(str, argv)],
        capture_output=True,
        text=True,
        cwd=ROOT,
        timeout=300,
    )


def test_program_prints_a_story_or_one_error(tiny_checkpoint, tmp_path):
    flags = ("--prompt", PROMPT, "--num_steps", 1, "--num_inference_steps", 2, "--output", tmp_path / "out")
    good = program("generate", *flags, "--ckpt", tiny_checkpoint)
    assert (good.returncode, good.stdout[:3]) == (0, "1. ")
    assert len(good.stderr.splitlines()) == 1
    bad = program("generate", "--num_steps", 1)  # Neither --prompt nor --from: told before torch is imported.
    assert (bad.returncode, bad.stdout) == (2, "")
    assert [line[:7] for line in bad.stderr.splitlines()] == ["error: "]
