"""Code cards: the words and pages associated with a code, its positions, its successors, and what it encodes."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy.sparse import csr_array

from modules.evaluation.codebook.structure import code_presence, successions
from modules.evaluation.metrics.statistics import story_of_rows
from modules.text_decoder.words import find_words

PRIOR_WORDS = 500  # Weight of the prior on word frequencies, in words.
CLEAR_Z = 1.96
TOP_WORDS, TOP_CODES, TOP_PAGES = 8, 4, 6
MAX_PAGES = 3000  # On all cards together, so that a browser opens the page quickly.
LABEL_PRIOR = 2.0  # Weight of the prior on an attribute's distribution, in steps.
Labels = Mapping[str, tuple[np.ndarray, np.ndarray]]  # By attribute: its values, and the index (N,) of each step's.


def log_odds(counts: np.ndarray, others: np.ndarray, prior: np.ndarray) -> np.ndarray:
    """Return z-scores (V,) of how much more frequent each word is in `counts` (V,) than in `others` (V,).

    They are log-odds ratios with an informative Dirichlet prior of pseudo-counts `prior` (V,) > 0, which keeps rare
    words from ranking first (Monroe, Colaresi and Quinn, Political Analysis 16, 2008, equations 16, 20 and 22).
    """
    own, rest = counts + prior, others + prior
    difference = np.log(own / (own.sum() - own)) - np.log(rest / (rest.sum() - rest))
    return difference / np.sqrt(1 / own + 1 / rest)


@dataclass(frozen=True)
class WordTable:
    """`counts` (N,V): how often each of V words occurs in the text of each of N steps."""

    words: list[str]
    counts: csr_array

    @classmethod
    def of(cls, texts: Sequence[str | None]) -> WordTable:
        """Count the words of N texts; words that occur in one text only are left out."""
        bags = [Counter(find_words(text or "")) for text in texts]
        spread = Counter(word for bag in bags for word in bag)
        words = sorted(word for word, count in spread.items() if count > 1)
        number = {word: index for index, word in enumerate(words)}
        entries = [
            (row, number[word], count) for row, bag in enumerate(bags) for word, count in bag.items() if word in number
        ]
        rows, columns, counts = zip(*entries, strict=True) if entries else ((), (), ())
        return cls(words, csr_array((np.array(counts, float), (rows, columns)), shape=(len(bags), len(words))))

    def top(self, rows: np.ndarray) -> list[list[Any]]:
        """Return pairs [word, z] of words significantly more frequent in the texts of some steps, (N,) of 0 and 1."""
        if len(self.words) < 2:
            return []
        counts, total = rows @ self.counts, self.counts.sum(0)
        z = log_odds(counts, total - counts, PRIOR_WORDS * total / total.sum())
        best = np.argsort(-z, kind="stable")[:TOP_WORDS]
        return [[self.words[index], float(z[index])] for index in best if z[index] > CLEAR_Z and counts[index] > 0]


def most_informative(rows: np.ndarray, labels: Labels) -> dict[str, Any]:
    """Return the attribute about which a code is most informative, given its steps (N,) bool.

    `strength` is the divergence of the attribute's distribution over the code's steps from that over all steps, as a
    share of its entropy; `value` contributes most to it, with frequency `share` in the code's steps and `base` in all.
    The counts are smoothed towards the distribution over all steps, because a code that is used twice would otherwise
    seem to determine everything.
    """
    best: dict[str, Any] = {}
    for name, (values, index) in labels.items():
        base, counts = np.bincount(index) / len(index), np.bincount(index[rows], minlength=len(values))
        smooth = (counts + LABEL_PRIOR * base) / (counts.sum() + LABEL_PRIOR)
        uncertainty, parts = -(base * np.log2(base)).sum(), smooth * np.log2(smooth / base)
        strength = float(parts.sum() / uncertainty) if uncertainty > 0 else 0.0
        if not best or strength > best["strength"]:
            value = int(parts.argmax())
            best = {
                "attribute": name,
                "value": str(values[value]),
                "share": float(counts[value] / counts.sum()),
                "base": float(base[value]),
                "strength": strength,
            }
    return best


def make_cards(
    codes: np.ndarray,
    fit: np.ndarray,
    lengths: Sequence[int],
    texts: Sequence[str | None],
    labels: Mapping[str, np.ndarray],
    vectors: np.ndarray,
) -> list[dict[str, Any]]:
    """Return a card for each used code, the most used first.

    Takes codes (N,S), the cosines `fit` (N,S) of slots with their codes, labels (N,) by name, and the codebook's
    vectors (K,D). A card's `pages` are row numbers, ordered by `fit`, one of each story before a second of any.
    """
    size = len(vectors)
    uses = np.bincount(codes.ravel(), minlength=size)
    order = [code for code in np.argsort(-uses, kind="stable").tolist() if uses[code]]
    table = _CardTable(codes, fit, lengths, texts, labels, vectors, uses)
    num_pages = TOP_PAGES if len(codes) <= MAX_PAGES else min(TOP_PAGES, max(1, MAX_PAGES // len(order)))
    return [table.card(code, num_pages if place < MAX_PAGES else 0) for place, code in enumerate(order)]


class _CardTable:
    """Everything that all cards are made of, counted once."""

    def __init__(
        self,
        codes: np.ndarray,
        fit: np.ndarray,
        lengths: Sequence[int],
        texts: Sequence[str | None],
        labels: Mapping[str, np.ndarray],
        vectors: np.ndarray,
        uses: np.ndarray,
    ) -> None:
        self.codes, self.fit, self.uses, size = codes, fit, uses, len(vectors)
        self.presence = code_presence(codes, size).tocsc()
        self.following, self.words = successions(codes, lengths, size), WordTable.of(texts)
        self.story, self.position = story_of_rows(lengths), np.concatenate([np.arange(length) for length in lengths])
        self.labels = {name: np.unique(column, return_inverse=True) for name, column in labels.items()}
        self.similarity = vectors @ vectors.T

    def card(self, code: int, num_pages: int) -> dict[str, Any]:
        """Return the card of one code, with up to `num_pages` pages."""
        rows = np.zeros(len(self.codes), dtype=bool)
        rows[self.presence[:, [code]].nonzero()[0]] = True
        where, by_position = self.codes == code, np.bincount(self.position)
        similarity = self.similarity[code]
        best_fit = np.where(where, self.fit, -np.inf).max(1)
        return {
            "code": code,
            "uses": int(self.uses[code]),
            "steps": int(rows.sum()),
            "slots": where.sum(0).tolist(),
            "positions": (np.bincount(self.position[rows], minlength=len(by_position)) / by_position).tolist(),
            "words": self.words.top(rows.astype(float)),
            "successors": _successors(self.following[[code]].toarray()[0]),
            "near": [[other, float(similarity[other])] for other in _nearest(similarity, self.uses, code)],
            "tells": most_informative(rows, self.labels),
            "pages": _pages(best_fit, rows, self.story, num_pages),
        }


def _successors(counts: np.ndarray) -> list[list[Any]]:
    """Return the codes that most often follow in the same slot, each with its share of all successors."""
    best = [index for index in np.argsort(-counts, kind="stable")[:TOP_CODES].tolist() if counts[index]]
    return [[index, float(counts[index] / counts.sum())] for index in best]


def _nearest(similarity: np.ndarray, uses: np.ndarray, code: int) -> list[int]:
    """Return the used codes with the highest cosine similarity (K,), without `code` itself."""
    order = np.argsort(-similarity, kind="stable").tolist()
    return [other for other in order if uses[other] and other != code][:TOP_CODES]


def _pages(fit: np.ndarray, rows: np.ndarray, story: np.ndarray, count: int) -> list[int]:
    """Return up to `count` of the steps in `rows`, best fit first, one of each story before a second."""
    ordered = sorted(np.flatnonzero(rows).tolist(), key=lambda row: (-fit[row], row))
    seen: Counter[int] = Counter()
    ranks = []
    for row in ordered:
        ranks.append(seen[story[row]])
        seen[story[row]] += 1
    return [row for _, row in sorted(zip(ranks, ordered, strict=True), key=lambda pair: pair[0])][:count]
