"""A story of four pages with its plan, from the tiny model."""

from __future__ import annotations

import pytest

from modules.generation.pipeline import StoryPipeline
from modules.generation.settings import GenerationSettings
from modules.steering.planned_story import PlannedStory, tell

PROMPT = "Rusty the fox wants a kite"


@pytest.fixture(scope="module")
def story(tiny_pipeline: StoryPipeline) -> PlannedStory:
    return tell(tiny_pipeline, PROMPT, 4, GenerationSettings(seed=1, num_inference_steps=2, temperature=1.0))
