"""A machine that fails: one line, exit code 2, nothing half-written taken for whole, and the same command goes on."""

from __future__ import annotations

import errno
import os
import shutil
import tempfile
from pathlib import Path

import pytest
import torch

from modules.common.faults import MEMORY, fault_of
from tests.faults.children import contents, in_child, killed_before, largest_file, memory, open_files, without_rights
from tests.faults.conftest import NAMES

VARYING = ("events.out.tfevents",)  # Named after the time.
SMALL = {"stats": 100, "view": 100}  # Bytes that a full disk still takes.


def whole(files: dict[str, bytes]) -> dict[str, bytes]:
    return {name: content for name, content in files.items() if not any(word in name for word in VARYING)}


@pytest.mark.parametrize(
    ("error", "words"),
    [
        (OSError(errno.ENOSPC, "No space left on device", "a/b"), "a/b: No space left on device: make room"),
        (OSError(errno.EMFILE, "Too many open files"), "ulimit -n"),
        (PermissionError(errno.EACCES, "Permission denied", "x"), "x: Permission denied: change its permissions"),
        (MemoryError(), MEMORY),
        (torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB"), MEMORY),
        (RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 9 bytes"), MEMORY),
        (Exception("Error while serializing: I/O error: No space left (os error 28)"), "make room"),
    ],
)
def test_faults_of_the_machine_are_told_with_what_to_do(error, words):
    assert words in str(fault_of(error)) and "--batch_size" in MEMORY and "--dry_run" in MEMORY


def test_errors_of_the_program_are_no_faults_of_the_machine():
    assert [fault_of(error) for error in (ValueError("x"), RuntimeError("shape"), KeyError("a"))] == [None] * 3


@pytest.mark.slow
@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("size", [0, 600])
def test_full_disk(writings, tmp_path, name, size):
    words, output = writings[name].at(tmp_path)
    line = in_child(words, largest_file(min(size, SMALL.get(name, size)))).line()
    assert "File too large" in line or "disk" in line or "space" in line
    assert whole(contents(output)).keys() <= writings[name].whole.keys()
    ended = in_child(words)
    assert ended.code == 0, ended.error
    assert whole(contents(output)) == whole(writings[name].whole)


@pytest.mark.slow
@pytest.mark.parametrize("name", NAMES)
def test_read_only_folder(writings, name):
    with tempfile.TemporaryDirectory(dir="/tmp") as folder:
        os.chmod(folder, 0o555)
        words, output = writings[name].at(Path(folder))
        line = in_child(words, without_rights).line()
        assert str(folder) in line and not output.exists()


@pytest.mark.slow
@pytest.mark.parametrize("name", NAMES)
def test_too_few_open_files(writings, tmp_path, name):
    words, output = writings[name].at(tmp_path)
    ended = in_child(words, open_files(1))
    if ended.code:  # A command may need no more than that.
        assert "Too many open files" in ended.line()
        ended = in_child(words)
    assert ended.code == 0, ended.error
    assert whole(contents(output)) == whole(writings[name].whole)


@pytest.mark.slow
def test_too_little_memory(writings, tmp_path):
    words, _ = writings["train"].at(tmp_path)
    assert MEMORY in in_child([*words, "--batch_size", "4096"], memory(20 << 20)).line()


@pytest.mark.slow
@pytest.mark.parametrize("step", [3, pytest.param(1, marks=pytest.mark.exhaustive)], ids=["every third", "every"])
@pytest.mark.parametrize("name", [name for name in NAMES if name != "train"])
def test_killed_before_a_change_of_a_name(writings, tmp_path, name, step):
    """The first run is killed before its first change, the next before a later one, and so on until one ends."""
    for number in range(0, 200, step):
        folder = tmp_path / str(number)
        folder.mkdir()
        words, output = writings[name].at(folder)
        ended = in_child(words, killed_before(number))
        if ended.code == 0:
            break
        assert ended.code < 0, ended.error
        before = contents(output)
        again = in_child(words)
        if again.code:  # Only where all was done but for tidying up.
            assert before == writings[name].whole and again.line(), (number, again.error)
        assert whole(contents(output)) == whole(writings[name].whole), number
        shutil.rmtree(folder)
    assert number > 0
