"""What the tests of the text decoder share."""

from __future__ import annotations

import pytest

from tests.support.language_models import write_language_models


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """The folders of small language models, by family."""
    return write_language_models(tmp_path_factory.mktemp)
