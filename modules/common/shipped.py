"""Files that come with the program: the trained weights, the judge and the known architectures."""

from __future__ import annotations

import os
from pathlib import Path

WEIGHTS, JUDGE, ARCHITECTURES = "checkpoints/storyworld", "checkpoints/judge", "assets/architectures"
_MODULES = Path(__file__).parents[1]
# Where they are: in the repository, or in the installed package.
_ROOTS = (_MODULES.parent, _MODULES / "_shipped")


def shipped(path: str | Path) -> Path:
    """Return `path` as it is if it exists or is not shipped, else the shipped folder of that name.

    So the default checkpoint is found from any working directory.
    """
    path = Path(path)
    if os.path.exists(path) or path.as_posix() not in (WEIGHTS, JUDGE, ARCHITECTURES):
        return path
    return next((root / path for root in _ROOTS if (root / path).exists()), path)
