"""Weights and configurations that ship with the program, found from any folder and after any kind of installation."""

from __future__ import annotations

from pathlib import Path

MODULES = Path(__file__).parents[1]


def shipped(relative: str) -> Path:
    """Return a shipped folder, such as `checkpoints/judge`, of the repository or of the installed package."""
    in_repository = MODULES.parent / relative
    return in_repository if in_repository.is_dir() else MODULES / "_shipped" / relative


def local_or_shipped(relative: str) -> Path:
    """Return the folder `relative` as it is where the current folder contains it, otherwise the shipped one."""
    return Path(relative) if Path(relative).is_dir() else shipped(relative)
