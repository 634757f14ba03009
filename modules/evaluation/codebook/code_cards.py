"""A card for every code: the words and pictures that go with it, where it stands, what follows it, and what it tells."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy.sparse import csr_array

from modules.evaluation.codebook.code_structure import code_presence, successions
from modules.text_decoder.tokenizers import find_words

PRIOR_WORDS = 500  # Weight of the prior on word frequencies: that of so many words of any text.
CLEAR_Z = 1.96
TOP_WORDS, TOP_CODES, TOP_PAGES = 8, 4, 6
MAX_PAGES = 3000  # Different ones on all cards together: what fits into one file that a browser opens at once.
LABEL_PRIOR = 2.0


def log_odds(counts: np.ndarray, others: np.ndarray, prior: np.ndarray) -> np.ndarray:
    """z-scores (V,) of how much more a word belongs to `counts` than to `others` (V,): log-odds with an informative
    Dirichlet prior.

    `prior` (V,) > 0 are pseudo-counts, which keep rare words from coming first (Monroe, Colaresi and Quinn, Political
    Analysis 16, 2008, equations 16, 20 and 22).
    """
    own, rest = counts + prior, others + prior
    difference = np.log(own / (own.sum() - own)) - np.log(rest / (rest.sum() - rest))
    return difference / np.sqrt(1 / own + 1 / rest)


@dataclass(frozen=True)
class WordTable:
    """`counts` (N,V): how often each step's text holds each of the words."""

    words: list[str]
    counts: csr_array

    @classmethod
    def of(cls, texts: Sequence[str | None]) -> WordTable:
        """Count the words of N texts; words of a single text are left out, as they can tell nothing of a code."""
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
        """The words [word, z] that clearly belong to the texts of some steps, given as (N,) of 0 and 1, and not to the
        others.
        """
        if len(self.words) < 2:
            return []
        counts, total = rows @ self.counts, self.counts.sum(0)
        z = log_odds(counts, total - counts, PRIOR_WORDS * total / total.sum())
        best = np.argsort(-z, kind="stable")[:TOP_WORDS]
        return [[self.words[index], float(z[index])] for index in best if z[index] > CLEAR_Z and counts[index] > 0]


def what_it_tells(rows: np.ndarray, labels: Mapping[str, tuple[np.ndarray, np.ndarray]]) -> dict[str, Any]:
    """The attribute in which the steps of a code (N,) bool differ most from all steps, the value that does most of it,
    and the share of that value in both.

    Measured by the divergence in bits from the attribute's own distribution, as a share of its entropy; the code's
    counts are drawn towards that distribution, or a code that is used twice would tell everything. `labels` are, by
    name, an attribute's values and which of them each step has (N,).
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
    """One card for each used code, the most used first, from codes (N,S), the cosines (N,S) of slots and their codes,
    and the codebook (K,d). `pages` are row numbers, those whose slot lies nearest to the code first, one of each story
    before a second.
    """
    size = len(vectors)
    uses = np.bincount(codes.ravel(), minlength=size)
    order = [code for code in np.argsort(-uses, kind="stable").tolist() if uses[code]]
    presence, following, words = (
        code_presence(codes, size).tocsc(),
        successions(codes, lengths, size),
        WordTable.of(texts),
    )
    story = np.repeat(np.arange(len(lengths)), lengths)
    position = np.concatenate([np.arange(length) for length in lengths])
    by_position = np.bincount(position)
    numbered = {name: np.unique(column, return_inverse=True) for name, column in labels.items()}
    similarity = vectors @ vectors.T
    pages_each = TOP_PAGES if len(codes) <= MAX_PAGES else min(TOP_PAGES, max(1, MAX_PAGES // len(order)))
    cards = []
    for place, code in enumerate(order):
        rows = np.zeros(len(codes), dtype=bool)
        rows[presence[:, [code]].nonzero()[0]] = True
        where = codes == code
        cards.append(
            {
                "code": code,
                "uses": int(uses[code]),
                "steps": int(rows.sum()),
                "slots": where.sum(0).tolist(),
                "positions": (np.bincount(position[rows], minlength=len(by_position)) / by_position).tolist(),
                "words": words.top(rows.astype(float)),
                "successors": _successors(following[[code]].toarray()[0]),
                "near": [
                    [int(other), float(similarity[code, other])] for other in _nearest(similarity[code], uses, code)
                ],
                "tells": what_it_tells(rows, numbered),
                "pages": _pages(
                    np.where(where, fit, -np.inf).max(1), rows, story, pages_each if place < MAX_PAGES else 0
                ),
            }
        )
    return cards


def _successors(counts: np.ndarray) -> list[list[Any]]:
    """The codes that most often follow in the same slot, each with its share."""
    best = [index for index in np.argsort(-counts, kind="stable")[:TOP_CODES].tolist() if counts[index]]
    return [[index, float(counts[index] / counts.sum())] for index in best]


def _nearest(similarity: np.ndarray, uses: np.ndarray, code: int) -> list[int]:
    order = np.argsort(-similarity, kind="stable").tolist()
    return [other for other in order if uses[other] and other != code][:TOP_CODES]


def _pages(fit: np.ndarray, rows: np.ndarray, story: np.ndarray, count: int) -> list[int]:
    """Up to `count` of the steps in `rows`, the best first, a story's second one only after every story's first."""
    ordered = sorted(np.flatnonzero(rows).tolist(), key=lambda row: (-fit[row], row))
    seen: Counter[int] = Counter()
    ranks = []
    for row in ordered:
        ranks.append(seen[story[row]])
        seen[story[row]] += 1
    return [row for _, row in sorted(zip(ranks, ordered, strict=True), key=lambda pair: pair[0])][:count]
