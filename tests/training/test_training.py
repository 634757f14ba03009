"""Resuming: killed, stopped and separated runs end like an uninterrupted one; two processes train like one."""

from __future__ import annotations

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from itertools import accumulate
from pathlib import Path

import pytest
import torch

from modules.common import interrupts
from modules.common.interrupts import stop_on_signals
from modules.encoded import codes
from modules.encoded.stories import EncodedStories
from modules.saving.checkpoint import latest_checkpoint
from modules.saving.model_folder import resolve_model_folder
from modules.training import trainer
from modules.training.monitor import cut_trace
from modules.training.phases import ConsolidationPhase, JointPhase, OpeningPhase
from tests.faults.children import in_child
from tests.support.runs import (
    END,
    JOINT_END,
    JOINT_START,
    LENGTHS,
    OPENING_START,
    events,
    fails,
    outcome,
    state_of,
    tensors_at,
    trace,
    train,
    words,
)

ROOT = Path(__file__).parents[2]


# Killed, stopped, cut into phases: the same run


@pytest.fixture
def start() -> Iterator[Callable[..., subprocess.Popen]]:
    """Start python in the project's folder; whatever still runs at the end of the test is killed."""
    processes = []

    def call(*argv: str, **environment: object) -> subprocess.Popen:
        variables = os.environ | {"OMP_NUM_THREADS": "1"} | {name: str(value) for name, value in environment.items()}
        options = {"stdout": subprocess.DEVNULL, "stderr": subprocess.PIPE, "text": True}
        processes.append(subprocess.Popen([sys.executable, *argv], cwd=ROOT, env=variables, **options))
        return processes[-1]

    yield call
    for process in processes:
        process.kill()
        process.communicate()


def test_a_killed_run_ends_like_an_uninterrupted_one(reference, tmp_path, monkeypatch):
    """Killed in the middle of an update of two phases and of an epoch, and again where a phase ends; sampling is off,
    and changes nothing.
    """
    for phase, step, start in ((OpeningPhase, 1, OPENING_START), (JointPhase, 4, JOINT_START)):
        with monkeypatch.context() as patch:
            signal_at(patch, phase, step, signal.SIGKILL)
            assert in_child(["story", *words(tmp_path)]).code == -signal.SIGKILL
        assert state_of(tmp_path)["global_step"] < len(trace(tmp_path)) == start + step  # Some updates were lost.
    with monkeypatch.context() as patch:
        signal_at(patch, ConsolidationPhase, 0, signal.SIGKILL)
        assert in_child(["story", *words(tmp_path)]).code == -signal.SIGKILL
    assert state_of(tmp_path)["done"] == ["autoencoder", "opening", "joint"]
    assert train(tmp_path) == 0
    assert outcome(tmp_path) == outcome(reference)
    logged = events(tmp_path)
    for (name, length), end in zip(LENGTHS.items(), accumulate(LENGTHS.values()), strict=True):
        start = end - length
        assert [event.step for event in logged.Scalars(f"{name}/loss")] == list(range(start, end))


def signal_at(monkeypatch: pytest.MonkeyPatch, phase: type, step: int, number: int) -> None:
    """Let this process get a signal in the middle of an update."""
    loss = phase.loss

    def signalled(self, module, at, part, num_parts):
        if (at, part) == (step, 1):
            os.kill(os.getpid(), number)
        return loss(self, module, at, part, num_parts)

    monkeypatch.setattr(phase, "loss", signalled)


def test_signals_save_after_the_step_and_the_run_is_resumed(reference, tmp_path, monkeypatch, capsys):
    handler = signal.getsignal(signal.SIGINT)
    for phase, step, number, code, done in (
        (OpeningPhase, 1, signal.SIGINT, 130, OPENING_START + 2),
        (JointPhase, 4, signal.SIGTERM, 143, JOINT_START + 5),
        (ConsolidationPhase, 1, signal.SIGINT, 130, JOINT_END + 2),
    ):
        with monkeypatch.context() as patch:
            signal_at(patch, phase, step, number)
            assert train(tmp_path) == code
        assert (
            capsys.readouterr()
            .err.splitlines()[-1]
            .startswith(f"stopped by {number.name}; saved {tmp_path}/step_{done:08d};")
        )
        assert len(trace(tmp_path)) == state_of(tmp_path)["global_step"] == done
        assert signal.getsignal(signal.SIGINT) is handler
    assert not (tmp_path / "model").exists()
    assert train(tmp_path) == 0
    assert outcome(tmp_path) == outcome(reference)


@pytest.mark.slow
@pytest.mark.parametrize("work", ["_append", "steps"])
def test_a_signal_stops_the_encoding_of_stories_at_once(reference, tmp_path, monkeypatch, capsys, work):
    """Stories while they are encoded before the second phase, and their codes before the consolidation."""
    call, calls = getattr(EncodedStories, work), []

    def signalled(self, *args):
        calls.append(args)
        if len(calls) == 3:
            os.kill(os.getpid(), signal.SIGTERM)
        return call(self, *args)

    with monkeypatch.context() as patch:
        patch.setattr(EncodedStories, work, signalled)
        patch.setattr(codes, "BATCH_SIZE", 8)  # The steps of the few stories here are otherwise one batch.
        assert train(tmp_path) == 143
    assert len(calls) == 3
    newest = latest_checkpoint(tmp_path)
    assert capsys.readouterr().err.splitlines()[-1].startswith(f"stopped by SIGTERM; saved {newest};")
    assert train(tmp_path) == 0
    assert outcome(tmp_path) == outcome(reference)


def test_a_signal_before_the_first_checkpoint_says_so(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(trainer, "build_model", lambda *_args, **_options: os.kill(os.getpid(), signal.SIGTERM))
    assert train(tmp_path) == 143
    assert capsys.readouterr().err.splitlines()[-1] == "stopped by SIGTERM; the same command starts again"


def test_a_second_signal_ends_the_program_and_an_echo_does_not(monkeypatch):
    with stop_on_signals() as stop:
        signal.raise_signal(signal.SIGINT)
        signal.raise_signal(signal.SIGTERM)
        assert stop == [signal.SIGINT]
        monkeypatch.setattr(interrupts, "ECHO_SECONDS", 0.0)
        with pytest.raises(SystemExit) as ended:
            signal.raise_signal(signal.SIGTERM)
    assert ended.value.code == 143


def test_phases_by_separate_commands_are_the_whole_run(reference, tmp_path, capsys):
    assert "--phases opening needs a finished autoencoder phase" in fails(capsys, tmp_path, "--phases", "opening")
    assert "--phases joint needs a finished autoencoder phase" in fails(capsys, tmp_path, "--phases", "joint")
    for phase in LENGTHS:
        assert train(tmp_path, "--phases", phase) == 0
    assert outcome(tmp_path) == outcome(reference)


def test_a_finished_run_only_gets_its_missing_model_folder(reference, tmp_path):
    folder = shutil.copytree(reference, tmp_path / "run")
    shutil.rmtree(folder / "model")
    assert train(folder) == 0
    assert outcome(folder) == outcome(reference)


def test_an_incomplete_line_is_removed_from_the_trace(tmp_path):
    path = tmp_path / "losses.jsonl"
    cut_trace(path, 0)
    assert path.read_bytes() == b""
    lines = [f'{{"global_step": {step}}}\n' for step in range(3)]
    for torn in ("", '{"global_step": 3', '{"glo'):
        path.write_text("".join(lines) + torn)
        cut_trace(path, 5)
        assert path.read_text() == "".join(lines)
    cut_trace(path, 2)
    assert path.read_text() == "".join(lines[:2])


def test_generate_uses_the_newest_checkpoint_of_a_run(reference, tmp_path):
    folder = shutil.copytree(reference, tmp_path / "run")
    newest, before = (folder / f"step_{step:08d}" for step in (END, END - LENGTHS["planning"]))
    assert resolve_model_folder(folder) == newest / "model"
    assert resolve_model_folder(newest) == newest / "model"
    (newest / "state.json").write_text("{}")
    with pytest.warns(UserWarning, match="not usable"):
        assert resolve_model_folder(folder) == before / "model"
    for step in folder.glob("step_*"):
        shutil.rmtree(step)
    assert resolve_model_folder(folder) == resolve_model_folder(folder / "model") == folder / "model"


# Two processes


@pytest.mark.slow
def test_two_processes_train_like_one_and_agree(reference, tmp_path, start):
    """Two processes with half the batch each, as torchrun starts them; the second one receives a signal after the codes
    are placed.
    """
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    shared = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port, "WORLD_SIZE": 2, "LOCAL_WORLD_SIZE": 2}
    command = words(tmp_path / "run", "--batch_size", 2)
    processes = [
        start(
            "-m",
            "tests.support.two_processes",
            str(tmp_path / f"{rank}.json"),
            *command,
            RANK=rank,
            LOCAL_RANK=rank,
            **shared,
        )
        for rank in range(2)
    ]
    errors = [process.communicate(timeout=300)[1] for process in processes]
    assert [process.returncode for process in processes] == [0, 0], errors
    first, second = (json.loads((tmp_path / f"{rank}.json").read_text()) for rank in range(2))
    assert first["codes"] == second["codes"] == [143, 0]
    assert first["processes"] == 2
    assert first["printed"].startswith("trained; ") and second["printed"] == ""
    assert first["hashes"] == second["hashes"]
    assert len([name for name in first["hashes"] if "quantizer" in name]) > 3
    for line, expected in zip(trace(tmp_path / "run"), trace(reference), strict=True):
        assert line.pop("phase") == expected.pop("phase")
        norm = line.pop("gradient_norm"), expected.pop("gradient_norm")
        # Sums of floats in another order: where two codes are equally near, now and then the other one is chosen.
        tolerance = 1e-3 if "prior_nll" in expected else 1e-5
        assert line == pytest.approx(expected, rel=tolerance, abs=1e-7)
        assert norm[0] == pytest.approx(norm[1], rel=20 * tolerance)
    books = (tensors_at(folder, END)["storyboard.quantizer.codebook"] for folder in (tmp_path / "run", reference))
    torch.testing.assert_close(*books, atol=1e-3, rtol=0)
