"""Training with the real classes at tiny size: exact to resume, safe to kill, the same by two processes as by one."""

from __future__ import annotations

import gc
import hashlib
import json
import math
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from itertools import accumulate, pairwise
from pathlib import Path

import pytest
import torch
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from modules.common import interrupts
from modules.common.interrupts import stop_on_signals
from modules.layers.seeding import derive_seed
from modules.presets import TINY
from modules.saving.model_folder import resolve_model_folder
from modules.saving.optimizer_state import flatten_optimizer
from modules.story_model import StoryModel
from modules.storyworld import StoryWorld
from modules.training.autoencoder_phase import AutoencoderPhase
from modules.training.monitor import Monitor, cut_trace
from modules.training.phases import ConsolidationPhase, JointPhase, OpeningPhase
from modules.training.trainer import Trainer
from tests.support.runs import (
    END,
    JOINT_END,
    JOINT_START,
    LENGTHS,
    OPENING_START,
    QUANTIZE_STEP,
    all_finite,
    events,
    fails,
    moved,
    outcome,
    state_of,
    tensors_at,
    trace,
    train,
    words,
    write_config,
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


def kill_when(process: subprocess.Popen, happened: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 300
    while not happened():
        assert process.poll() is None
        assert time.monotonic() < deadline
        time.sleep(0.001)
    process.kill()
    assert process.wait() == -signal.SIGKILL


def test_killed_run_ends_as_the_uninterrupted_one(reference, tmp_path, start):
    """Killed in the middle of two phases and of an epoch, and again where a phase ends; sampling is off, and changes
    nothing.
    """
    command = ("story_generative_model.py", *words(tmp_path))
    lines = tmp_path / "losses.jsonl"
    for count, end in ((OPENING_START + 1, JOINT_START), (JOINT_START + 5, JOINT_END)):
        kill_when(start(*command), lambda count=count: lines.exists() and lines.read_bytes().count(b"\n") >= count)
        assert state_of(tmp_path)["global_step"] < len(trace(tmp_path)) < end  # Some updates were lost.
    kill_when(start(*command), (tmp_path / f"step_{JOINT_END:08d}").exists)
    assert state_of(tmp_path)["done"] == ["autoencoder", "opening", "joint"]
    last = start(*command)
    assert (last.communicate(timeout=300)[1].count("error"), last.returncode) == (0, 0)
    assert outcome(tmp_path) == outcome(reference)
    told = events(tmp_path)
    for (name, length), end in zip(LENGTHS.items(), accumulate(LENGTHS.values()), strict=True):
        start = end - length
        assert [event.step for event in told.Scalars(f"{name}/loss")] == list(range(start, end))


def signal_at(monkeypatch: pytest.MonkeyPatch, phase: type, step: int, number: int) -> None:
    """Let this process get a signal in the middle of an update."""
    loss = phase.loss

    def signalled(self, module, at, part, num_parts):
        if (at, part) == (step, 1):
            os.kill(os.getpid(), number)
        return loss(self, module, at, part, num_parts)

    monkeypatch.setattr(phase, "loss", signalled)


def test_signals_finish_the_step_save_and_the_rerun_ends_as_the_uninterrupted_one(
    reference, tmp_path, monkeypatch, capsys
):
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


def test_a_later_second_signal_ends_the_program_and_an_echo_does_not(monkeypatch):
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


def test_finished_run_is_left_as_it_is_but_for_a_missing_model_folder(reference, tmp_path):
    folder = shutil.copytree(reference, tmp_path / "run")
    shutil.rmtree(folder / "model")
    assert train(folder) == 0
    assert outcome(folder) == outcome(reference)


def test_a_line_that_was_not_written_to_its_end_is_cut_off(tmp_path):
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


def test_the_newest_checkpoint_of_a_run_is_generated_with(reference, tmp_path):
    folder = shutil.copytree(reference, tmp_path / "run")
    newest, before = (folder / f"step_{step:08d}" for step in (END, END - 1))
    assert resolve_model_folder(folder) == newest / "model"
    assert resolve_model_folder(newest) == newest / "model"
    (newest / "state.json").write_text("{}")
    with pytest.warns(UserWarning, match="not usable"):
        assert resolve_model_folder(folder) == before / "model"
    for step in folder.glob("step_*"):
        shutil.rmtree(step)
    assert resolve_model_folder(folder) == resolve_model_folder(folder / "model") == folder / "model"


# Two processes


def test_two_processes_train_as_one_and_hold_the_same(reference, tmp_path, start):
    """Two processes with half the batch each, as torchrun starts them; the second one is told to stop after the codes
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


# Updates that are not finite


def digest(trainer: Trainer) -> str:
    """Everything that an update may change."""
    state = hashlib.sha256()
    for tensors in (
        trainer.model.state_dict(),
        trainer.weights.average.state_dict(),
        flatten_optimizer(trainer.weights.optimizer)[0],
    ):
        for value in tensors.values():
            state.update(value.detach().numpy().tobytes())
    return state.hexdigest()


def poison(monkeypatch: pytest.MonkeyPatch, kind: str, steps: range | set[int]) -> dict[int, bool]:
    """Make the joint phase's loss or its gradients non-finite at some steps; returns whether anything moved at each
    step.
    """
    loss, update, changed = JointPhase.loss, Trainer._update, {}

    def poisoned(self, module, step, part, num_parts):
        output = loss(self, module, step, part, num_parts)
        if step in steps and part == 1:
            if kind == "loss":
                output.loss = output.loss * math.nan
            else:
                output.loss.register_hook(lambda gradient: gradient * math.inf)
        return output

    def recorded(self, *args):
        before, step = digest(self), self.state.step
        update(self, *args)
        changed[step] = digest(self) != before

    monkeypatch.setattr(JointPhase, "loss", poisoned)
    monkeypatch.setattr(Trainer, "_update", recorded)
    return changed


@pytest.fixture
def joint(reference: Path, tmp_path: Path) -> Path:
    """A run that has come to the joint phase."""
    name = f"step_{JOINT_START:08d}"
    shutil.copytree(reference / name, tmp_path / name)
    return tmp_path


@pytest.mark.parametrize("kind", ["loss", "gradient"])
def test_non_finite_update_changes_nothing_and_training_goes_on(joint, monkeypatch, kind):
    bad = {1, QUANTIZE_STEP + 1, QUANTIZE_STEP + 2}
    changed = poison(monkeypatch, kind, bad)
    assert train(joint, "--phases", "joint", "--keep_last", 0) == 0
    assert {step for step, has_changed in changed.items() if not has_changed} == bad
    lines = trace(joint)
    assert len(lines) == LENGTHS["joint"]
    for name in ("loss", "gradient_norm"):
        expected = bad if (name, kind) != ("loss", "gradient") else set()
        assert {line["step"] for line in lines if line[name] is None} == expected
    state = state_of(joint)
    assert (state["skipped"], state["skipped_in_a_row"]) == (3, 0)
    assert [int(event.value) for event in events(joint).Scalars("skipped_updates")] == [
        0,
        1,
        1,
        1,
        1,
        1,
        1,
        2,
        3,
        3,
        3,
        3,
    ]
    assert len(list(joint.glob("step_*"))) == 1 + LENGTHS["joint"] // 3
    assert all_finite(joint)


def test_ten_non_finite_updates_in_a_row_end_the_run_and_its_checkpoints_are_sound(joint, monkeypatch, capsys):
    changed = poison(monkeypatch, "loss", range(2, 100))
    line = fails(capsys, joint, "--phases", "joint")
    assert line.startswith(
        "error: 10 updates in a row gave a non-finite loss or gradient (last: loss nan, gradient norm nan) at step 11"
    )
    assert "lower --learning_rate" in line
    assert [step for step, has_changed in changed.items() if has_changed] == [
        0,
        1,
        QUANTIZE_STEP,
    ]  # There the codes are placed.
    assert state_of(joint)["skipped"] == 7
    assert all_finite(joint)


# Phases


@pytest.fixture(scope="module")
def scalars(reference: Path) -> EventAccumulator:
    return events(reference)


def test_each_phase_moves_what_it_trains_and_nothing_else(reference):
    torch.manual_seed(derive_seed(0, "weights"))
    model = StoryModel(TINY)
    ends = accumulate(LENGTHS.values())
    states = [model.state_dict(), *(tensors_at(reference, step) for step in ends)]
    changes = {name: moved(*pair) for name, pair in zip(LENGTHS, pairwise(states), strict=True)}
    parameters = {name for name, _ in model.named_parameters(remove_duplicate=False)}
    autoencoder, storyboard, text_decoder, aids = (
        {name for name in states[0] if name.startswith(f"{part}.")}
        for part in ("autoencoder", "storyboard", "text_decoder", "aids")
    )
    statistics = {"autoencoder.latent_mean", "autoencoder.latent_std"}
    assert changes["autoencoder"] == parameters & autoencoder | statistics
    assert changes["opening"] == parameters & (storyboard | text_decoder | aids) | {"aids.visual_words"}
    assert changes["joint"] & parameters == parameters - autoencoder
    codebook = changes["joint"] - parameters
    assert codebook < storyboard
    assert {"storyboard.quantizer.active", "storyboard.quantizer.codebook"} <= codebook
    assert changes["consolidation"] == parameters - autoencoder - storyboard - aids
    assert changes["planning"] == {name for name in parameters if name.startswith("prior.")}
    assert changes["illustration"] == {name for name in parameters if name.startswith("image_decoder.")}


def test_each_phase_has_its_terms(reference):
    aids = {
        "bag_of_words_loss",
        "bag_of_visual_words_loss",
        "draft_loss",
        "agreement_loss",
        "other_words_loss",
        "other_visual_words_loss",
    }
    terms = {
        "autoencoder": {"reconstruction_loss", "edge_loss", "kl_loss"},
        "opening": {"text_nll"} | aids,
        "joint": {"text_nll", "diffusion_loss"} | aids,
        "consolidation": {"text_nll", "diffusion_loss", "prior_nll"},
        "illustration": {"diffusion_loss"},
        "planning": {"prior_nll"},
    }
    for line in trace(reference):
        quantised = (
            {"prior_nll", "commitment_loss"} if line["phase"] == "joint" and line["step"] >= QUANTIZE_STEP else set()
        )
        assert (
            line.keys() - {"global_step", "phase", "step", "loss", "gradient_norm"} == terms[line["phase"]] | quantised
        )


def test_codes_are_placed_exactly_at_quantize_at_and_move_until_consolidation(reference):
    first = JOINT_START + QUANTIZE_STEP
    assert [tensors_at(reference, step)["storyboard.quantizer.active"].item() for step in (first, first + 3)] == [
        False,
        True,
    ]
    books = [tensors_at(reference, step)["storyboard.quantizer.codebook"] for step in (first + 3, JOINT_END, END)]
    assert not torch.equal(books[0], books[1])
    assert torch.equal(books[1], books[2])


def test_learning_rate_warms_up_and_falls_in_every_phase(scalars):
    rates = [event.value for event in scalars.Scalars("learning_rate")]
    assert len(rates) == END
    start = 0
    for length, peak in zip(LENGTHS.values(), (1e-3, 1e-3, 1e-3, 5e-4, 5e-4, 5e-4), strict=True):
        phase = rates[start : start + length]
        assert phase[0] == pytest.approx(peak)
        assert phase == sorted(phase, reverse=True)
        start += length


def test_tensorboard_shows_what_is_promised(reference, scalars):
    tags = scalars.Tags()
    lines = trace(reference)
    for line in lines:
        for name in line.keys() - {"global_step", "phase", "step", "gradient_norm"}:
            assert f"{line['phase']}/{name}" in tags["scalars"]
    factors = ("autoencoder", "storyboard", "prior", "text_decoder", "image_decoder", "total")
    promised = {
        *(f"gradient_norm/{name}" for name in factors),
        "learning_rate",
        "skipped_updates",
        "codebook/used",
        "codebook/perplexity",
        "held_out/text_nll_swap_gap",
        "held_out/diffusion_loss_swap_gap",
        "held_out/text_nll_null_gap",
        "held_out/prior_nll",
        "speed/pictures_per_second",
        "speed/tokens_per_second",
        "autoencoder/psnr_db",
    }
    assert promised <= set(tags["scalars"])
    assert {"reconstructions", "stories/0", "stories/1", "stories/2"} <= set(tags["images"])
    assert {f"stories/{index}/text_summary" for index in range(3)} <= set(tags["tensors"])
    told = [event.value for event in scalars.Scalars("joint/text_nll")]
    assert told == pytest.approx([line["text_nll"] for line in lines if line["phase"] == "joint"], rel=1e-6)
    assert all(math.isfinite(event.value) for tag in tags["scalars"] for event in scalars.Scalars(tag))
    assert len(scalars.Images("reconstructions")) == 8  # Every 4th update of 4 + 4 + 12 + 4 + 4 + 4.
    image = scalars.Images("stories/0")[0]
    assert (image.height, image.width % 32) == (32, 0)


def test_a_part_of_a_batch_gets_what_the_whole_batch_would_give_it():
    """The autoencoder's loss: the mean over the parts is the same, however stories of different lengths are cut into
    parts.
    """
    torch.manual_seed(0)
    source = StoryWorld(24, image_size=32)
    model = StoryModel(TINY)
    options = {"num_steps": 4, "learning_rate": 1e-3, "global_batch": 8, "seed": 0}
    phase = AutoencoderPhase(model, source, **options)
    step = next(step for step in range(100) if len({source.lengths[index] for index in phase.order[step]}) > 1)
    with torch.no_grad():
        losses = []
        for num_parts in (1, 2, 8):
            outputs = [phase.loss(phase.module, step, part, num_parts) for part in range(num_parts)]
            losses.append(
                {name: sum(output.losses[name].item() for output in outputs) / num_parts for name in outputs[0].losses}
            )
    assert losses[1] == pytest.approx(losses[0], rel=1e-5)
    assert losses[2] == pytest.approx(losses[0], rel=1e-5)


def test_memory_does_not_grow(tmp_path, monkeypatch):
    """Over 60 updates of the joint phase, the codes placed early: as many live tensors, and as much memory."""
    counts, sizes, record = {}, {}, Monitor.update

    def measured(self, phase, state, *rest):
        record(self, phase, state, *rest)
        step = state.step
        if step in (20, 40, 59):
            gc.collect()
            counts[step] = sum(issubclass(type(thing), torch.Tensor) for thing in gc.get_objects())
            sizes[step] = int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE") / 2**20

    monkeypatch.setattr(Monitor, "update", measured)
    config = write_config(
        tmp_path / "config.json", training={"autoencoder_ratio": 0.01, "opening_ratio": 0.0, "quantize_at": 0.1}
    )
    flags = (
        "--phases",
        "autoencoder,opening,joint",
        "--max_steps",
        60,
        "--num_stories",
        12,
        "--batch_size",
        2,
        "--save_every",
        25,
    )
    assert (
        train(tmp_path / "run", "--config", config, *flags, "--gradient_accumulation_steps", 1, "--log_every", 10) == 0
    )
    assert counts[59] <= counts[40] <= counts[20] + 10
    assert sizes[59] < sizes[20] + 24
