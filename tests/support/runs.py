"""Runs of the train command at tiny size, and what they leave behind; the run `reference` itself is a fixture of
conftest.py.
"""

from __future__ import annotations

import json
from itertools import accumulate
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

import story_generative_model
from modules.presets import TINY
from modules.saving.checkpoint import latest_checkpoint, load_checkpoint

FLAGS = (
    "train",
    "--preset",
    "tiny",
    "--data",
    "storyworld",
    "--num_stories",
    24,
    "--max_steps",
    9,
    "--batch_size",
    4,
    "--gradient_accumulation_steps",
    2,
    "--save_every",
    3,
    "--log_every",
    1,
)
LENGTHS = {
    "autoencoder": 3,
    "opening": 3,
    "joint": 9,
    "consolidation": 3,
    "writing": 3,
    "illustration": 3,
    "planning": 3,
}
QUANTIZE_STEP = 4  # Of the joint phase.
OPENING_START, JOINT_START, JOINT_END, *_, END = accumulate(LENGTHS.values())


def words(folder: Path, *flags: object) -> list[str]:
    return [str(word) for word in (*FLAGS, "--output_dir", folder, *flags)]


def train(folder: Path, *flags: object) -> int:
    """Run the command in this process and return its exit code; a later flag outdoes an earlier one.

    It has as many threads as the programs that it is compared with: sums depend on it in the last bit.
    """
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        return story_generative_model.main(words(folder, *flags))
    finally:
        torch.set_num_threads(before)


def fails(capsys: pytest.CaptureFixture, folder: Path, *flags: object) -> str:
    """Run a command that must fail as a user's mistake does: exit code 2, and one line at the end of stderr, which is
    returned.
    """
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


def events(folder: Path) -> EventAccumulator:
    return EventAccumulator(
        str(folder / "tensorboard"), size_guidance={"scalars": 0, "images": 0, "tensors": 0}
    ).Reload()


def write_config(path: Path, **sections: Any) -> Path:
    """The tiny preset as a file, with some settings changed."""
    values = json.loads(TINY.to_json())
    for name, value in sections.items():
        values[name] = values[name] | value if isinstance(value, dict) else value
    path.write_text(json.dumps(values))
    return path


def all_finite(folder: Path) -> bool:
    files = list(folder.rglob("*.safetensors"))
    assert files
    return all(tensor.isfinite().all() for file in files for tensor in load_file(file).values())
