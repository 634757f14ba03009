"""How long trainings will take: measured on a few updates, in proportion to their number; nothing is left behind."""

from __future__ import annotations

from dataclasses import replace

import pytest

from modules.presets import TINY
from modules.storyworld import StoryWorld
from modules.training import forecast
from modules.training.settings import TrainSettings


def test_trainings_take_as_long_as_their_updates(tmp_path, monkeypatch):
    stories = StoryWorld(4, image_size=TINY.autoencoder.image_size)
    settings = TrainSettings(output_dir=tmp_path / "run", num_workers=0)
    monkeypatch.setattr(forecast, "SURVEY_STORIES", 4)
    configs = [
        replace(TINY, plan=plan, training=replace(TINY.training, max_steps=steps))
        for plan, steps in (("predicted", 1000), ("predicted", 3000), ("codes", 1000))
    ]
    one, three, planned = (
        forecast.forecast_trainings([configs[0], config], settings, stories, stories) for config in configs
    )
    assert 0 < one < 3600 and three == pytest.approx(2 * one, rel=0.7) and planned > 0.7 * one
    assert not (tmp_path / "run").exists()
