"""A model cut over two processes, trained by the command as `accelerate launch` starts it with the repository's own
configuration.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from modules.generation.pipeline import StoryPipeline
from tests.support.runs import events, fails, state_of, tensors_at, trace, train
from tests.support.sharded_ranks import FLAGS, KILLED, MIXED

pytestmark = [pytest.mark.slow, pytest.mark.exhaustive]  # Two processes on two cores: two minutes.
ROOT = Path(__file__).parents[2]
LENGTHS = {"autoencoder": 1, "opening": 1, "joint": 4, "consolidation": 1}
JOINT_START, END = 2, sum(LENGTHS.values())
QUANTIZED = JOINT_START + 2


@pytest.fixture(scope="module")
def cut(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folders of `sharded_ranks`."""
    folder = tmp_path_factory.mktemp("cut")
    launch = ["-m", "accelerate.commands.launch", "--config_file", "configs/accelerate/fsdp2.yaml", "--module"]
    command = [sys.executable, *launch, "tests.support.sharded_ranks", str(folder)]
    done = subprocess.run(
        command, cwd=ROOT, env=os.environ | {"OMP_NUM_THREADS": "1"}, capture_output=True, text=True, timeout=900
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return folder


@pytest.fixture(scope="module")
def reports(cut: Path) -> list[dict[str, Any]]:
    return [json.loads((cut / f"{rank}.json").read_text()) for rank in range(2)]


@pytest.fixture(scope="module")
def alone(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same training by one process."""
    folder = tmp_path_factory.mktemp("alone")
    assert train(folder, *FLAGS) == 0
    return folder


def written(folder: Path) -> dict[str, bytes]:
    """The trace, the model, and every file of the last step, in bytes."""
    paths = [folder / "losses.jsonl", *(folder / "model").iterdir(), *(folder / f"step_{END:08d}").rglob("*")]
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in paths if path.is_file()}


def assert_same_losses(lines: list[dict[str, Any]], expected: list[dict[str, Any]], tolerance: float) -> None:
    for line, other in zip(lines, expected, strict=True):
        assert line.pop("phase") == other.pop("phase")
        assert line == pytest.approx(other, rel=tolerance, abs=1e-7)


def test_each_process_holds_half_of_everything(reports):
    assert [report["processes"] for report in reports] == [2, 2]
    for kind in ("weights", "averages"):
        assert sum(report["shares"][kind] for report in reports) == pytest.approx(1)
        assert all(0.4 < report["shares"][kind] < 0.6 for report in reports)
    assert all(report["shares"]["model"] == 0 for report in reports)


def test_losses_and_gradients_are_those_of_one_process(cut, alone):
    lines = trace(cut / "straight")
    assert [line["phase"] for line in lines] == [name for name, length in LENGTHS.items() for _ in range(length)]
    assert_same_losses(lines, trace(alone), 1e-4)


def test_the_model_is_that_of_one_process_and_tells_stories(cut, alone):
    ours, theirs = (tensors_at(folder, END) for folder in (cut / "straight", alone))
    assert {name: (tensor.shape, tensor.dtype) for name, tensor in ours.items()} == {
        name: (tensor.shape, tensor.dtype) for name, tensor in theirs.items()
    }
    apart = {name: (tensor.float() - theirs[name].float()).abs().max().item() for name, tensor in ours.items()}
    assert max(apart.values()) < 2e-4, max(apart, key=apart.get)
    story = StoryPipeline.from_pretrained(cut / "straight")(
        "A fox and a kite", num_steps=2, seed=0, num_inference_steps=2
    )
    assert len(story.texts) == len(story.images) == 2


def test_both_processes_end_with_the_same_model(reports):
    first, second = (report["hashes"] for report in reports)
    assert first == second and len([name for name in first if "quantizer" in name]) > 3


def test_stopped_and_killed_it_ends_as_the_uninterrupted_one(cut, reports):
    assert all(report["codes"] == [0, 143, -9, 0, 0] for report in reports)
    kept = sorted(path.name for path in (cut / "broken").glob("step_*"))
    assert f"step_{JOINT_START + 1:08d}" in kept and f"step_{JOINT_START + KILLED:08d}" not in kept
    assert written(cut / "broken") == written(cut / "straight")


def test_samples_are_drawn_from_the_model_in_pieces(cut):
    logged = events(cut / "straight")
    assert "reconstructions" in logged.Tags()["images"] and "stories/0" in logged.Tags()["images"]
    norms = {name for name in logged.Tags()["scalars"] if name.startswith("gradient_norm/")}
    assert {
        f"gradient_norm/{name}" for name in ("autoencoder", "storyboard", "prior", "text_decoder", "image_decoder")
    } < norms


def test_one_process_goes_on_where_two_were(cut, tmp_path):
    name = f"step_{QUANTIZED:08d}"
    shutil.copytree(cut / "straight" / name, tmp_path / name)
    shares = (
        "--batch_size",
        2,
        "--gradient_accumulation_steps",
        4,
    )  # The parts of a batch stay the same: all are its own now.
    assert train(tmp_path, *FLAGS, *shares, "--phases", "autoencoder,opening,joint") == 0
    assert_same_losses(trace(tmp_path), trace(cut / "straight")[QUANTIZED : JOINT_START + LENGTHS["joint"]], 1e-4)


def test_bf16_is_that_of_one_process(cut, alone, tmp_path):
    assert train(tmp_path, *MIXED) == 0
    mixed, plain = trace(tmp_path), trace(alone)
    assert mixed[-1]["loss"] != pytest.approx(plain[1]["loss"], rel=1e-6)
    assert_same_losses(trace(cut / "mixed"), mixed, 1e-2)
    assert all(tensor.dtype != torch.bfloat16 for tensor in tensors_at(cut / "mixed", JOINT_START).values())
    assert state_of(cut / "mixed")["done"] == ["autoencoder", "opening"]


@pytest.mark.parametrize(
    ("variables", "flags", "expected"),
    [
        (
            ["ACCELERATE_USE_DEEPSPEED"],
            [],
            "does not run under DeepSpeed: shard the model by FSDP2, with configs/accelerate/fsdp2.yaml",
        ),
        (["ACCELERATE_USE_FSDP"], ["--mixed_precision", "fp16"], "fp16 does not work with FSDP: use bf16"),
        (["ACCELERATE_USE_FSDP", "FSDP_OFFLOAD_PARAMS"], [], "fsdp_offload_params is not supported: set it to false"),
    ],
)
def test_what_cannot_be_sharded_is_refused(monkeypatch, capsys, tmp_path, variables, flags, expected):
    for name in variables:
        monkeypatch.setenv(name, "true")
    assert expected in fails(capsys, tmp_path / "run", *flags)
    assert not (tmp_path / "run").exists()
