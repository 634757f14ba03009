"""Codebook usage, code cards and structure: known answers and correct floors."""

from __future__ import annotations

import numpy as np
import pytest

from modules.evaluation.codebook.cards import WordTable, log_odds, make_cards
from modules.evaluation.codebook.structure import (
    cluster,
    co_occurrence,
    code_presence,
    project,
    successions,
    transitions,
)
from modules.evaluation.codebook.usage import persistence, split_divergence, story_counts, usage_report

LENGTHS = [3, 5, 4, 6] * 25  # 100 stories, 450 steps.
STEPS = sum(LENGTHS)
STORY = np.repeat(np.arange(len(LENGTHS)), LENGTHS)


def rng() -> np.random.Generator:
    return np.random.default_rng(7)


# Usage


def test_story_counts_are_counts_by_story_and_slot():
    codes = np.array([[0, 1], [0, 2], [3, 3]])
    counts = story_counts(codes, [2, 1], 4)
    assert counts.shape == (2, 2, 4)
    assert counts[0].tolist() == [[2, 0, 0, 0], [0, 1, 1, 0]]
    assert counts[1].tolist() == [[0, 0, 0, 1], [0, 0, 0, 1]]


def test_divergence_of_equal_and_of_disjoint_distributions():
    first, second, reference = (
        np.random.default_rng(seed).multinomial(20, [1 / 500] * 500, size=100) for seed in range(3)
    )
    alike = split_divergence(first, second, reference)
    assert alike.value == pytest.approx(alike.floor, rel=0.15) and alike.value > 0.005
    assert alike.low < alike.value < alike.high
    shifted = np.concatenate([first * 0, first], axis=1)
    assert split_divergence(np.concatenate([first, first * 0], axis=1), shifted, shifted).value == pytest.approx(1)


def test_a_code_that_stays_through_a_story_persists():
    figure = persistence(STORY % 4, LENGTHS)
    assert (figure.value, figure.low, figure.ceiling) == (1, 1, 1)
    assert figure.floor == pytest.approx(0.25, abs=0.05)
    assert persistence(np.arange(STEPS), LENGTHS).value == 0
    assert np.isnan(persistence(np.arange(5), [1] * 5).value)


def test_usage_finds_dead_codes_and_what_only_the_prior_uses():
    codes = rng().integers(0, 6, size=(STEPS, 2))
    report = usage_report({"train": (codes, LENGTHS), "held_out": (codes, LENGTHS), "prior": (codes + 2, LENGTHS)}, 8)
    assert report["dead"] == [6, 7]
    assert report["used"] == {"train": 0.75, "held_out": 0.75, "prior": 0.75}
    assert report["perplexity"]["held_out"]["value"] == pytest.approx(6, abs=0.1)
    assert report["divergence"]["held_out_prior"]["value"] > 10 * report["divergence"]["train_held_out"]["value"]
    assert sum(report["counts"]["held_out"]) == 2 * STEPS


# Words and cards


def test_log_odds_finds_the_planted_word_and_not_the_rare_one():
    background = np.array([500.0, 500.0, 60.0, 1.0])
    own = np.array([50.0, 45.0, 30.0, 1.0])
    z = log_odds(own, background - own, 100 * background / background.sum())
    assert z.argmax() == 2 and z[2] > 5
    assert z[3] < 2


def test_words_of_a_code_are_those_that_go_with_it():
    texts = ["the fox runs", "the fox sleeps", "the pig runs", "the pig sleeps", None, ""] * 20
    table = WordTable.of(texts)
    rows = np.array([text is not None and "fox" in text for text in texts], dtype=float)
    words = table.top(rows)
    assert words[0][0] == "fox" and {"the", "pig"}.isdisjoint(word for word, _ in words)
    assert WordTable.of([None, "", "once"]).top(np.ones(3)) == []


def test_a_card_holds_what_the_codes_do():
    """Slot 0 has code 0 on the first step of a story, then 1, and last 2; slot 1 always 3."""
    lengths = [3] * 20
    codes = np.stack([np.tile([0, 1, 2], 20), np.full(60, 3)], axis=1)
    fit = np.random.default_rng(0).random((60, 2))
    labels = {"position": np.tile(["first", "second", "third"], 20), "constant": np.full(60, "x")}
    texts = [f"{word} again" for word in ("one", "two", "three")] * 20
    cards = {card["code"]: card for card in make_cards(codes, fit, lengths, texts, labels, np.eye(5))}
    assert list(cards) == [3, 0, 1, 2]
    assert (cards[3]["uses"], cards[3]["slots"], cards[3]["positions"]) == (60, [0, 60], [1, 1, 1])
    assert cards[0]["successors"] == [[1, 1.0]] and cards[2]["successors"] == []
    assert cards[1]["tells"]["attribute"] == "position" and cards[1]["tells"]["value"] == "second"
    assert (cards[1]["tells"]["share"], cards[1]["tells"]["base"]) == (1, pytest.approx(1 / 3))
    assert [card["words"][0][0] for card in (cards[0], cards[1], cards[2])] == ["one", "two", "three"]
    best = np.argsort(-fit[::3, 0])[:6] * 3
    assert cards[0]["pages"] == best.tolist()
    assert len({row // 3 for row in cards[3]["pages"]}) == 6  # A story's second page comes after all stories' first.
    assert 4 not in {other for card in cards.values() for other, _ in card["near"]}  # Never used.


# Structure


def test_co_occurrence_is_positive_together_and_negative_apart():
    codes = np.array([[0, 2], [1, 3]] * 50 + [[0, 3]] * 2)
    bits = co_occurrence(code_presence(codes, 4), [0, 1, 2, 3])
    assert np.isnan(np.diag(bits)).all()
    assert bits[0, 2] > 0.9 and bits[1, 3] > 0.9
    assert bits[0, 1] < -5 and bits[1, 2] < -5
    assert np.array_equal(bits, bits.T, equal_nan=True)
    assert code_presence(np.array([[1, 1, 2]]), 3).toarray().tolist() == [[0, 1, 1]]  # Twice in a step is there once.


def test_successions_stop_at_the_end_of_a_story():
    counts = successions(np.array([[0], [1], [2], [0], [3]]), [3, 2], 4)
    assert counts.toarray().tolist() == [[0, 1, 0, 1], [0, 0, 1, 0], [0, 0, 0, 0], [0, 0, 0, 0]]
    assert transitions(counts, [0, 1, 2]).tolist() == [[0, 0.5, 0], [0, 0, 1], [0, 0, 0]]


def test_clustering_puts_similar_codes_side_by_side():
    angles = np.array([0.0, 2.0, 0.1, 2.1, 4.0, 5.0])
    vectors = np.stack([np.cos(angles), np.sin(angles)], axis=1)
    tree = cluster(vectors, np.array([3, 1, 1, 2, 1, 0]))
    assert sorted(tree["codes"]) == [0, 1, 2, 3, 4]
    assert abs(tree["codes"].index(0) - tree["codes"].index(2)) == 1
    assert abs(tree["codes"].index(1) - tree["codes"].index(3)) == 1
    assert {tuple(sorted(tree["codes"][leaf] for leaf in merge[:2])) for merge in tree["merges"][:2]} == {
        (0, 2),
        (1, 3),
    }
    assert sorted(child for merge in tree["merges"] for child in merge[:2]) == list(range(8))  # All but the root, once.
    assert 0.8 < tree["cophenetic_correlation"] <= 1
    assert cluster(vectors, np.array([1, 1, 0, 0, 0, 0])) is None


def test_projection_keeps_a_plane_as_it_is():
    plane = rng().normal(size=(30, 2)) * [3, 1]
    basis = np.linalg.qr(rng().normal(size=(8, 2)))[0]
    points, explained = project(plane @ basis.T + 5)
    distances = [np.linalg.norm(cloud[:, None] - cloud[None], axis=-1) for cloud in (points, plane)]
    assert np.allclose(*distances) and explained == pytest.approx(1)
    assert points[np.abs(points).argmax(0), [0, 1]].min() > 0
    assert project(np.ones((1, 4)))[0].tolist() == [[0, 0]]
