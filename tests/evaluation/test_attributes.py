"""Attributes named in texts: known answers and chance levels."""

from __future__ import annotations

import random

import numpy as np
import pytest

from modules.evaluation.judge.attributes import score_agreement, score_texts
from modules.storyworld import PLACES, StoryWorld, mentioned


def texts_and_lengths(num_stories: int) -> tuple[list[str], list[int]]:
    world = StoryWorld(num_stories, seed=5, image_size=32)
    stories = [world._generate(index)[1] for index in range(num_stories)]
    return [text for pages in stories for text, _ in pages], [len(pages) for pages in stories]


def test_perfect_texts_score_one():
    texts, lengths = texts_and_lengths(20)
    for figure in score_texts(texts, texts, lengths).values():
        assert (figure.value, figure.high, figure.ceiling) == (1, 1, 1)
        assert 0.6 < figure.low <= 0.025 ** (1 / 20)
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


def test_swapped_coats_have_the_wrong_wearers():
    true = ["Rusty the fox in a red coat meets Nala the cat in a blue coat.", "Rusty walks."]
    swapped = ["Rusty the fox in a blue coat meets Nala the cat in a red coat.", "Rusty walks."]
    figures = score_texts(true, swapped, [1, 1])
    assert figures["colour"].value == 1 and figures["wearer"].value == 0
    assert score_texts(true, true, [1, 1])["wearer"].value == 1


def test_clothes_in_the_picture_are_those_of_the_text():
    text = "Rusty the fox in a red coat meets Nala the cat in a blue coat."
    page = {"characters": {"fox", "cat"}, "object": None, "place": "farm"}
    right, wrong = ({**page, "colors": {"fox": "red", "cat": color}} for color in ("blue", "red"))
    texts = [text, text, "Rusty walks."]
    figures = score_agreement(texts, [right, wrong, wrong], texts, [right] * 3, [2, 1])
    assert figures["worn_as_told"].value == 0.5 and figures["worn_as_told"].ceiling == 1
    assert figures["text_and_picture_agree"].value == 1
