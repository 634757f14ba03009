"""Metrics of decoded texts: overlap with the true texts (BLEU, chrF, ROUGE-L), diversity and repetition.

A new metric is a function from `TextPairs` to estimates by name, and a line in `TEXT_METRICS`.
"""

from __future__ import annotations

import math
import re
from collections import Counter, defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from sacrebleu.metrics import BLEU, CHRF

from modules.evaluation.metrics.statistics import (
    NUM_RESAMPLES,
    Estimate,
    bootstrap_mean,
    jackknife,
    mean_over_rows,
    rows_of_other_stories,
    story_of_rows,
    to_dicts,
)

SELF_BLEU_TEXTS = 500  # A fixed maximum: self-BLEU rises with the number of texts, so only equal numbers compare.
BLEU_ORDERS = (1, 2, 3, 4)
Words = list[str]


@dataclass(frozen=True)
class TextPairs:
    """N decoded texts with their true texts, and, for the floor, true texts of other stories (None: one story only).

    `stories` (N,) are the numbers of the texts' stories, counted from 0 without gaps.
    """

    true: list[str]
    decoded: list[str]
    other: list[str] | None
    stories: NDArray[np.int64]
    seed: int

    @classmethod
    def of(
        cls, true_texts: Sequence[str | None], decoded_texts: Sequence[str], lengths: Sequence[int], seed: int
    ) -> TextPairs:
        """Pair the texts of stories of `lengths` steps; steps whose true text is None or has no word are left out."""
        kept = [(row, text) for row, text in enumerate(true_texts) if text is not None and split_words(text)]
        rows, true = [row for row, _ in kept], [text for _, text in kept]
        stories = np.unique(story_of_rows(lengths)[rows], return_inverse=True)[1]
        others = rows_of_other_stories(stories, seed)
        other = None if others is None else [true[row] for row in others]
        return cls(true, [decoded_texts[row] for row in rows], other, stories, seed)


def compare_texts(
    true_texts: Sequence[str | None], decoded_texts: Sequence[str], lengths: Sequence[int], seed: int = 0
) -> dict[str, Any]:
    """Score N decoded texts -> {"figures": {name: estimate as a dict}, "signatures": {name: sacrebleu's settings}}.

    `lengths` are the stories' numbers of steps. Steps without a true text are left out; an empty decoded text counts.
    Intervals are bootstrapped over stories, except those of distinct n-grams, which are the jackknife's.
    """
    pairs = TextPairs.of(true_texts, decoded_texts, lengths, seed)
    signatures = {name: str(metric.get_signature()) for name, metric in _sacrebleu_metrics(pairs).items()}
    return {"figures": to_dicts(score_pairs(pairs)), "signatures": signatures}


def score_pairs(pairs: TextPairs) -> dict[str, Estimate]:
    """Return all text metrics, by name."""
    estimates: dict[str, Estimate] = {}
    for metric in TEXT_METRICS:
        estimates |= metric(pairs)
    return estimates


def split_words(text: str) -> Words:
    """Return the words of a text in lower case, without punctuation."""
    return re.findall(r"\w+(?:['’]\w+)*", text.lower())


# Overlap with the true text, from 0 to 100; the floor is the overlap of another story's true text.


def sacrebleu_overlap(pairs: TextPairs) -> dict[str, Estimate]:
    """Return BLEU and chrF of the corpus (sacrebleu, arXiv 1804.08771)."""
    return {name: _corpus_score(metric, pairs) for name, metric in _sacrebleu_metrics(pairs).items()}


def rouge_overlap(pairs: TextPairs) -> dict[str, Estimate]:
    """Return the mean over texts of ROUGE-L's F1."""
    scores, chance = (
        [100 * rouge_l(*pair) for pair in zip(pairs.true, texts, strict=True)] if texts else []
        for texts in (pairs.decoded, pairs.other)
    )
    return {"ROUGE-L": mean_over_rows(scores, pairs.stories, pairs.seed, floor=_average(chance), ceiling=100.0)}


def _sacrebleu_metrics(pairs: TextPairs) -> dict[str, BLEU | CHRF]:
    """BLEU is forced: without `force` it warns that texts decoded word by word look tokenised."""
    return {"BLEU": BLEU(force=True, references=[pairs.true]), "chrF": CHRF(references=[pairs.true])}


def _corpus_score(metric: BLEU | CHRF, pairs: TextPairs) -> Estimate:
    """Score all texts together: n-gram counts are summed over the texts of the resampled stories."""
    if not pairs.decoded:
        return Estimate(math.nan, math.nan, math.nan)
    own = _match_counts(metric, pairs.decoded, pairs.stories)
    floor = None
    if pairs.other is not None:
        floor = _score_counts(metric, _match_counts(metric, pairs.other, pairs.stories).sum(0))
    rng = np.random.default_rng(pairs.seed)
    draws = rng.multinomial(len(own), np.full(len(own), 1 / len(own)), size=NUM_RESAMPLES)
    low, high = np.percentile([_score_counts(metric, counts) for counts in draws @ own], [2.5, 97.5])
    if len(own) == 1:  # Nothing is known about other stories.
        low = high = math.nan
    return Estimate(_score_counts(metric, own.sum(0)), float(low), float(high), floor, ceiling=100.0)


def _match_counts(metric: BLEU | CHRF, texts: Sequence[str], stories: NDArray[np.int64]) -> NDArray[np.int64]:
    """Return the n-gram counts (B,F) of every story.

    sacrebleu's own bootstrap is built on the same two private methods, but it resamples texts, not stories.
    """
    per_text = np.array(metric._extract_corpus_statistics(texts, None), dtype=np.int64)
    per_story = np.zeros((stories.max() + 1, per_text.shape[1]), dtype=np.int64)
    np.add.at(per_story, stories, per_text)
    return per_story


def _score_counts(metric: BLEU | CHRF, counts: NDArray[np.int64]) -> float:
    """Score n-gram counts (F,), at most 100: BLEU's rounding can exceed it."""
    return min(100.0, float(metric._compute_score_from_stats(counts.tolist()).score))


def _average(values: Sequence[float]) -> float | None:
    return float(np.mean(values)) if values else None


def rouge_l(true: str, decoded: str) -> float:
    """Return F1 of the longest common subsequence of words, from 0 to 1 (C.-Y. Lin, "ROUGE", 2004)."""
    true_words, decoded_words = split_words(true), split_words(decoded)
    total = len(true_words) + len(decoded_words)
    return 2 * common_subsequence(true_words, decoded_words) / total if total else 0.0


def common_subsequence(first: Sequence[str], second: Sequence[str]) -> int:
    """Return the length of the longest common subsequence, a table row at a time as the bits of one integer.

    Source: H. Hyyrö, "Bit-parallel LCS-length computation revisited", 2004.
    """
    places: dict[str, int] = defaultdict(int)
    for place, word in enumerate(first):
        places[word] |= 1 << place
    everywhere = row = (1 << len(first)) - 1
    for word in second:
        matched = row & places[word]
        row = (row + matched | row - matched) & everywhere
    return len(first) - row.bit_count()


# Diversity and repetition; they have no floor, and the ceiling is the true texts' own value.


def distinct_ngrams(pairs: TextPairs) -> dict[str, Estimate]:
    """Return distinct n-grams over all n-grams (arXiv 1510.03055), which falls as the number of texts grows."""
    true, decoded = _words(pairs.true), _words(pairs.decoded)
    estimates = {}
    for order in (1, 2, 3):
        (ceiling, _), (value, left_out) = (_distinct(texts, pairs.stories, order) for texts in (true, decoded))
        estimates[f"distinct-{order}"] = jackknife(value, left_out, ceiling=ceiling, bounds=(0, 1))
    return estimates


def self_bleu(pairs: TextPairs) -> dict[str, Estimate]:
    """Return the mean BLEU of each text of a sample against all others of it (arXiv 1802.01886).

    The interval resamples the stories of the scored texts; the other texts stay the same.
    """
    sample = np.random.default_rng(pairs.seed).permutation(len(pairs.true))[:SELF_BLEU_TEXTS]
    true, values = (_self_bleu([texts[row] for row in sample]) for texts in (_words(pairs.true), _words(pairs.decoded)))
    stories = pairs.stories[sample][: len(values)]
    return {"self-BLEU": mean_over_rows(values, stories, pairs.seed, ceiling=_average(true))}


def repeated_ngrams(pairs: TextPairs) -> dict[str, Estimate]:
    """Return the share of texts in which some 4-gram occurs twice."""
    true, values = (_repeats(_words(texts)) for texts in (pairs.true, pairs.decoded))
    return {"repeated 4-grams": mean_over_rows(values, pairs.stories, pairs.seed, ceiling=_average(true))}


def length_ratio(pairs: TextPairs) -> dict[str, Estimate]:
    """Return the number of decoded words over the number of true words."""
    decoded, true = (
        np.bincount(pairs.stories, weights=[len(words) for words in _words(texts)])
        for texts in (pairs.decoded, pairs.true)
    )
    return {"length ratio": bootstrap_mean(decoded, true, pairs.seed, ceiling=1.0)}


def _words(texts: Sequence[str]) -> list[Words]:
    return [split_words(text) for text in texts]


def _ngrams(words: Words, order: int) -> list[tuple[str, ...]]:
    return list(zip(*(words[start:] for start in range(order)), strict=False))


def _distinct(texts: Sequence[Words], stories: NDArray[np.int64], order: int) -> tuple[float, NDArray[np.float64]]:
    """Return distinct n-grams over all n-grams, and the same without each story (B,)."""
    by_story: dict[int, list[tuple[str, ...]]] = defaultdict(list)
    for words, story in zip(texts, stories.tolist(), strict=True):
        by_story[story] += _ngrams(words, order)
    num_stories = Counter(gram for grams in by_story.values() for gram in set(grams))  # That contain the n-gram.
    totals = np.array([len(grams) for grams in by_story.values()])
    own = np.array([sum(num_stories[gram] == 1 for gram in set(grams)) for grams in by_story.values()])
    if not totals.sum():
        return math.nan, np.array([])
    with np.errstate(divide="ignore", invalid="ignore"):  # One story may contain all n-grams: 0 / 0 without it.
        return len(num_stories) / int(totals.sum()), (len(num_stories) - own) / (totals.sum() - totals)


def _self_bleu(texts: Sequence[Words]) -> list[float]:
    """Return BLEU of each text with all others as its references; high if the texts are alike."""
    if len(texts) < 2:
        return []
    grams = [Counter(gram for order in BLEU_ORDERS for gram in _ngrams(words, order)) for words in texts]
    counts: dict[tuple[str, ...], list[int]] = defaultdict(lambda: [0])
    for each in grams:
        for gram, count in each.items():
            counts[gram].append(count)
    most = {gram: sorted(values)[-2:] for gram, values in counts.items()}
    lengths = np.array([len(words) for words in texts])
    return [_bleu_among(row, each, most, lengths) for row, each in enumerate(grams)]


def _bleu_among(
    row: int, grams: Counter[tuple[str, ...]], most: dict[tuple[str, ...], list[int]], lengths: NDArray[np.int64]
) -> float:
    """Return BLEU of one text, given the two highest counts of every n-gram in any text."""
    correct, total = [0] * len(BLEU_ORDERS), [0] * len(BLEU_ORDERS)
    for gram, count in grams.items():
        second, first = most[gram]
        # If the text's own count is the highest, the second highest is the highest of the other texts.
        correct[len(gram) - 1] += min(count, second if count == first else first)
        total[len(gram) - 1] += count
    own, others = int(lengths[row]), np.delete(lengths, row)
    closest = min(others.tolist(), key=lambda length: (abs(length - own), length))
    return BLEU.compute_bleu(correct, total, own, closest, smooth_method="exp", effective_order=True).score


def _repeats(texts: Sequence[Words]) -> list[float]:
    grams = [_ngrams(words, 4) for words in texts]
    return [float(len(set(each)) < len(each)) for each in grams]


TextMetric = Callable[[TextPairs], dict[str, Estimate]]
TEXT_METRICS: tuple[TextMetric, ...] = (
    sacrebleu_overlap,
    rouge_overlap,
    distinct_ngrams,
    self_bleu,
    repeated_ngrams,
    length_ratio,
)
