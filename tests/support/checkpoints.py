"""Small checkpoints, and what happens to their files."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import torch

from modules.saving.checkpoint import save_checkpoint

ROOT = Path(__file__).resolve().parents[2]


def save(run_dir: Path, step: int, keep_last: int = 0, **kwargs) -> Path:
    tensors = {"model": {"weight": torch.full((64,), float(step))}}
    return save_checkpoint(run_dir, step, tensors, {"step": step, "loss": 0.1}, keep_last, **kwargs)


def steps(run_dir: Path) -> list[str]:
    return sorted(path.name for path in run_dir.iterdir())


def raw(tensor: torch.Tensor) -> bytes:
    return bytes(tensor.detach().clone(memory_format=torch.contiguous_format).untyped_storage())


def flip_bit(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)


def run_python(code: str, *arguments: Path) -> subprocess.CompletedProcess:
    return subprocess.run(
        [sys.executable, "-c", code, *map(str, arguments)], cwd=ROOT, capture_output=True, text=True, check=False
    )
