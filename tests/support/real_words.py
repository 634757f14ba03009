"""The two real models that packages contain: tests that need them are slow, and skipped without the packages."""

from __future__ import annotations

from importlib.metadata import PackageNotFoundError, distribution

import pytest

from modules.presets import MINILM, SMOLLM2


def _installed(source_id: str) -> bool:
    try:
        distribution(source_id.partition(":")[2])
    except PackageNotFoundError:
        return False
    return True


_without = pytest.mark.skipif(not (_installed(SMOLLM2) and _installed(MINILM)), reason="`make words` installs them")


def needs_real_words(test):
    """Mark a test as slow and as one of the real models."""
    return pytest.mark.slow(_without(test))
