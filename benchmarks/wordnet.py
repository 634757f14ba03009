"""Nouns of WordNet 3.0 and what kind of thing each is, read from the files of Debian's package wordnet-base."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

ANIMAL, PERSON = 5, 18  # Numbers of WordNet's lexicographer files.
THINGS = {6, 13, 17, 20}  # Artifacts, food, objects, plants.
LOCATION = 15
BEINGS = {"imaginary_being", "mythical_being", "monster"}
BUILT = {"structure", "room", "way", "area", "place_of_business"}
LAND = {"geological_formation", "body_of_water", "land", "tract", "location", "biome"}
COLOUR = {"chromatic_color"}
NUM_SENSES = 2  # Of a word that count, its most frequent ones.
_SYNSET = re.compile(r"\d{8}")
_NOUN, _OTHERS = "1", "2345"  # Parts of speech in the keys of senses.


@dataclass(frozen=True)
class Synset:
    """One meaning: its words as they are spelt, number of the lexicographer file, more general meanings, definition."""

    words: tuple[str, ...]
    lexicographer: int
    hypernyms: tuple[str, ...]
    is_name: bool
    definition: str


@dataclass(frozen=True)
class Sense:
    """What a noun means to a story: its kind (character, person, place, object or colour) and a description."""

    kind: str
    description: str


class WordNet:
    """The nouns of the folder that contains data.noun, index.noun, index.adj and cntlist.rev."""

    def __init__(self, folder: Path) -> None:
        self.synsets = dict(_synsets(folder / "data.noun"))
        self.senses = dict(_index(folder / "index.noun"))
        self.adjectives = {word for word, _ in _index(folder / "index.adj")}
        self.counts = _counts(folder / "cntlist.rev")
        self.forms = {line.split()[0] for line in _lines(folder / "verb.exc")}  # Such as "fed".

    def sense(self, word: str) -> Sense | None:
        """Return the first sense of a noun that a picture can show, an animal before others; names are left out."""
        offsets = [offset for offset in self.senses.get(word, ())[:NUM_SENSES] if word in self.synsets[offset].words]
        found = [(kind, offset) for offset in offsets if (kind := self._kind(offset))]
        if not found:
            return None
        kind, offset = min(found, key=lambda pair: pair[0] != "character")
        return Sense(kind, self._describe(word, offset))

    def is_noun(self, word: str) -> bool:
        """Return whether a word is used as a noun more often than as anything else."""
        noun, other = self.counts[word, _NOUN], sum(self.counts[word, part] for part in _OTHERS)
        if word in self.forms or word not in self.senses:
            return False
        return noun > other or (not noun and not other and word not in self.adjectives) or self._names_a_colour(word)

    def _names_a_colour(self, word: str) -> bool:
        return any(self._kind(offset) == "colour" for offset in self.senses[word][:NUM_SENSES])

    def frequent(self) -> set[str]:
        """Return the words that are nouns in WordNet's tagged texts."""
        return {word for (word, part), count in self.counts.items() if part == _NOUN and count}

    def _kind(self, offset: str) -> str | None:
        synset, general = self.synsets[offset], self._general(offset)
        if synset.is_name:
            return None
        if general & COLOUR:
            return "colour"
        if synset.lexicographer == ANIMAL or general & BEINGS:
            return "character"
        if synset.lexicographer == PERSON:
            return "person"
        if synset.lexicographer == LOCATION or general & LAND or ("artifact" in general and general & BUILT):
            return "place"
        return "object" if synset.lexicographer in THINGS else None

    def _general(self, offset: str) -> set[str]:
        """Return the words of a meaning and of all that are more general."""
        words, todo = set[str](), [offset]
        while todo:
            synset = self.synsets[todo.pop()]
            words.update(synset.words)
            todo.extend(synset.hypernyms)
        return words

    def _describe(self, word: str, offset: str) -> str:
        synset = self.synsets[offset]
        general = [self.synsets[hypernym].words[0] for hypernym in synset.hypernyms]
        return f"{word}, {', '.join([*synset.words[:4], *general])}; {synset.definition}".replace("_", " ")


def _synsets(path: Path) -> Iterator[tuple[str, Synset]]:
    """Yield every meaning by its offset."""
    for line in _lines(path):
        head, _, gloss = line.partition("|")
        cells = head.split()
        end = 4 + 2 * int(cells[3], 16)
        pointers = [cells[end + 1 + 4 * i : end + 4 + 4 * i] for i in range(int(cells[end]))]
        hypernyms = tuple(offset for symbol, offset, part in pointers if symbol in ("@", "@i") and part == "n")
        is_name = any(symbol == "@i" for symbol, *_ in pointers)
        yield (
            cells[0],
            Synset(tuple(cells[4:end:2]), int(cells[1]), hypernyms, is_name, re.split('[;"]', gloss)[0].strip()),
        )


def _index(path: Path) -> Iterator[tuple[str, list[str]]]:
    """Yield every word with the offsets of its meanings, the most frequent first."""
    for line in _lines(path):
        word, *cells = line.split()
        yield word, [cell for cell in cells[3:] if _SYNSET.fullmatch(cell)]


def _counts(path: Path) -> Counter[tuple[str, str]]:
    """Return how often each word was seen as each part of speech in WordNet's tagged texts."""
    counts = Counter[tuple[str, str]]()
    for line in path.read_text("latin-1").splitlines():
        key, _, count = line.split()
        word, _, rest = key.partition("%")
        counts[word, rest[0]] += int(count)
    return counts


def _lines(path: Path) -> Iterator[str]:
    return (line for line in path.read_text("latin-1").splitlines() if not line.startswith(" "))
