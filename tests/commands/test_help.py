"""--help of every command, and the program as a process of its own."""

from __future__ import annotations

import dataclasses
import re
import resource
import subprocess
import sys
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
SHOW_HELP = """
import sys, {script}
try: {script}.main(sys.argv[1:])
except SystemExit as stop: print(stop.code, *sys.modules, file=sys.stderr)
"""


def child_seconds() -> float:
    """CPU seconds of the child processes that have ended."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


@pytest.mark.parametrize(
    ("script", "command"),
    [
        ("story_generative_model", ""),
        *(("story_generative_model", name) for name in story_generative_model.COMMANDS),
        ("download_data", ""),
        *(("download_data", name) for name in (*data_cli.COMMANDS, *SOURCES)),
    ],
)
def test_help_is_quick_and_explains_every_flag(script, command):
    before = child_seconds()
    code = [sys.executable, "-c", SHOW_HELP.format(script=script), *([command] if command else []), "--help"]
    shown = subprocess.run(code, capture_output=True, text=True, cwd=ROOT, timeout=120)
    assert child_seconds() - before < 1.0
    status, *loaded = shown.stderr.split()
    assert status == "0" and HEAVY.isdisjoint(loaded)
    assert shown.stdout.startswith(f"usage: {' '.join([f'{script}.py', command]).strip()} ")
    entries = re.split(r"^  (?=-)", shown.stdout, flags=re.MULTILINE)[1:]
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
        timeout=120,
    )


def test_program_prints_a_story_or_one_error(tiny_checkpoint, tmp_path):
    flags = ("--prompt", PROMPT, "--num_steps", 1, "--num_inference_steps", 2, "--output", tmp_path / "out")
    good = program("generate", *flags, "--ckpt", tiny_checkpoint)
    assert (good.returncode, good.stdout[:3]) == (0, "1. ")
    assert len(good.stderr.splitlines()) == 1
    bad = program("generate", *flags, "--ckpt", tmp_path)
    assert (bad.returncode, bad.stdout) == (2, "")
    assert [line[:7] for line in bad.stderr.splitlines()] == ["error: "]
