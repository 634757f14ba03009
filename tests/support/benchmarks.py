"""The scripts of benchmarks/, which import each other by name, as modules."""

from __future__ import annotations

import importlib
import sys
from pathlib import Path
from types import ModuleType

FOLDER = Path(__file__).parents[2] / "benchmarks"


def load(name: str) -> ModuleType:
    """Return a script of benchmarks/ as a module."""
    if str(FOLDER) not in sys.path:
        sys.path.append(str(FOLDER))  # Last: its `data.py` and others must not hide what tests import.
    return importlib.import_module(name)
