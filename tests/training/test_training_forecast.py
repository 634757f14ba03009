"""How long trainings will take: measured on a few updates, in proportion to their number; nothing is left behind."""

from __future__ import annotations

from dataclasses import replace

import pytest

from modules.presets import TINY
from modules.storyworld import StoryWorld
from modules.training import forecast
from modules.training.paced_trainer import PacedTrainer
from modules.training.plan import plan_phases
from modules.training.settings import TrainSettings


@pytest.mark.training
def test_trainings_take_as_long_as_their_updates(tmp_path, monkeypatch):
    stories = StoryWorld(4, image_size=TINY.autoencoder.image_size)
    settings = TrainSettings(output_dir=tmp_path / "run", num_workers=0)
    measured = PacedTrainer._measure

    def an_hour(*arguments) -> tuple[float, float]:
        """Measure an update, of which nothing is certain but that it takes time."""
        seconds, once = measured(*arguments)
        return 3600.0 if seconds > 0 else 0.0, once

    monkeypatch.setattr(forecast, "SURVEY_STORIES", 4)
    monkeypatch.setattr(PacedTrainer, "_measure", an_hour)
    short = replace(TINY, plan="predicted", training=replace(TINY.training, max_steps=10))
    long = replace(short, training=replace(short.training, max_steps=30))
    hours = forecast.forecast_trainings([short, long], settings, stories, stories) / 3600
    updates = [
        config.training.num_updates(name) for config in (short, long) for name in plan_phases(config, settings, [])
    ]
    assert hours == pytest.approx(1.05 * sum(updates), rel=0.05)
    assert not (tmp_path / "run").exists()
