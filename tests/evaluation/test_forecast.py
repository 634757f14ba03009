"""`evaluate`, `analyze` and `ablate` say at their start how long they will take."""

from __future__ import annotations

import re
import time

import pytest

import story_generative_model
from modules.common.progress import duration, hidden_progress, seconds_of, track
from modules.evaluation import forecast
from modules.evaluation.forecast import forecast_analysis, forecast_evaluation
from modules.storyworld import StoryWorld

SAID = re.compile(r"^about (.+) in all, as measured on the first items$", re.M)


@pytest.fixture(scope="module")
def world() -> StoryWorld:
    return StoryWorld(40, split="val", image_size=32)


def test_a_piece_of_work_is_timed_when_it_is_warm():
    naps = iter((0.2, 0.05))
    assert 0.05 <= seconds_of(lambda: time.sleep(next(naps))) < 0.2


def test_no_progress_is_shown_of_a_trial(capsys):
    with hidden_progress():
        assert list(track("a trial", [1, 2])) == [1, 2]
    assert capsys.readouterr().err == ""
    assert list(track("the work", [1])) == [1]
    assert "the work 1/1" in capsys.readouterr().err


def test_more_stories_and_pictures_take_longer(tiny_pipeline, world, capsys):
    def seconds(num_stories: int, num_drawn: int) -> float:
        return forecast_evaluation(tiny_pipeline, world, num_stories, num_drawn, 0)

    assert forecast_evaluation(tiny_pipeline, world, 3, 3, 0) is None
    assert 3 * seconds(8, 0) < seconds(400, 0)
    assert seconds(8, 0) < seconds(8, 8)
    assert 2 * forecast_analysis(tiny_pipeline, world, 4, 0) < forecast_analysis(tiny_pipeline, world, 400, 0)
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize(
    "words",
    [
        ["evaluate", "--num_stories", "4", "--num_drawn", "0"],
        ["analyze", "--num_stories", "2"],
        ["ablate", "--steps", "2", "--strength", "1", "--cfg", "1,2", "--num_examples", "2"],
    ],
    ids=lambda words: words[0],
)
def test_the_commands_say_it_before_their_work(tiny_checkpoint, tmp_path, capsys, monkeypatch, words):
    monkeypatch.setattr(forecast, "SMALLEST", 1)
    words = [*words, "--ckpt", str(tiny_checkpoint)]
    words += [] if words[0] == "evaluate" else ["--output", str(tmp_path)]
    assert story_generative_model.main(words) == 0
    err = capsys.readouterr().err
    (said,) = SAID.findall(err)
    assert re.fullmatch(r"\d+ (s|min|h \d+ min)", said) and duration(90) == "2 min"
    first = err.splitlines()[0]
    assert SAID.match(first) or (words[0] == "ablate" and "planning the next pages" in first)
