"""The noise of the tests of losses."""

from __future__ import annotations

import pytest

from modules.batch import StepNoise
from tests.support.losses import rows, with_noise


@pytest.fixture
def dropping_noise(story_noise) -> StepNoise:
    """Step 0 of story 0 loses its text, step 2 its picture; what the others would lose, they have alone."""
    return with_noise(
        story_noise,
        keep_text=rows(False, True, True, False, True, True),
        keep_image=rows(True, False, False, True, True, True),
    )
