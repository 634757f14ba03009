"""Decoded texts against true ones (BLEU, chrF, ROUGE-L), and how varied and how repetitive they are."""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray
from sacrebleu.metrics import BLEU, CHRF

from modules.evaluation.metrics.statistics import (
    NUM_RESAMPLES,
    Figure,
    bootstrap_mean,
    jackknife,
    rows_of_other_stories,
)

SELF_BLEU_TEXTS = 500  # At most: it rises with their number, so that only equal numbers compare.
BLEU_ORDERS = (1, 2, 3, 4)
NAN = float("nan")


def score_against(
    true_texts: Sequence[str | None], decoded_texts: Sequence[str], lengths: Sequence[int], seed: int = 0
) -> dict[str, dict[str, Any]]:
    """Score N decoded texts -> {"figures": {name: Figure}, "signatures": {name: how sacrebleu computed it}}.

    `lengths` are the stories' numbers of steps; steps whose true text is None or has no word are left out, an empty
    decoded text counts as such. Overlap with the true text goes from 0 to 100: BLEU and chrF of the corpus by sacrebleu
    (arXiv 1804.08771), and the mean of ROUGE-L's F1 over texts. Its floor is that of another story's true text in place
    of the decoded one. The other figures have no floor, and the true texts' own value as their ceiling: distinct
    n-grams over all n-grams of all texts (arXiv 1510.03055), which falls as there are more of them; self-BLEU, each
    text of a sample against all others of it (arXiv 1802.01886); the share of texts in which a 4-gram comes back;
    decoded over true words. Intervals are bootstrapped over stories (self-BLEU's: of the texts that are scored, among
    the same others); that of distinct n-grams is `jackknife`'s.
    """
    rows = [row for row, text in enumerate(true_texts) if text is not None and split_words(text)]
    stories = np.unique(np.repeat(np.arange(len(lengths)), lengths)[rows], return_inverse=True)[1]
    true, decoded = [true_texts[row] for row in rows], [decoded_texts[row] for row in rows]
    others = rows_of_other_stories(stories, seed)
    wrong = None if others is None else [true[row] for row in others]
    bleu = BLEU(
        force=True, references=[true]
    )  # Forced: no warning that texts which are decoded word by word look tokenised.
    chrf = CHRF(references=[true])
    figures = {
        "BLEU": _corpus_score(bleu, decoded, wrong, stories, seed),
        "chrF": _corpus_score(chrf, decoded, wrong, stories, seed),
        "ROUGE-L": _rouge(true, decoded, wrong, stories, seed),
    }
    signatures = {"BLEU": str(bleu.get_signature()), "chrF": str(chrf.get_signature())}
    return {"figures": figures | _variety(true, decoded, stories, seed), "signatures": signatures}


def split_words(text: str) -> list[str]:
    """The words of a text in lower case, without punctuation."""
    return re.findall(r"\w+(?:['’]\w+)*", text.lower())


def _mean(values: ArrayLike, stories: NDArray, seed: int, **bounds: float | None) -> Figure:
    """The mean over texts, each of which belongs to a story."""
    return bootstrap_mean(np.bincount(stories, weights=values), np.bincount(stories), seed, **bounds)


def _average(values: list[float]) -> float | None:
    return float(np.mean(values)) if values else None


def _corpus_score(
    metric: BLEU | CHRF, decoded: list[str], wrong: list[str] | None, stories: NDArray, seed: int
) -> Figure:
    """A score of all texts together: n-gram counts are summed over the texts of the stories that are drawn."""
    if not decoded:
        return Figure(NAN, NAN, NAN)
    own = _match_counts(metric, decoded, stories)
    floor = None if wrong is None else _score_counts(metric, _match_counts(metric, wrong, stories).sum(0))
    draws = np.random.default_rng(seed).multinomial(len(own), np.full(len(own), 1 / len(own)), size=NUM_RESAMPLES)
    low, high = np.percentile([_score_counts(metric, counts) for counts in draws @ own], [2.5, 97.5])
    return Figure(_score_counts(metric, own.sum(0)), float(low), float(high), floor, ceiling=100.0)


def _match_counts(metric: BLEU | CHRF, texts: list[str], stories: NDArray) -> NDArray[np.int64]:
    """n-gram counts of every story.

    sacrebleu's own bootstrap rests on these two methods, but it draws texts, not stories.
    """
    per_text = np.array(metric._extract_corpus_statistics(texts, None), dtype=np.int64)
    per_story = np.zeros((stories.max() + 1, per_text.shape[1]), dtype=np.int64)
    np.add.at(per_story, stories, per_text)
    return per_story


def _score_counts(metric: BLEU | CHRF, counts: NDArray[np.int64]) -> float:
    return min(100.0, float(metric._compute_score_from_stats(counts.tolist()).score))  # BLEU rounds to more.


def _rouge(true: list[str], decoded: list[str], wrong: list[str] | None, stories: NDArray, seed: int) -> Figure:
    values, by_chance = (
        [100 * rouge_l(*pair) for pair in zip(true, texts, strict=True)] if texts else [] for texts in (decoded, wrong)
    )
    return _mean(values, stories, seed, floor=_average(by_chance), ceiling=100.0)


def rouge_l(true: str, decoded: str) -> float:
    """F1 of the longest common subsequence of words, from 0 to 1 (C.-Y. Lin, "ROUGE", 2004)."""
    true_words, decoded_words = split_words(true), split_words(decoded)
    total = len(true_words) + len(decoded_words)
    return 2 * common_subsequence(true_words, decoded_words) / total if total else 0.0


def common_subsequence(first: Sequence[str], second: Sequence[str]) -> int:
    """Length of the longest common subsequence, a row of the table at a time as the bits of one integer (H.

    Hyyrö, 2004).
    """
    places: dict[str, int] = defaultdict(int)
    for place, word in enumerate(first):
        places[word] |= 1 << place
    everywhere = row = (1 << len(first)) - 1
    for word in second:
        matched = row & places[word]
        row = (row + matched | row - matched) & everywhere
    return len(first) - row.bit_count()


def _variety(true: list[str], decoded: list[str], stories: NDArray, seed: int) -> dict[str, Figure]:
    """What is measured of a set of texts by itself; the true texts' value is the ceiling."""
    sample = np.random.default_rng(seed).permutation(len(true))[:SELF_BLEU_TEXTS]
    true_words, decoded_words = ([split_words(text) for text in texts] for texts in (true, decoded))
    figures = {}
    for order in (1, 2, 3):
        (ceiling, _), (value, left_out) = (_distinct(words, stories, order) for words in (true_words, decoded_words))
        figures[f"distinct-{order}"] = jackknife(value, left_out, ceiling=ceiling, bounds=(0, 1))
    references, values = (_self_bleu([words[row] for row in sample]) for words in (true_words, decoded_words))
    figures["self-BLEU"] = _mean(values, stories[sample][: len(values)], seed, ceiling=_average(references))
    references, values = (_repeats(words) for words in (true_words, decoded_words))
    figures["repeated 4-grams"] = _mean(values, stories, seed, ceiling=_average(references))
    counts = [np.bincount(stories, weights=[len(text) for text in words]) for words in (decoded_words, true_words)]
    return figures | {"length ratio": bootstrap_mean(*counts, seed, ceiling=1.0)}


def _ngrams(words: list[str], order: int) -> list[tuple[str, ...]]:
    return list(zip(*(words[start:] for start in range(order)), strict=False))


def _distinct(texts: list[list[str]], stories: NDArray, order: int) -> tuple[float, NDArray]:
    """Distinct n-grams over all n-grams, and the same without each story."""
    found: dict[int, list] = defaultdict(list)
    for words, story in zip(texts, stories.tolist(), strict=True):
        found[story] += _ngrams(words, order)
    holders = Counter(gram for grams in found.values() for gram in set(grams))  # In how many stories it is.
    totals = np.array([len(grams) for grams in found.values()])
    own = np.array([sum(holders[gram] == 1 for gram in set(grams)) for grams in found.values()])
    if not totals.sum():
        return NAN, np.array([])
    with np.errstate(
        divide="ignore", invalid="ignore"
    ):  # Where one story holds all there is, nothing is left without it.
        return len(holders) / int(totals.sum()), (len(holders) - own) / (totals.sum() - totals)


def _self_bleu(texts: list[list[str]]) -> list[float]:
    """BLEU of each text with all others as its references; high where the texts are alike."""
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


def _bleu_among(row: int, grams: Counter, most: dict[tuple[str, ...], list[int]], lengths: NDArray) -> float:
    """BLEU of one text, given the two highest counts of every n-gram in any text."""
    correct, total = [0] * len(BLEU_ORDERS), [0] * len(BLEU_ORDERS)
    for gram, count in grams.items():
        second, first = most[gram]
        correct[len(gram) - 1] += min(
            count, second if count == first else first
        )  # The highest count is then that of another text.
        total[len(gram) - 1] += count
    own, others = int(lengths[row]), np.delete(lengths, row)
    closest = min(others.tolist(), key=lambda length: (abs(length - own), length))
    return BLEU.compute_bleu(correct, total, own, closest, smooth_method="exp", effective_order=True).score


def _repeats(texts: list[list[str]]) -> list[float]:
    grams = [_ngrams(words, 4) for words in texts]
    return [float(len(set(each)) < len(each)) for each in grams]
