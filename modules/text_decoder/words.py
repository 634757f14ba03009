"""Words of texts, and the known words nearest to those that the training texts lack: inflection, meaning, spelling."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass, field

from modules.text_decoder.nearest_words import NONE, NearestWords

_WORD = re.compile(r"\w+(?:'\w+)*")
_WITH_ARTICLE = re.compile(rf"(?:\b(an?)(\s+))?({_WORD.pattern})", re.IGNORECASE)
_VOWELS = "aeiou"
_ONE_EDIT, _TWO_EDITS = 4, 7  # Letters from which on a word may be misspelled by so many edits.
_IRREGULAR = {
    "gave": "give",
    "given": "give",
    "found": "find",
    "slept": "sleep",
    "met": "meet",
    "flew": "fly",
    "drove": "drive",
    "saw": "see",
    "seen": "see",
    "wept": "weep",
    "took": "take",
    "got": "get",
    "told": "tell",
    "brought": "bring",
    "lost": "lose",
    "went": "go",
    "held": "hold",
    "fell": "fall",
    "lit": "light",
    "had": "have",
    "wore": "wear",
    "felt": "feel",
    "laid": "lay",
}
_DOUBLES = re.compile("[^aeiou]*[aeiou][^aeiouwxy]")
_ENDINGS = (("ies", "y"), ("ied", "y"), ("es", ""), ("s", ""), ("ed", ""), ("ed", "e"), ("ing", ""), ("ing", "e"))


@dataclass(frozen=True)
class Reading:
    """A text as a model reads it.

    Inflections of known words have become known ones in `text`, and so have the words of `replaced`, with the known
    word, near in meaning or in spelling, that each was read as. No known word is near those of `unknown`, which stay.
    """

    text: str
    replaced: Mapping[str, str] = field(default_factory=dict)
    unknown: tuple[str, ...] = ()


def find_words(text: str) -> list[str]:
    """Return the lower-case words of a text in order; a straight or curly apostrophe belongs to its word."""
    return _WORD.findall(_normalize(text).lower())


def _normalize(text: str) -> str:
    return unicodedata.normalize("NFC", text).replace("\N{RIGHT SINGLE QUOTATION MARK}", "'")


class KnownWords:
    """The words of the training texts, looked up by inflection, by meaning and by spelling."""

    def __init__(self, words: Iterable[str], nearest: NearestWords = NONE) -> None:
        self.words, self.nearest = frozenset(words), nearest
        self._by_base: dict[str, str] = {}
        for word in sorted(self.words):
            for base in _bases(word):
                self._by_base.setdefault(base, word)

    def inflection(self, word: str) -> str | None:
        """Return a known inflection of the same word, or None."""
        return next((self._by_base[base] for base in _bases(word) if base in self._by_base), None)

    def meant(self, word: str, taken: Collection[str] = ()) -> str | None:
        """Return the known word that is nearest in meaning and not `taken`, or None: two words stay two."""
        listed = [near.word for base in _bases(word) for near in self.nearest.get(base, ())]
        known = [near for near in listed if near in self.words]
        return next((near for near in known if near not in taken), known[0] if known else None)

    def misspelled(self, word: str) -> str | None:
        """Return the known word that is nearest in spelling, or None if none is near."""
        allowed = 0 if len(word) < _ONE_EDIT else 1 if len(word) < _TWO_EDITS else 2
        # A short word that differs by one letter is usually another word.
        reach = range(max(_ONE_EDIT - 1, len(word) - allowed), len(word) + allowed + 1)
        candidates = sorted(known for known in self.words if len(known) in reach)
        near = [(edits(word, known), known[0] != word[0], known) for known in candidates]
        best = min(near, default=(allowed + 1, True, ""))
        return best[2] if best[0] <= allowed else None

    def read(self, text: str, unseen: Iterable[str]) -> Reading:
        """Return a text with known words in place of its `unseen` ones, as far as there are near ones."""
        forms, replaced, unknown = dict[str, str](), dict[str, str](), list[str]()
        taken = {*find_words(text)}
        for word in unseen:
            if (form := self.inflection(word)) is not None:
                forms[word] = form
            elif (near := self.meant(word, taken) or self.misspelled(word)) is not None:
                replaced[word] = near
                taken.add(near)
            else:
                unknown.append(word)
        instead = forms | replaced
        return Reading(_replace(text, instead) if instead else text, replaced, tuple(unknown))


def _replace(text: str, instead: Mapping[str, str]) -> str:
    def known_word(match: re.Match[str]) -> str:
        article, space, word = match.groups()
        known = instead.get(word.lower())
        if known is None:
            return match[0]
        if article and (known[0] in _VOWELS) != (word[0].lower() in _VOWELS):
            article = article[0] + ("n" if known[0] in _VOWELS else "")
        return (article or "") + (space or "") + (known.upper() if len(word) > 1 and word.isupper() else known)

    return _WITH_ARTICLE.sub(known_word, _normalize(text))


def edits(one: str, other: str) -> int:
    """Return how many letters must be added, removed, changed or swapped with the next to turn one into the other."""
    rows = [list(range(len(other) + 1))]
    for i, letter in enumerate(one, 1):
        row = [i]
        for j, letter_of_other in enumerate(other, 1):
            cost = min(rows[-1][j] + 1, row[-1] + 1, rows[-1][j - 1] + (letter != letter_of_other))
            if i > 1 and j > 1 and letter == other[j - 2] and one[i - 2] == letter_of_other:
                cost = min(cost, rows[-2][j - 2] + 1)
            row.append(cost)
        rows.append(row)
    return rows[-1][-1]


def _bases(word: str) -> Iterator[str]:
    """Yield the uninflected words that a word may come from, itself first."""
    yield word
    if word in _IRREGULAR:
        yield _IRREGULAR[word]
    for ending, instead in _ENDINGS:
        stem = word.removesuffix(ending)
        if stem != word and len(stem) > 1 and (instead or _takes(stem, ending)):
            yield stem + instead
        if stem != word and ending in ("ed", "ing") and len(stem) > 3 and stem[-1] == stem[-2]:
            yield stem[:-1]  # "hugged" comes from "hug".


def _takes(stem: str, ending: str) -> bool:
    """Return whether a word takes an ending as it is: "play" does, "car" would double its last letter."""
    if ending == "es":
        return stem.endswith(("s", "x", "z", "ch", "sh", "o"))
    return ending == "s" or not _DOUBLES.fullmatch(stem)
