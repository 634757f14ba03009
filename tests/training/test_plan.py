"""Which phases a run trains, decided before anything is built."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from modules.common.errors import UserError
from modules.config import StoryConfig
from modules.presets import PRESETS, TINY
from modules.training.phases import story_phase
from modules.training.plan import plan_phases, trained_phases
from modules.training.settings import PHASE_NAMES, TrainSettings

RUN, OTHER = Path("run"), Path("other")


def with_ratios(**ratios: float) -> StoryConfig:
    return replace(TINY, training=replace(TINY.training, **ratios))


PRETRAINED = replace(TINY, autoencoder=replace(TINY.autoencoder, source="somewhere"))
NO_AUTOENCODER = with_ratios(autoencoder_ratio=0.0)


def test_all_phases_are_trained_in_order_and_only_once():
    assert trained_phases(TINY) == list(PHASE_NAMES) == plan_phases(TINY, TrainSettings(RUN), [])
    assert plan_phases(TINY, TrainSettings(RUN), PHASE_NAMES[:3]) == list(PHASE_NAMES[3:])
    assert plan_phases(TINY, TrainSettings(RUN), PHASE_NAMES) == []


def test_phases_that_train_nothing_are_left_out():
    assert trained_phases(PRETRAINED) == list(PHASE_NAMES[1:])
    assert trained_phases(replace(TINY, plan="prompt")) == list(PHASE_NAMES[:-1])
    assert trained_phases(with_ratios(opening_ratio=0.0, planning_ratio=0.0)) == [
        "autoencoder",
        "joint",
        "consolidation",
        "writing",
        "illustration",
    ]


def test_a_finished_autoencoder_needs_no_phase():
    assert plan_phases(NO_AUTOENCODER, TrainSettings(RUN), ["autoencoder"]) == list(PHASE_NAMES[1:])


def test_a_given_autoencoder_replaces_its_phase():
    settings = TrainSettings(RUN, autoencoder=OTHER)
    assert plan_phases(TINY, settings, []) == list(PHASE_NAMES[1:])
    assert plan_phases(TINY, replace(settings, phases=("autoencoder",)), ["autoencoder"]) == []
    assert plan_phases(NO_AUTOENCODER, settings, []) == list(PHASE_NAMES[1:])


def test_a_phase_may_build_on_one_that_is_done_or_planned():
    settings = TrainSettings(RUN, phases=("opening", "joint"))
    assert plan_phases(TINY, settings, ["autoencoder"]) == ["opening", "joint"]
    assert plan_phases(TINY, settings, ["autoencoder", "opening"]) == ["joint"]


REFUSED = {
    "no autoencoder": (NO_AUTOENCODER, {}, "training.autoencoder_ratio is 0: give a trained autoencoder"),
    "nothing to train": (
        PRETRAINED,
        {"phases": ("autoencoder",)},
        "this config trains nothing in autoencoder: name some of opening,joint,consolidation,writing,illustration,"
        "planning",
    ),
    "autoencoder given and asked for": (
        TINY,
        {"phases": ("autoencoder",), "autoencoder": OTHER},
        "--autoencoder replaces the only phase that --phases asks for",
    ),
    "a phase is missing": (TINY, {"phases": ("joint",)}, "--phases joint needs a finished autoencoder phase in run"),
    "a phase between is missing": (
        TINY,
        {"phases": ("autoencoder", "joint")},
        "--phases joint needs a finished opening phase in run: run that first",
    ),
    "a cache without its autoencoder": (TINY, {"cache": OTHER}, "--cache belongs to the autoencoder"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_impossible_plans_are_refused(name):
    config, settings, message = REFUSED[name]
    with pytest.raises(UserError, match=message):
        plan_phases(config, TrainSettings(RUN, **settings), [])


def test_a_cache_needs_a_finished_autoencoder():
    settings = TrainSettings(RUN, cache=OTHER)
    assert plan_phases(TINY, settings, ["autoencoder"]) == list(PHASE_NAMES[1:])
    assert plan_phases(PRETRAINED, settings, []) == list(PHASE_NAMES[1:])
    assert plan_phases(TINY, replace(settings, autoencoder=OTHER), []) == list(PHASE_NAMES[1:])


@pytest.mark.parametrize("preset", sorted(PRESETS))
def test_every_planned_phase_has_its_class(preset):
    config = PRESETS[preset]
    for name in trained_phases(config):
        assert name == "autoencoder" or story_phase(name, config).name == name


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"save_every": 0}, "save_every must be from 1 to 1000000000, got 0"),
        ({"keep_last": -1}, "keep_last must be from 0 to 1000000000, got -1"),
        ({"seed": 2**63}, "seed must be from 0 to 9223372036854775807, got 9223372036854775808"),
        ({"log_with": "paper"}, "log_with must be one of tensorboard, wandb, all, got 'paper'"),
        ({"mixed_precision": "fp8"}, "mixed_precision must be one of auto, no, bf16, fp16, got 'fp8'"),
        ({"phases": ("joint", "opening")}, "--phases must be some of autoencoder,opening,joint,"),
        ({"phases": ()}, "--phases must be some of"),
    ],
)
def test_settings_out_of_range_are_refused(values, message):
    with pytest.raises(UserError, match=message):
        TrainSettings(RUN, **values)


def test_plan_and_settings_load_no_torch():
    code = "import sys, modules.training.plan; assert 'torch' not in sys.modules and 'transformers' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True)
