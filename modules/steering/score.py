"""The score of a story with its plan."""

from __future__ import annotations

from modules.generation.pipeline import StoryPipeline
from modules.generation.scoring import StoryScore, score_story
from modules.steering.planned_story import PlannedStory


def score(pipeline: StoryPipeline, story: PlannedStory, seed: int = 0) -> StoryScore:
    """Score a story under the model, see `score_story`."""
    return score_story(pipeline, story.to_output(), seed)
