"""Variants of a finished tiny model."""

from __future__ import annotations

from dataclasses import replace

from modules.generation.pipeline import StoryPipeline
from modules.story_model.story_model import StoryModel


def reading_pages_alone(pipeline: StoryPipeline) -> StoryPipeline:
    """Return a copy with the same weights whose decoders read the codes of their own page alone."""
    model = StoryModel(replace(pipeline.config, context="page"))
    weights = {name: value for name, value in pipeline.model.state_dict().items() if ".plan_reader." not in name}
    model.load_state_dict(weights)
    return StoryPipeline(model, pipeline.tokenizer)
