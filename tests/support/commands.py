"""Runs of story_generative_model.py, and the files that they write."""

from __future__ import annotations

from pathlib import Path

import pytest

import story_generative_model

ROOT = Path(__file__).parents[2]
PROMPT = "Rusty the fox wants a kite"
FILES = [
    "book.html",
    "generated.png",
    "manifest.json",
    "page_01.png",
    "page_02.png",
    "raw/page_01.png",
    "raw/page_02.png",
    "story.json",
]


def run(*argv: object) -> int:
    """Return the exit code of a command, also if the parser ends the program."""
    try:
        return story_generative_model.main([str(word) for word in argv])
    except SystemExit as stop:
        return stop.code


def files(folder: Path) -> dict[str, bytes]:
    """Return the content of every file below a folder, by relative path."""
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def fails(capsys: pytest.CaptureFixture, *argv: object) -> str:
    """Run a command that must fail with exit code 2, nothing on stdout and one line on stderr; return that line."""
    assert run(*argv) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    (line,) = captured.err.splitlines()
    assert line.startswith("error: ")
    return line
