"""Metrics of decoded texts: known answers, agreement with sacrebleu, and missing texts."""

from __future__ import annotations

import itertools
import json
import random

import numpy as np
import pytest
from sacrebleu.metrics import BLEU, CHRF

from modules.evaluation.metrics.statistics import Estimate
from modules.evaluation.metrics.text import (
    TextPairs,
    _distinct,
    _self_bleu,
    common_subsequence,
    compare_texts,
    rouge_l,
    score_pairs,
    split_words,
)

TRUE = [
    "The red fox walks to the old mill.",
    "It rains on the hill.",
    "Bruno the bear finds a big blue kite.",
    "They all go home to sleep.",
]
DECODED = [
    "The fox walks to the old mill.",
    "It snows on the hill today.",
    "Bruno finds a big kite.",
    "They all go home to sleep.",
]
LENGTHS = [2, 1, 1]
OVERLAP, VARIETY = (
    ["BLEU", "chrF", "ROUGE-L"],
    ["distinct-1", "distinct-2", "distinct-3", "self-BLEU", "repeated 4-grams", "length ratio"],
)


def estimates(true: list[str | None], decoded: list[str], lengths: list[int], seed: int = 0) -> dict[str, Estimate]:
    return score_pairs(TextPairs.of(true, decoded, lengths, seed))


def random_texts(num_texts: int, seed: int = 0) -> list[str]:
    rng = random.Random(seed)
    return [" ".join(rng.choices("abc", k=rng.randint(0, 12))) for _ in range(num_texts)]


# Against the true texts


def test_true_texts_score_all_there_is():
    scores = estimates(TRUE, TRUE, LENGTHS)
    assert list(scores) == OVERLAP + VARIETY
    for name in OVERLAP:
        assert (scores[name].low, scores[name].value, scores[name].high, scores[name].ceiling) == pytest.approx(
            (100, 100, 100, 100)
        )
        assert scores[name].floor < 40
    for name in VARIETY:
        assert scores[name].value == pytest.approx(scores[name].ceiling)
        assert scores[name].floor is None


def test_corpus_scores_and_signatures_are_those_of_sacrebleu():
    result, scores = compare_texts(TRUE, DECODED, LENGTHS), estimates(TRUE, DECODED, LENGTHS)
    assert result["figures"] == {name: score.to_dict() for name, score in scores.items()}
    for name, metric in (("BLEU", BLEU()), ("chrF", CHRF())):
        figure = scores[name]
        assert figure.value == pytest.approx(metric.corpus_score(DECODED, [TRUE]).score)
        assert figure.floor < figure.low <= figure.value <= figure.high <= figure.ceiling
        assert result["signatures"][name] == str(metric.get_signature())
        assert "version:" in result["signatures"][name]


def test_stories_are_drawn_again_not_texts():
    once, often = estimates(TRUE, DECODED, [1] * 4), estimates(TRUE * 2, DECODED * 2, [4, 4])
    for name in ("BLEU", "chrF"):
        assert once[name].value == pytest.approx(often[name].value)
        assert once[name].low < once[name].value < once[name].high
        assert often[name].low == pytest.approx(often[name].high)  # Two stories that are the same story.


def test_the_floor_is_another_storys_text():
    true, lengths = ["red red red red"] * 3 + ["blue blue blue blue"] * 2, [3, 2]
    scores = estimates(true, true, lengths)
    assert scores["ROUGE-L"].floor == scores["BLEU"].floor == 0
    same_everywhere = estimates(["red red red red"] * 5, ["blue"] * 5, lengths)
    assert same_everywhere["ROUGE-L"].floor == same_everywhere["BLEU"].floor == pytest.approx(100)
    assert same_everywhere["ROUGE-L"].value == same_everywhere["BLEU"].value == 0


def test_longest_common_subsequence_is_that_of_the_table():
    def by_table(first: list[str], second: list[str]) -> int:
        table = np.zeros((len(first) + 1, len(second) + 1), dtype=int)
        for i, a in enumerate(first):
            for j, b in enumerate(second):
                table[i + 1, j + 1] = table[i, j] + 1 if a == b else max(table[i, j + 1], table[i + 1, j])
        return int(table[-1, -1])

    texts = [text.split() for text in random_texts(40)]
    for first, second in itertools.pairwise(texts):
        assert common_subsequence(first, second) == by_table(first, second)


def test_rouge_of_words_in_order():
    assert rouge_l("The cat sat down.", "the cat sat, down") == 1
    assert rouge_l("the cat sat on the mat", "mat the cat on") == pytest.approx(2 * 3 / 10)
    assert rouge_l("the cat", "") == rouge_l("", "") == rouge_l("the cat", "a dog") == 0
    apostrophe = "\N{RIGHT SINGLE QUOTATION MARK}"
    quoted = f"\N{LEFT DOUBLE QUOTATION MARK}Don't!\N{RIGHT DOUBLE QUOTATION MARK} said Zoë{apostrophe}s 2 o'clock_"
    assert split_words(quoted) == ["don't", "said", f"zoë{apostrophe}s", "2", "o'clock_"]


# Variety


def test_distinct_ngrams_over_all_ngrams():
    scores = estimates(["x"] * 2, ["a b a", "A b."], [1, 1])
    assert [scores[f"distinct-{order}"].value for order in (1, 2, 3)] == pytest.approx([2 / 5, 2 / 3, 1])


def test_distinct_ngrams_without_each_story():
    texts, stories = [text.split() for text in random_texts(9)], np.repeat([0, 1, 2], [4, 3, 2])
    for order in (1, 2, 3):
        value, left_out = _distinct(texts, stories, order)
        for story in range(3):
            others = [words for words, owner in zip(texts, stories, strict=True) if owner != story]
            assert left_out[story] == pytest.approx(_distinct(others, stories[stories != story], order)[0])
        assert 0 < value < 1


def test_self_bleu_is_sacrebleus_against_all_other_texts():
    texts = [
        *random_texts(12),
        "fox fox fox",
        "fox fox",
        "",
        TRUE[0].lower().strip("."),
        "the red fox walks to the mill",
    ]
    metric = BLEU(tokenize="none", effective_order=True)
    expected = [metric.sentence_score(text, texts[:row] + texts[row + 1 :]).score for row, text in enumerate(texts)]
    assert _self_bleu([text.split() for text in texts]) == pytest.approx(expected)
    assert estimates(TRUE, ["the same old words again"] * 4, LENGTHS)["self-BLEU"].value == pytest.approx(100)


def test_a_text_that_repeats_itself_is_counted_once():
    decoded = [
        "on and on and on and on and on",
        "he runs and he runs and then he runs",
        "we go up we go up we go up the hill",
        "",
    ]
    assert estimates(TRUE, decoded, LENGTHS)["repeated 4-grams"].value == pytest.approx(2 / 4)


def test_length_ratio_is_of_words():
    scores = estimates(["one two three four", "one two"], ["one", "one two!"], [1, 1])
    assert (scores["length ratio"].value, scores["length ratio"].ceiling) == (3 / 6, 1)


# Gaps


def test_steps_without_a_text_are_left_out():
    gaps = estimates(
        [TRUE[0], None, TRUE[1], "...", TRUE[2], TRUE[3]],
        [DECODED[0], "a b", DECODED[1], "c", *DECODED[2:]],
        [3, 1, 1, 1],
    )
    assert gaps == estimates(TRUE, DECODED, LENGTHS)


def test_empty_texts_score_nothing():
    scores = estimates(TRUE, [""] * 4, LENGTHS)
    values = {name: figure.to_dict()["value"] for name, figure in scores.items()}
    assert [values[name] for name in (*OVERLAP, "length ratio", "self-BLEU", "repeated 4-grams")] == [0] * 6
    assert values["distinct-1"] is None
    partly = estimates(TRUE, [*DECODED[:3], ""], LENGTHS)
    assert 0 < partly["BLEU"].value < estimates(TRUE, DECODED, LENGTHS)["BLEU"].value


def test_no_text_at_all_gives_no_number():
    result = compare_texts([None, None], ["a", "b"], [1, 1])
    assert list(result["figures"]) == OVERLAP + VARIETY
    assert {figure["value"] for figure in result["figures"].values()} == {None}
    json.dumps(result, allow_nan=False)
    assert "version:" in result["signatures"]["BLEU"]


def test_one_story_has_neither_floor_nor_interval():
    for name, figure in estimates(TRUE, DECODED, [4]).items():
        assert figure.floor is None, name
        assert np.isnan([figure.low, figure.high]).all(), name
    alone = estimates(TRUE[:1], DECODED[:1], [1])
    assert alone["self-BLEU"].to_dict()["value"] is None
    assert alone["chrF"].value > 50


def test_scores_are_the_same_for_the_same_seed_only():
    assert estimates(TRUE, DECODED, LENGTHS, seed=1) == estimates(TRUE, DECODED, LENGTHS, seed=1)
    assert estimates(TRUE, DECODED, LENGTHS, seed=1) != estimates(TRUE, DECODED, LENGTHS, seed=2)


# What the figures stand on
