"""Training with the real classes at tiny size: exact to resume, safe to kill, the same by two processes as by one."""

from __future__ import annotations

import dataclasses
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
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from accelerate.state import AcceleratorState
from safetensors.torch import load_file
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

import story_generative_model
from modules import interrupts
from modules.checkpoint import RunLock, flatten_optimizer, latest_checkpoint, load_checkpoint
from modules.config import TINY, StoryConfig, load_config
from modules.data import write_stories
from modules.interrupts import stop_on_signals
from modules.model_folder import resolve_model_folder
from modules.monitor import Monitor, cut_trace
from modules.phases import AutoencoderPhase, ConsolidationPhase, JointPhase, derive_seed
from modules.story import Story, StoryStep
from modules.story_model import StoryModel
from modules.storyworld import StoryWorld
from modules.training import TrainArgs, Trainer
from modules.training import train as train_model

ROOT = Path(__file__).parents[1]
FLAGS = (
    "train", "--preset", "tiny", "--data", "storyworld", "--num_stories", 24, "--max_steps", 12, "--batch_size", 4,
    "--gradient_accumulation_steps", 2, "--save_every", 3, "--log_every", 1,
)  # fmt: skip
LENGTHS = {"autoencoder": 4, "joint": 12, "consolidation": 4}
QUANTIZE_STEP = 6  # Of the joint phase.
JOINT_END = 16
END = 20


def words(folder: Path, *flags: object) -> list[str]:
    return [str(word) for word in (*FLAGS, "--output_dir", folder, *flags)]


def train(folder: Path, *flags: object) -> int:
    """Run the command in this process and return its exit code; a later flag outdoes an earlier one."""
    AcceleratorState._reset_state(reset_partial_state=True)  # It remembers the precision of the process's first training.
    return story_generative_model.main(words(folder, *flags))


def fails(capsys: pytest.CaptureFixture, folder: Path, *flags: object) -> str:
    """Run a command that must fail as a user's mistake does: exit code 2, and one line at the end of stderr, which is returned."""
    assert train(folder, *flags) == 2
    captured = capsys.readouterr()
    assert (captured.out, captured.err.count("error: "), "Traceback" in captured.err) == ("", 1, False)
    return captured.err.splitlines()[-1]


def trace(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / "losses.jsonl").read_text().splitlines()]


def outcome(folder: Path) -> dict[str, bytes]:
    """The trace, the model, and every file of the last step, in bytes."""
    paths = [folder / "losses.jsonl", *(folder / "model").iterdir(), *(folder / f"step_{END:08d}").rglob("*")]
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in paths if path.is_file()}


def tensors_at(folder: Path, step: int) -> dict[str, torch.Tensor]:
    return load_checkpoint(folder / f"step_{step:08d}")[0]["model"]


def state_of(folder: Path) -> dict[str, Any]:
    return load_checkpoint(latest_checkpoint(folder))[1]


def moved(before: dict[str, torch.Tensor], after: dict[str, torch.Tensor]) -> set[str]:
    return {name for name, value in before.items() if not torch.equal(value, after[name])}


@pytest.fixture(scope="module", autouse=True)
def one_thread() -> Iterator[None]:
    """As many threads as the programs that are compared with this process: sums depend on it in the last bit."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)
    AcceleratorState._reset_state(reset_partial_state=True)


@pytest.fixture(scope="module")
def reference(one_thread: None, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run from start to end, with samples on the way; every checkpoint is kept."""
    folder = tmp_path_factory.mktemp("reference")
    assert train(folder, "--sample_every", 4, "--keep_last", 0) == 0
    assert [line["global_step"] for line in trace(folder)] == list(range(END))
    return folder


@pytest.fixture(scope="module")
def scalars(reference: Path) -> EventAccumulator:
    return events(reference)


def events(folder: Path) -> EventAccumulator:
    return EventAccumulator(str(folder / "tensorboard"), size_guidance={"scalars": 0, "images": 0, "tensors": 0}).Reload()


# Killed, stopped, cut into stages: the same run


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
    """Killed in the middle of the joint phase and of an epoch, and again where a phase ends; sampling is off, and changes nothing."""
    command = ("story_generative_model.py", *words(tmp_path))
    lines = tmp_path / "losses.jsonl"
    kill_when(start(*command), lambda: lines.exists() and lines.read_bytes().count(b"\n") >= 9)
    assert state_of(tmp_path)["global_step"] < len(trace(tmp_path)) < JOINT_END  # Some updates were lost.
    kill_when(start(*command), (tmp_path / f"step_{JOINT_END:08d}").exists)
    assert state_of(tmp_path)["done"] == ["autoencoder", "joint"]
    last = start(*command)
    assert (last.communicate(timeout=300)[1].count("error"), last.returncode) == (0, 0)
    assert outcome(tmp_path) == outcome(reference)
    told = events(tmp_path)
    for name, start, end in (("joint", 4, JOINT_END), ("consolidation", JOINT_END, END)):
        assert [event.step for event in told.Scalars(f"{name}/loss")] == list(range(start, end))


def signal_at(monkeypatch: pytest.MonkeyPatch, phase: type, step: int, number: int) -> None:
    """Let this process get a signal in the middle of an update."""
    loss = phase.loss

    def signalled(self, module, at, part, num_parts):
        if (at, part) == (step, 1):
            os.kill(os.getpid(), number)
        return loss(self, module, at, part, num_parts)

    monkeypatch.setattr(phase, "loss", signalled)


def test_signals_finish_the_step_save_and_the_rerun_ends_as_the_uninterrupted_one(reference, tmp_path, monkeypatch, capsys):
    for phase, step, number, code, done in ((JointPhase, 4, signal.SIGTERM, 143, 9), (ConsolidationPhase, 1, signal.SIGINT, 130, 18)):
        with monkeypatch.context() as patch:
            signal_at(patch, phase, step, number)
            assert train(tmp_path) == code
        assert capsys.readouterr().err.splitlines()[-1].startswith(f"stopped by {number.name}; saved {tmp_path}/step_{done:08d};")
        assert len(trace(tmp_path)) == state_of(tmp_path)["global_step"] == done
        assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
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


def test_stages_by_separate_commands_are_the_whole_run(reference, tmp_path, capsys):
    assert "--stages joint needs a finished autoencoder stage" in fails(capsys, tmp_path, "--stages", "joint")
    for stage in LENGTHS:
        assert train(tmp_path, "--stages", stage) == 0
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
    """Two processes with half the batch each, as torchrun starts them; the second one is told to stop after the codes are placed."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    shared = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port, "WORLD_SIZE": 2, "LOCAL_WORLD_SIZE": 2}
    command = words(tmp_path / "run", "--batch_size", 2)
    processes = [
        start("-m", "tests.two_processes", str(tmp_path / f"{rank}.json"), *command, RANK=rank, LOCAL_RANK=rank, **shared)
        for rank in range(2)
    ]  # fmt: skip
    errors = [process.communicate(timeout=300)[1] for process in processes]
    assert [process.returncode for process in processes] == [0, 0], errors
    first, second = (json.loads((tmp_path / f"{rank}.json").read_text()) for rank in range(2))
    assert first["codes"] == second["codes"] == [143, 0]
    assert first["processes"] == 2
    assert first["hashes"] == second["hashes"]
    assert len([name for name in first["hashes"] if "quantizer" in name]) > 3
    for line, expected in zip(trace(tmp_path / "run"), trace(reference), strict=True):
        assert line.pop("phase") == expected.pop("phase")
        norm = line.pop("gradient_norm"), expected.pop("gradient_norm")
        # Sums of floats in another order: where two codes are equally near, now and then the other one is chosen.
        tolerance = 1e-3 if "prior_nll" in expected else 1e-5
        assert line == pytest.approx(expected, rel=tolerance)
        assert norm[0] == pytest.approx(norm[1], rel=20 * tolerance)
    books = (tensors_at(folder, END)["storyboard.quantizer.library._codebook.embed"] for folder in (tmp_path / "run", reference))
    torch.testing.assert_close(*books, atol=1e-3, rtol=0)


# Updates that are not finite


def digest(trainer: Trainer) -> str:
    """Everything that an update may change."""
    state = hashlib.sha256()
    for tensors in (trainer.model.state_dict(), trainer.average.state_dict(), flatten_optimizer(trainer.optimizer)[0]):
        for value in tensors.values():
            state.update(value.detach().numpy().tobytes())
    return state.hexdigest()


def poison(monkeypatch: pytest.MonkeyPatch, kind: str, steps: range | set[int]) -> dict[int, bool]:
    """Make the joint phase's loss or its gradients non-finite at some steps; returns whether anything moved at each step."""
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
        before, step = digest(self), self.step
        update(self, *args)
        changed[step] = digest(self) != before

    monkeypatch.setattr(JointPhase, "loss", poisoned)
    monkeypatch.setattr(Trainer, "_update", recorded)
    return changed


def all_finite(folder: Path) -> bool:
    files = list(folder.rglob("*.safetensors"))
    assert files
    return all(tensor.isfinite().all() for file in files for tensor in load_file(file).values())


def joint_only(reference: Path, max_steps: int) -> tuple:
    return ("--stages", "joint", "--autoencoder", reference, "--max_steps", max_steps, "--save_every", 2, "--keep_last", 0)


@pytest.mark.parametrize("kind", ["loss", "gradient"])
def test_non_finite_update_changes_nothing_and_training_goes_on(reference, tmp_path, monkeypatch, kind):
    bad = {1, 5, 6}  # The codes are placed at step 4.
    changed = poison(monkeypatch, kind, bad)
    assert train(tmp_path, *joint_only(reference, 8)) == 0
    assert {step for step, has_changed in changed.items() if not has_changed} == bad
    lines = trace(tmp_path)
    assert len(lines) == 8
    for name in ("loss", "gradient_norm"):
        expected = bad if (name, kind) != ("loss", "gradient") else set()
        assert {line["step"] for line in lines if line[name] is None} == expected
    state = state_of(tmp_path)
    assert (state["skipped"], state["skipped_in_a_row"]) == (3, 0)
    assert [int(event.value) for event in events(tmp_path).Scalars("skipped_updates")] == [0, 1, 1, 1, 1, 2, 3, 3]
    assert len(list(tmp_path.glob("step_*"))) == 4
    assert all_finite(tmp_path)


def test_ten_non_finite_updates_in_a_row_end_the_run_and_its_checkpoints_are_sound(reference, tmp_path, monkeypatch, capsys):
    changed = poison(monkeypatch, "loss", range(2, 100))
    line = fails(capsys, tmp_path, *joint_only(reference, 30))
    assert line.startswith("error: 10 updates in a row gave a non-finite loss or gradient (last: loss nan, gradient norm nan) at step 11")
    assert "lower --learning_rate" in line
    assert [step for step, has_changed in changed.items() if has_changed] == [0, 1]
    assert state_of(tmp_path)["skipped"] == 8
    assert all_finite(tmp_path)


# Flags


@pytest.fixture(scope="module")
def other_stories(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder that lacks what can be lacking: prompts, texts, pictures; also of the story that samples are made of first."""
    folder = tmp_path_factory.mktemp("stories")
    for split in ("train", "val"):
        world = StoryWorld(8, split=split, image_size=32)
        bare = Story("bare", " ", tuple(StoryStep(step.text) for step in world[0].steps))
        mute = Story("mute", world[1].prompt, tuple(StoryStep(None, step.image) for step in world[1].steps))
        write_stories(folder / split, [bare, mute, *(world[index] for index in range(2, 8))])
    return folder


OTHER_RUNS = {
    "seed": (("--seed", 1), "another seed (0, now 1)"),
    "learning rate": (("--learning_rate", 0.5), "another config.training.learning_rate (0.001, now 0.5)"),
    "number of stories": (("--num_stories", 25), "another config.training.num_stories (24, now 25)"),
    "steps": (("--max_steps", 13), "another config.training.max_steps (12, now 13)"),
    "batch": (("--gradient_accumulation_steps", 4), "another global_batch (8, now 16)"),
    "precision": (("--mixed_precision", "bf16"), "another mixed_precision ('no', now 'bf16')"),
}


@pytest.mark.parametrize("name", OTHER_RUNS)
def test_another_run_on_the_same_folder_is_refused(reference, capsys, name):
    flags, message = OTHER_RUNS[name]
    before = outcome(reference)
    line = fails(capsys, reference, *flags)
    assert message in line
    assert "another --output_dir" in line
    assert outcome(reference) == before


def test_other_data_on_the_same_folder_is_refused(reference, other_stories, capsys):
    assert "another data ('" in fails(capsys, reference, "--data", other_stories)


def test_stories_that_lack_prompts_texts_and_pictures_are_trained_on(other_stories, tmp_path):
    flags = ("--data", other_stories, "--max_steps", 6, "--batch_size", 1, "--gradient_accumulation_steps", 4, "--sample_every", 2)
    assert train(tmp_path, *flags) == 0
    assert all(math.isfinite(line["loss"]) for line in trace(tmp_path))
    told = events(tmp_path)
    assert "stories/2" in told.Tags()["images"]
    assert "stories/0" not in told.Tags()["images"]


def test_autoencoder_without_pictures_is_told(tmp_path, capsys):
    stories = [Story(str(index), "a fox", (StoryStep("A fox."),)) for index in range(8)]
    write_stories(tmp_path / "data/train", stories)
    line = fails(capsys, tmp_path / "run", "--data", tmp_path / "data")
    assert line == "error: the first 8 stories hold no picture to train the autoencoder on: give a trained one with --autoencoder"


def test_autoencoder_of_another_checkpoint_is_used_as_it_is(reference, tiny_checkpoint, tmp_path, capsys):
    flags = ("--stages", "joint", "--max_steps", 1, "--autoencoder")
    assert train(tmp_path, *flags, reference / "model") == 0
    given, used = (load_file(folder / "model/model.safetensors") for folder in (reference, tmp_path))
    assert len([name for name in used if name.startswith("autoencoder.")]) > 20
    assert not [name for name in moved(given, used) if name.startswith("autoencoder.")]
    assert [line["phase"] for line in trace(tmp_path)] == ["joint"]
    capsys.readouterr()
    assert "has another autoencoder than" in fails(capsys, tmp_path, *flags, tiny_checkpoint)
    assert train(tmp_path, *flags, reference) == 0
    capsys.readouterr()
    assert "--autoencoder takes the place" in fails(capsys, tmp_path / "new", "--stages", "autoencoder", "--autoencoder", reference)


def write_config(path: Path, config: StoryConfig = TINY, **sections: dict[str, Any]) -> Path:
    values = json.loads(config.to_json())
    for name, value in sections.items():
        values[name] = values[name] | value if isinstance(value, dict) else value
    path.write_text(json.dumps(values))
    return path


def test_autoencoder_of_another_shape_is_refused(reference, tmp_path, capsys):
    config = write_config(tmp_path / "config.json", autoencoder={"latent_channels": 6})
    assert "has another shape" in fails(capsys, tmp_path / "run", "--config", config, "--autoencoder", reference)


def test_dry_run_prints_a_plan_that_can_be_trained_by_and_writes_nothing(tmp_path, capsys):
    folder, plan = tmp_path / "run", tmp_path / "plan.json"
    assert train(folder, "--dry_run") == 0
    printed = capsys.readouterr().out
    told = json.loads(printed)
    assert list(tmp_path.iterdir()) == []
    counts = {name: sum(p.numel() for p in getattr(StoryModel(TINY), name).parameters()) for name in told["parameters"] if name != "total"}
    assert set(counts) == {"storyboard", "prior", "text_decoder", "image_decoder", "autoencoder"}
    assert {name: told["parameters"][name]["trainable"] + told["parameters"][name]["frozen"] for name in counts} == counts
    assert told["parameters"]["total"] == sum(counts.values())
    for content in (printed, json.dumps(told["config"])):
        plan.write_text(content)
        config = load_config(plan)
        assert config == replace(TINY, training=replace(TINY.training, max_steps=12))
        assert train(folder, "--config", plan, "--preset", "storyworld", "--learning_rate", 0.5, "--dry_run") == 0
        assert json.loads(capsys.readouterr().out)["config"] == told["config"] | {
            "training": told["config"]["training"] | {"learning_rate": 0.5}
        }
    assert not folder.exists()


UNBUILDABLE = {
    "storyboard's heads": ({"storyboard": {"dim": 33}}, "dim 33 is not a multiple of num_heads 2"),
    "prior's heads": ({"prior": {"dim": 6}}, "heads of an even width"),
    "text decoder's heads": ({"text_decoder": {"dim": 33}}, "describes no model that can be built"),
    "groups": ({"image_decoder": {"norm_num_groups": 3}}, "describes no model that can be built"),
    "picture size": ({"autoencoder": {"image_size": 36}}, "image_size 36 is not a multiple of 8"),
    "patches": ({"storyboard": {"patch_size": 3}}, "patch_size 3 does not divide"),
    "vocabulary": ({"vocab_size": -1}, "describes no model that can be built"),
    "batch": ({"training": {"batch_size": 0}}, "training.batch_size must be 1 or more, got 0"),
    "quantised never": ({"training": {"quantize_at": 1.0}}, "training.quantize_at must be from 0 to below 1, got 1.0"),
}


@pytest.mark.parametrize("name", UNBUILDABLE)
def test_config_that_cannot_be_built_is_told(tmp_path, capsys, name):
    sections, message = UNBUILDABLE[name]
    config = write_config(tmp_path / "config.json", **sections)
    flags = ("train", "--config", config, "--output_dir", tmp_path / "run")
    for more in ((), ("--dry_run",)):
        AcceleratorState._reset_state(reset_partial_state=True)
        assert story_generative_model.main([str(word) for word in (*flags, *more)]) == 2
        captured = capsys.readouterr()
        assert captured.out == ""
        assert len(captured.err.splitlines()) == 1
        assert captured.err.startswith("error: ")
        assert message in captured.err
    assert not list(tmp_path.glob("run/[!.]*"))


@pytest.mark.parametrize("stages", ["joint,autoencoder", "autoencoder,sleep", "joint,joint", ","])
def test_stages_out_of_order_are_refused(tmp_path, capsys, stages):
    assert "--stages must be some of autoencoder,joint,consolidation, in this order" in fails(capsys, tmp_path, "--stages", stages)


def test_fp16_without_a_gpu_is_told(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    line = fails(capsys, tmp_path, "--mixed_precision", "fp16")
    assert line == "error: --mixed_precision fp16 needs a GPU; on a CPU use bf16 or no"
    assert list(tmp_path.iterdir()) == []


def test_bf16_trains_and_keeps_its_weights_in_float32(reference, tmp_path):
    flags = ("--stages", "joint,consolidation", "--autoencoder", reference, "--max_steps", 4, "--mixed_precision", "bf16")
    assert train(tmp_path, *flags) == 0
    lines = trace(tmp_path)
    assert [line["phase"] for line in lines] == ["joint"] * 4 + ["consolidation"]
    assert all(math.isfinite(line["loss"]) for line in lines)
    assert all_finite(tmp_path)
    kinds = {value.dtype for value in load_checkpoint(latest_checkpoint(tmp_path))[0]["model"].values() if value.is_floating_point()}
    assert kinds == {torch.float32}


def test_second_training_on_a_folder_is_refused(tmp_path, capsys):
    with RunLock(tmp_path):
        assert f"Another process is training into {tmp_path}" in fails(capsys, tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == [".lock"]


# Phases


def test_each_phase_moves_what_it_trains_and_nothing_else(reference):
    torch.manual_seed(derive_seed(0, "weights"))
    model = StoryModel(TINY)
    steps = (4, JOINT_END, END)
    states = [model.state_dict(), *(tensors_at(reference, step) for step in steps)]
    changes = {name: moved(*pair) for name, pair in zip(LENGTHS, zip(states, states[1:], strict=False), strict=True)}
    parameters = {name for name, _ in model.named_parameters(remove_duplicate=False)}
    autoencoder = {name for name in states[0] if name.startswith("autoencoder.")}
    storyboard = {name for name in states[0] if name.startswith("storyboard.")}
    statistics = {"autoencoder.latent_mean", "autoencoder.latent_std"}
    assert changes["autoencoder"] == parameters & autoencoder | statistics
    assert changes["joint"] & parameters == parameters - autoencoder
    codebook = changes["joint"] - parameters
    assert codebook < storyboard
    assert {"storyboard.quantizer.active", "storyboard.quantizer.library._codebook.embed"} <= codebook
    assert changes["consolidation"] == parameters - autoencoder - storyboard


def test_codes_are_placed_exactly_at_quantize_at_and_move_until_consolidation(reference):
    for line in trace(reference):
        quantised = line["phase"] == "consolidation" or line["step"] >= QUANTIZE_STEP
        assert ("prior_nll" in line) == (quantised and line["phase"] != "autoencoder")
        assert ("commitment_loss" in line) == (quantised and line["phase"] == "joint")
    first = 4 + QUANTIZE_STEP
    assert [tensors_at(reference, step)["storyboard.quantizer.active"].item() for step in (first, first + 3)] == [False, True]
    books = [tensors_at(reference, step)["storyboard.quantizer.library._codebook.embed"] for step in (first + 3, JOINT_END, END)]
    assert not torch.equal(books[0], books[1])
    assert torch.equal(books[1], books[2])


def test_learning_rate_warms_up_and_falls_in_every_phase(scalars):
    rates = [event.value for event in scalars.Scalars("learning_rate")]
    assert len(rates) == END
    start = 0
    for length, peak in zip(LENGTHS.values(), (1e-3, 1e-3, 5e-4), strict=True):
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
        *(f"gradient_norm/{name}" for name in factors), "learning_rate", "skipped_updates", "codebook/used", "codebook/perplexity",
        "held_out/text_nll_swap_gap", "held_out/diffusion_loss_swap_gap", "held_out/text_nll_null_gap", "held_out/prior_nll",
        "speed/pictures_per_second", "speed/tokens_per_second", "autoencoder/psnr_db",
    }  # fmt: skip
    assert promised <= set(tags["scalars"])
    assert {"reconstructions", "stories/0", "stories/1", "stories/2"} <= set(tags["images"])
    assert {f"stories/{index}/text_summary" for index in range(3)} <= set(tags["tensors"])
    told = [event.value for event in scalars.Scalars("joint/text_nll")]
    assert told == pytest.approx([line["text_nll"] for line in lines if line["phase"] == "joint"], rel=1e-6)
    assert all(math.isfinite(event.value) for tag in tags["scalars"] for event in scalars.Scalars(tag))
    assert len(scalars.Images("reconstructions")) == 5  # Every 4th update of 4 + 12 + 4.
    image = scalars.Images("stories/0")[0]
    assert (image.height, image.width % 32) == (32, 0)


def test_a_part_of_a_batch_gets_what_the_whole_batch_would_give_it():
    """The autoencoder's loss: the mean over the parts is the same, however stories of different lengths are cut into parts."""
    torch.manual_seed(0)
    source = StoryWorld(24, image_size=32)
    model = StoryModel(TINY)
    options = {"num_steps": 4, "learning_rate": 1e-3, "global_batch": 8, "seed": 0}
    phase = AutoencoderPhase(model, source, source.lengths, **options)
    step = next(step for step in range(100) if len({source.lengths[index] for index in phase.order[step]}) > 1)
    with torch.no_grad():
        losses = []
        for num_parts in (1, 2, 8):
            outputs = [phase.loss(phase.module, step, part, num_parts) for part in range(num_parts)]
            losses.append({name: sum(output.losses[name].item() for output in outputs) / num_parts for name in outputs[0].losses})
    assert losses[1] == pytest.approx(losses[0], rel=1e-5)
    assert losses[2] == pytest.approx(losses[0], rel=1e-5)


def test_memory_does_not_grow(tmp_path, monkeypatch):
    """Over 60 updates of the joint phase, the codes placed early: as many live tensors, and as much memory."""
    counts, sizes, record = {}, {}, Monitor.update

    def measured(self, phase, step, *rest):
        record(self, phase, step, *rest)
        if step in (20, 40, 59):
            gc.collect()
            counts[step] = sum(issubclass(type(thing), torch.Tensor) for thing in gc.get_objects())
            sizes[step] = int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE") / 2**20

    monkeypatch.setattr(Monitor, "update", measured)
    AcceleratorState._reset_state(reset_partial_state=True)
    training = replace(TINY.training, max_steps=60, autoencoder_ratio=0.0, quantize_at=0.1, batch_size=2)
    source = StoryWorld(12, image_size=32)
    args = TrainArgs(output_dir=tmp_path, stages=("autoencoder", "joint"), save_every=25)
    train_model(dataclasses.replace(TINY, training=training), args, source, source)
    assert counts[59] <= counts[40] <= counts[20] + 10
    assert sizes[59] < sizes[20] + 24
