"""Stories planned in a discrete storyboard. `from modules import StoryPipeline` is what most programs need."""

from __future__ import annotations

from typing import Any


def __getattr__(name: str) -> Any:
    """Import the pipeline, and torch with it, only when it is asked for."""
    if name == "StoryPipeline":
        from modules.generation.pipeline import StoryPipeline

        return StoryPipeline
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
