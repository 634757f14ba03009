"""Attributes named in texts: known answers and chance levels."""

from __future__ import annotations

import random

import numpy as np
import pytest

from modules.evaluation.judge.attributes import score_texts
from modules.storyworld import PLACES, StoryWorld, mentioned


def texts_and_lengths(num_stories: int) -> tuple[list[str], list[int]]:
    world = StoryWorld(num_stories, seed=5, image_size=32)
    stories = [world._generate(index)[1] for index in range(num_stories)]
    return [text for pages in stories for text, _ in pages], [len(pages) for pages in stories]


def test_perfect_texts_score_one():
    texts, lengths = texts_and_lengths(20)
    for figure in score_texts(texts, texts, lengths).values():
        assert (figure.value, figure.low, figure.high, figure.ceiling) == (1, 1, 1, 1)
        assert 0 <= figure.floor < 1


def test_texts_in_another_order_score_about_the_floor():
    texts, lengths = texts_and_lengths(200)
    others = random.Random(0).sample(texts, len(texts))
    for name, figure in score_texts(texts, others, lengths).items():
        assert figure.value == pytest.approx(figure.floor, abs=0.05), name


def test_a_constant_text_scores_by_chance():
    rng = random.Random(0)
    texts = [f"They walk to the {rng.choice(PLACES)}." for _ in range(2000)]
    figure = score_texts(texts, ["They are on the beach."] * len(texts), [4] * 500)["place"]
    assert figure.value == pytest.approx(1 / len(PLACES), abs=0.03)
    assert figure.floor == pytest.approx(1 / len(PLACES), abs=0.03)
    assert figure.low < figure.value < figure.high < 0.2


def test_score_counts_steps_whose_true_text_names_something():
    true = ["The fox sleeps.", "They walk.", "Rusty and Lily walk.", "The bear is on the moon."]
    decoded = ["A fox sleeps.", "The fox walks.", "Rusty walks.", "Bruno is on the moon."]
    figures = score_texts(true, decoded, [1, 3])
    assert figures["character"].value == pytest.approx(
        2 / 3
    )  # One of two heroes is not enough; steps whose text names nothing do not count.
    assert figures["place"].value == figures["action"].value == 1
    assert np.isnan(figures["colour"].value)
    assert set(figures["colour"].to_dict().values()) == {None}
    assert mentioned(true[2])["characters"] == {"fox", "rabbit"}
