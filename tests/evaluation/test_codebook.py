"""Codebook analysis: known answers and correct floors."""

from __future__ import annotations

import math
import re

import numpy as np
import pytest

from modules.encoded.stories import EncodedStories
from modules.evaluation.codebook.analysis import plain
from modules.evaluation.codebook.coded_stories import label_steps
from modules.evaluation.codebook.disentanglement import (
    completeness,
    disentanglement,
    disentanglement_metrics,
    information_gap,
)
from modules.evaluation.codebook.information import (
    SlotInformation,
    entropy,
    groups_left_out,
    jensen_shannon,
    perplexity,
    shuffled_rows,
    slot_information,
)
from modules.evaluation.codebook.probes import probe_accuracies
from modules.evaluation.metrics.statistics import jackknife
from modules.storyworld import StoryWorld

LENGTHS = [3, 5, 4, 6] * 25  # 100 stories, 450 steps.
STEPS = sum(LENGTHS)
STORY = np.repeat(np.arange(len(LENGTHS)), LENGTHS)


def rng() -> np.random.Generator:
    return np.random.default_rng(7)


# Entropy and divergence


def test_entropy_and_perplexity_of_known_distributions():
    assert entropy([1, 1, 2]) == pytest.approx(1.5)
    assert perplexity([5] * 8) == pytest.approx(8)
    assert perplexity([9, 0, 0]) == 1
    assert entropy([[1, 1], [0, 0]]).tolist() == [1, 0]


def test_divergence_of_known_distributions():
    assert jensen_shannon([3, 1], [6, 2]) == 0
    assert jensen_shannon([1, 0], [0, 4]) == pytest.approx(1)
    assert jensen_shannon([1, 1], [1, 0]) == pytest.approx(0.311278, abs=1e-6)
    assert jensen_shannon([[1, 0], [1, 1]], [[0, 1], [1, 1]]).tolist() == [1, 0]


# What slots tell


def test_a_slot_that_determines_an_attribute_tells_all_of_it():
    codes = rng().integers(0, 12, size=(STEPS, 2))
    labels = np.stack([codes[:, 0] % 4, codes[:, 1] * 0], axis=1)
    information = slot_information(codes, labels, LENGTHS, num_shuffles=50)
    assert information.bits[0, 0] == pytest.approx(information.entropy[0])
    assert information.share[0, 0] == pytest.approx(1)
    assert information.p_values[0, 0] == pytest.approx(1 / 51)
    assert information.entropy[1] == 0 and information.share[:, 1].tolist() == [0, 0]  # A constant has no entropy.


def test_an_independent_slot_has_no_excess_information():
    codes, labels = rng().integers(0, 60, size=(STEPS, 3)), rng().integers(0, 8, size=(STEPS, 2))[::-1]
    information = slot_information(codes, labels, LENGTHS)
    assert information.bits.min() > 0.4
    assert np.abs(information.excess).max() < 0.08
    assert np.abs(information.share).max() < 0.04
    assert information.p_values.min() > 0.01


def test_the_null_knows_that_steps_of_a_story_are_alike():
    """Codes and labels that never change within a story, drawn apart: a null of single steps would find nearly all
    significant.
    """
    codes, labels = (np.random.default_rng(seed).integers(0, 6, size=(len(LENGTHS), 12))[STORY] for seed in range(2))
    information = slot_information(codes, labels, LENGTHS, num_shuffles=100)
    assert (information.p_values < 0.05).mean() == pytest.approx(0.05, abs=0.05)
    assert abs(information.excess.mean()) < 0.02
    by_step = slot_information(codes, labels, [1] * STEPS, num_shuffles=100)
    assert (by_step.p_values < 0.05).mean() > 0.9


def test_the_null_takes_positions_apart_in_stories_of_one_length():
    position = np.tile(np.arange(5), 40)[:, None]
    assert slot_information(position, position, [5] * 40, num_shuffles=50).share[0, 0] == pytest.approx(1)


def test_shuffled_rows_give_each_story_another_one_whole():
    rows = shuffled_rows(LENGTHS, rng())
    donors = [set(STORY[rows[STORY == story]]) for story in range(len(LENGTHS))]
    assert {len(donor) for donor in donors} == {1}
    assert set.union(*donors) == set(range(len(LENGTHS)))
    longest = max(range(len(LENGTHS)), key=lambda story: LENGTHS[story])
    used = rows[STORY == longest]
    assert len(set(used)) == min(LENGTHS[longest], LENGTHS[STORY[used[0]]])


# Intervals


def test_jackknife_of_a_mean_is_the_usual_interval():
    values = rng().normal(size=40)
    masks = groups_left_out([1] * 40)
    figure = jackknife(values.mean(), [values[kept].mean() for kept in masks])
    assert figure.value == pytest.approx(values.mean())
    assert figure.high - figure.value == pytest.approx(figure.value - figure.low)
    assert figure.high - figure.value == pytest.approx(2.09 * values.std(ddof=1) / math.sqrt(40), rel=0.35)
    assert sum(~kept for kept in masks).tolist() == [1] * 40  # Each story is left out once.


def test_one_story_says_nothing_of_others():
    assert groups_left_out([4]) == []
    assert jackknife(2.0, []).to_dict() == {"value": 2.0, "low": None, "high": None, "floor": None, "ceiling": None}


# Probes


def test_probe_reads_labels_or_predicts_the_most_frequent():
    generator = rng()
    labels = generator.choice(4, p=[0.4, 0.2, 0.2, 0.2], size=STEPS)
    codes = np.stack([labels * 10 + generator.integers(0, 10, STEPS), generator.integers(0, 3, STEPS)], axis=1)
    train, test = STORY < 50, STORY >= 50
    lengths = LENGTHS[50:]
    groups = [[0], [1], [0, 1]]
    sees, blind, both = probe_accuracies(codes[train], labels[train], codes[test], labels[test], lengths, groups)
    assert sees.value > 0.97 and both.value > 0.97 and sees.ceiling == 1
    assert blind.value == pytest.approx(blind.floor, abs=0.06)
    assert sees.floor == pytest.approx(0.4, abs=0.08)
    unseen = probe_accuracies(codes[train], labels[train], codes[test] + 100, labels[test], lengths, groups)
    assert [figure.value for figure in unseen] == [pytest.approx(sees.floor)] * 3


def test_probes_fitted_together_are_those_fitted_alone():
    codes, labels = rng().integers(0, 9, size=(STEPS, 3)), rng().integers(0, 5, size=STEPS)
    together = probe_accuracies(codes, labels, codes, labels, LENGTHS, [[0], [1], [2], [0, 1, 2]])
    for group, figure in zip([[0], [1], [2], [0, 1, 2]], together, strict=True):
        assert probe_accuracies(codes, labels, codes, labels, LENGTHS, [group])[0].value == pytest.approx(
            figure.value, abs=0.01
        )


# Disentanglement


def test_disentanglement_of_separate_and_of_equal_slots():
    assert disentanglement(np.eye(4)[[2, 0, 3, 1]]) == completeness(np.eye(4)[[2, 0, 3, 1]]) == pytest.approx(1)
    assert disentanglement(np.ones((4, 4))) == completeness(np.ones((4, 4))) == pytest.approx(0)
    twice = np.repeat(
        np.eye(3), 2, axis=0
    )  # Two slots for each attribute: each slot is pure, no attribute is in one place.
    assert disentanglement(twice) == pytest.approx(1) and completeness(twice) < 0.7
    assert np.isnan(disentanglement(np.zeros((3, 3)))) and np.isnan(disentanglement(np.ones((3, 1))))


def test_gap_is_the_lead_of_the_best_slot():
    def gap(bits: list[list[float]]) -> float:
        return information_gap(SlotInformation(np.array(bits), np.zeros((2, 2)), np.ones((2, 2)), np.array([1.0, 2.0])))

    assert gap([[1, 0], [0, 2]]) == pytest.approx(1)
    assert gap([[1, 2], [1, 2]]) == 0
    assert gap([[1, 1], [0.5, 0]]) == pytest.approx(0.5)


def test_specialised_slots_score_far_above_permuted_ones():
    labels = rng().integers(0, 5, size=(STEPS, 3))
    codes = labels + np.array([0, 10, 20])
    whole = slot_information(codes, labels, LENGTHS, num_shuffles=50)
    parts = [
        slot_information(codes[kept[STORY]], labels[kept[STORY]], np.array(LENGTHS)[kept], 10)
        for kept in groups_left_out(LENGTHS)[:5]
    ]
    figures = disentanglement_metrics(codes, labels, LENGTHS, whole, parts)
    assert list(figures) == ["disentanglement", "completeness", "gap"]
    for figure in figures.values():
        assert figure.value > 0.9 and figure.ceiling == 1
        assert figure.low <= figure.value <= figure.high
        assert figure.floor < 0.2


# Labels, and numbers for JSON


def test_steps_are_labelled_by_attributes_and_position(tiny_pipeline):
    stories = EncodedStories(StoryWorld(6, split="val", image_size=32), tiny_pipeline.model, tiny_pipeline.tokenizer)
    labels = label_steps(stories, stories)
    assert list(labels) == [
        "character",
        "hero",
        "colour",
        "place",
        "object",
        "weather",
        "action",
        "position",
        "text length",
    ]
    first = stories.attributes[0][0]
    assert (labels["hero"][0], labels["place"][0], labels["position"][0]) == (first["hero"], first["place"], "step 1")
    assert set(labels["character"][0].split(" and ")) == set(first["characters"])
    for text, label in zip(stories.texts, labels["text length"], strict=True):
        low, *rest = map(int, re.findall(r"\d+", label))
        words = len(text.split())
        assert low <= words <= rest[0] if rest else words > low if "over" in label else words <= low
    assert len(set(labels["text length"])) == 4


def test_plain_numbers_are_fit_for_json():
    value = {
        1: [np.float64("nan"), np.int64(3), math.inf],
        "a": np.array([1 / 3, 2.0]),
        "b": (None, True, "x", np.True_),
    }
    assert plain(value) == {"1": [None, 3, None], "a": [0.333333, 2.0], "b": [None, True, "x", True]}
