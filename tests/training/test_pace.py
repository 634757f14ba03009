"""Runs of a number of minutes: phases that fit into it, resumed exactly, and repeated from the config they leave."""

from __future__ import annotations

import json
import os
import signal
import time
from dataclasses import replace
from itertools import count
from typing import Any

import pytest

import story_generative_model
from modules.config import load_config
from modules.data.writing import write_stories
from modules.presets import TINY
from modules.storyworld import StoryWorld
from modules.training import paced_trainer
from modules.training.monitor import Monitor
from modules.training.pace import BEFORE_CODES, LONGEST, RESERVE, SMALLEST_BATCH, Pace, later_work
from modules.training.paced_trainer import REPEATS, PacedTrainer
from modules.training.phases import JointPhase
from tests.support.runs import state_of, trace

TRAINING = replace(TINY.training, max_steps=10, opening_ratio=0.5, illustration_ratio=2.0)
PHASES = ("opening", "joint", "illustration")
SECONDS = {"opening": 1.0, "joint": 2.0, "illustration": 0.5}  # 35 seconds, as the config has it.


def new_pace(**values: Any) -> Pace:
    return replace(Pace(minutes=10.0, seconds_per_update=dict(SECONDS), slowdown=1.0), **values)


def test_phases_fill_the_time_as_the_config_has_them():
    usable = 600 * (1 - RESERVE)
    lengths = [new_pace().fit(PHASES[start:], TRAINING, 600.0) for start in range(3)]
    assert lengths == [int(5 * usable / 35), int(10 * usable / 30), int(20 * usable / 10)]
    assert sum(SECONDS[name] * updates for name, updates in zip(PHASES, [5, 10, 20], strict=True)) == 35


def test_no_phase_grows_much_beside_the_joint_one():
    pace = new_pace(updates={"joint": 20})
    assert pace.fit(PHASES[2:], TRAINING, 600.0) == LONGEST * 20 * 2.0
    assert pace.fit(PHASES[2:], TRAINING, 20.0) == int((20 - 600 * RESERVE) / SECONDS["illustration"])


def test_waiting_and_a_slower_machine_shorten_a_phase():
    usable = 600 * (1 - RESERVE)
    busy = new_pace(seconds_before={"opening": 50.0, "illustration": 100.0})  # The first one's is already spent.
    assert busy.fit(PHASES, TRAINING, 600.0) == int(5 * (usable - 100) / 35)
    assert new_pace(slowdown=1.2).fit(PHASES, TRAINING, 600.0) == int(5 * usable / 42)
    pace = new_pace(seconds_before={"joint": 20.0})
    pace.observe_pause("joint", 15.0)
    assert pace.between == 0
    pace.observe_pause("joint", 30.0)
    assert pace.fit(PHASES[1:], TRAINING, 600.0) == int(10 * (usable - 10) / 30)
    assert new_pace().fit(PHASES, TRAINING, -3.0) == 1


def test_texts_that_are_read_once_count_once():
    usable = 600 * (1 - RESERVE)
    pace = new_pace(seconds_within={"joint": 60.0})
    assert pace.fit(PHASES, TRAINING, 600.0) == int(5 * (usable - 60) / 35)
    assert pace.fit(PHASES[1:], TRAINING, 600.0) == int(10 * (usable - 60) / 30)
    assert pace.fit(PHASES[2:], TRAINING, 600.0) == int(20 * usable / 10)
    pace.observe("joint", 10, 82.0)
    assert pace.slowdown == pytest.approx(1.1)


def test_encoding_counts_where_it_is_first_needed():
    pace = new_pace()
    pace.note_encoding(["autoencoder", "opening", "joint", "illustration", "planning"], 5.0, 3.0, 2.0)
    assert pace.seconds_before == {"opening": 5.0, "illustration": 3.0, "planning": 2.0}
    pace = new_pace()
    pace.note_encoding(["planning"], 5.0, 3.0, 2.0)
    assert pace.seconds_before == {"planning": 10.0}


def test_batches_shrink_where_there_is_time_for_few_updates():
    training = replace(TRAINING, batch_size=12)
    for seconds, size in ((600.0, None), (120.0, 12 * 0.34), (20.0, SMALLEST_BATCH)):
        pace = new_pace(minutes=seconds / 60, seconds_before={"illustration": 0.1})
        pace.fit_batch(PHASES, training, seconds)
        assert pace.batch_size == (None if size is None else pytest.approx(size, abs=1))
        share = 1.0 if size is None else pace.batch_size / 12
        assert pace.seconds_per_update == {name: pytest.approx(share * value) for name, value in SECONDS.items()}
        config = pace.resolved(replace(TINY, training=training))
        assert config.training.batch_size == (pace.batch_size or 12)
    alone = new_pace(minutes=0.1)
    alone.fit_batch(("illustration",), training, 6.0)
    assert alone.batch_size is None


@pytest.mark.parametrize(("seconds", "slowdown"), [(22.0, 1.1), (100.0, 1.25), (2.0, 1.0)])
def test_a_phase_shows_how_long_updates_take_within_limits(seconds, slowdown):
    pace = new_pace()
    pace.observe("joint", 10, seconds)
    assert pace.slowdown == pytest.approx(slowdown)


def test_time_left_for_all_scales_with_the_current_phase():
    later = later_work("joint", 10, ["illustration"], TRAINING, SECONDS)
    assert later == pytest.approx(20 * 0.5 / 2.0)
    assert later_work("joint", 30, ["illustration"], TRAINING, SECONDS) == pytest.approx(3 * later)


def run(folder, *flags: object) -> int:
    flags = ("--save_every", 3, "--log_every", 1, "--output_dir", folder, *flags)
    return story_generative_model.main(["train", *map(str, flags)])


@pytest.mark.slow
def test_a_timed_run_is_repeated_by_its_config(tmp_path, monkeypatch, capsys):
    """Interrupted in the joint phase and resumed; the config that it leaves gives the same run without a limit."""
    timed, repeated = tmp_path / "timed", tmp_path / "repeated"
    flags = ("--preset", "tiny", "--batch_size", 4, "--num_stories", 5000, "--max_minutes", "0.1")
    loss, started = JointPhase.loss, time.monotonic()
    monkeypatch.setattr(paced_trainer, "MEASURING_SHARE", 100.0)
    passes = count(-2 * (1 + REPEATS))  # Those before the first update measure how long one takes.

    def stopped(self, module, step, part, num_parts):
        if next(passes) == 0:
            os.kill(os.getpid(), signal.SIGINT)
        return loss(self, module, step, part, num_parts)

    with monkeypatch.context() as patch:
        patch.setattr(JointPhase, "loss", stopped)
        assert run(timed, *flags) == 130
    lengths = state_of(timed)["pace"]["updates"]
    assert capsys.readouterr().err.count("training.batch_size: 2, not 4: more updates in 0.1 minutes") == 1
    assert list(lengths) == ["autoencoder", "opening", "joint"]
    assert run(timed, *flags[:-1], "0.2") == 2
    assert "another max_minutes (0.1, now 0.2)" in capsys.readouterr().err
    assert run(timed, *flags) == 0
    assert time.monotonic() - started < 10 * 60 * 0.1  # Beside other jobs; how exactly it is kept is for a benchmark.
    config = load_config(timed / "model" / "config.json")
    pace = state_of(timed)["pace"]
    assert {name: config.training.num_updates(name) for name in pace["updates"]} == pace["updates"]
    assert {name: pace["updates"][name] for name in lengths} == lengths
    assert config.training.num_stories == pace["num_stories"] < 5000
    assert config.training.batch_size == pace["batch_size"] == 2
    assert run(repeated, "--config", timed / "model" / "config.json") == 0
    assert trace(repeated) == trace(timed)
    for path in (timed / "model").iterdir():
        assert path.read_bytes() == (repeated / "model" / path.name).read_bytes(), path.name
    assert json.loads((timed / "model" / "config.json").read_text())["preset"] == "tiny"


@pytest.mark.slow
@pytest.mark.parametrize(("share", "num_passes"), [(100.0, 2 * (1 + REPEATS)), (0.0, 1)])
def test_a_timed_run_on_a_folder_reads_all_its_stories(tmp_path, monkeypatch, share, num_passes):
    """More of them than are measured before the first phase; where there is no time for more, updates are measured
    once.
    """
    monkeypatch.setattr(paced_trainer, "MEASURING_SHARE", share)
    measured, make_pass = [], PacedTrainer._pass

    def counted(trainer, phase, *args):
        measured.append(phase.name)
        is_before = phase.name in BEFORE_CODES  # Its updates encode the pages themselves.
        assert phase.name == "autoencoder" or (phase.stories.codes is None) == is_before
        return make_pass(trainer, phase, *args)

    monkeypatch.setattr(PacedTrainer, "_pass", counted)
    world = StoryWorld(60, image_size=32)
    for split, indices in (("train", range(4, 60)), ("val", range(4))):
        write_stories(tmp_path / "data" / split, [world[index] for index in indices])
    flags = ("--preset", "tiny", "--batch_size", 4, "--max_minutes", "0.1", "--data", tmp_path / "data")
    assert run(tmp_path / "run", *flags) == 0
    assert state_of(tmp_path / "run")["done"][-1] == "planning"
    assert state_of(tmp_path / "run")["pace"]["num_stories"] is None
    assert measured.count("joint") == measured.count("planning") == num_passes


@pytest.mark.slow
def test_samples_take_little_of_a_timed_run(tmp_path, monkeypatch):
    """One that takes half a second is not made again within ten."""
    sampled = []

    def slow(_monitor, phase, global_step):
        sampled.append((phase.name, global_step))
        time.sleep(0.5)

    monkeypatch.setattr(Monitor, "sample", slow)
    assert run(tmp_path, "--preset", "tiny", "--batch_size", 4, "--max_minutes", "0.1", "--sample_every", 1) == 0
    assert len(sampled) == 1
    assert state_of(tmp_path)["done"][-1] == "planning"


def test_a_time_without_end_is_refused(tmp_path, capsys):
    assert run(tmp_path, "--preset", "tiny", "--max_minutes", "inf") == 2
    assert "max_minutes must be from 0.1 to 100000, got inf" in capsys.readouterr().err


@pytest.mark.slow
def test_a_phase_without_time_of_its_own_is_refused(tmp_path, capsys):
    flags = ("--preset", "tiny", "--batch_size", 4, "--max_minutes", "0.1")
    assert run(tmp_path, *flags, "--phases", "autoencoder,opening") == 0
    assert run(tmp_path, *flags) == 2
    assert "no time was set aside for joint, consolidation" in capsys.readouterr().err


@pytest.mark.slow
def test_stories_that_take_all_the_time_are_refused(tmp_path, monkeypatch, capsys):
    """Of a folder all are encoded: the run would end with one update of each phase, late."""
    survey, world = PacedTrainer._survey, StoryWorld(12, image_size=32)
    for split, indices in (("train", range(2, 12)), ("val", range(2))):
        write_stories(tmp_path / "data" / split, [world[index] for index in indices])
    monkeypatch.setattr(PacedTrainer, "_survey", lambda *args: tuple(1e4 * seconds for seconds in survey(*args)))
    flags = ("--preset", "tiny", "--batch_size", 4, "--max_minutes", "0.2", "--data", tmp_path / "data")
    assert run(tmp_path / "run", *flags) == 2
    assert "encoding 10 stories takes about" in capsys.readouterr().err
