"""Whether stories from prompts do what the prompts ask of two characters and of colours: story world only.

All measures are of whole stories. Ceilings are the scores of the true stories, floors those of other true stories.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from modules.evaluation.judge.attributes import Score, estimate_scores, mean_score
from modules.evaluation.metrics.statistics import Estimate, rows_of_other_stories, story_of_rows
from modules.storyworld import mentioned
from modules.storyworld.wishes import Wish

Labels = Mapping[str, Any]
Measure = Callable[[Wish, Sequence[str], Sequence[Labels]], Score]  # Of a prompt, its texts and its pictures.


def score_roles(
    prompts: Sequence[str],
    pages: tuple[Sequence[str], Sequence[Labels]],
    true_pages: tuple[Sequence[str], Sequence[Labels]],
    lengths: Sequence[int],
    seed: int = 0,
) -> dict[str, Estimate]:
    """Return how often stories give two characters the roles asked for, show both, and keep the colours asked for.

    `pages` are the texts and the judge's predictions of the pictures, of stories of `lengths` pages.
    """
    wishes, ones = [Wish.of(prompt) for prompt in prompts], [1] * len(lengths)
    stories, truth = _split(*pages, lengths), _split(*true_pages, lengths)
    others = rows_of_other_stories(story_of_rows(ones), seed)
    estimates = {}
    for name, measure in ROLE_MEASURES.items():
        floor = None
        if others is not None:
            floor = mean_score([measure(wish, *truth[row]) for wish, row in zip(wishes, others, strict=True)])
        ceiling = mean_score([measure(wish, *story) for wish, story in zip(wishes, truth, strict=True)])
        scores = [measure(wish, *story) for wish, story in zip(wishes, stories, strict=True)]
        estimates[name] = estimate_scores(scores, ones, seed, floor, ceiling)
    return estimates


def _split(
    texts: Sequence[str], pictures: Sequence[Labels], lengths: Sequence[int]
) -> list[tuple[Sequence[str], Sequence[Labels]]]:
    stories, start = [], 0
    for length in lengths:
        stories.append((texts[start : start + length], pictures[start : start + length]))
        start += length
    return stories


def _giver(wish: Wish, texts: Sequence[str], _: Sequence[Labels]) -> Score:
    """In every text in which the thing asked for is given, the giver comes first; there is such a text."""
    if wish.giver is None:
        return 0.0, 0.0
    things, named = mentioned(wish.text)["objects"], []
    for text in texts:
        found = mentioned(text)
        if "give" in found["actions"] and found["objects"] & things:
            named.append(Wish.of(text).characters)
    return float(bool(named) and all(characters == wish.giver for characters in named)), 1.0


def _helped(wish: Wish, texts: Sequence[str], _: Sequence[Labels]) -> Score:
    """Some text names both; every text that names one of them alone names the one who is helped."""
    if wish.helper is None:
        return 0.0, 0.0
    named = [Wish.of(text).characters for text in texts]
    alone = {characters for characters in named if len(characters) == 1}
    both = any(set(characters) == set(wish.helper) for characters in named)
    return float(both and alone <= {(wish.helper[1],)}), 1.0


def _both_in_texts(wish: Wish, texts: Sequence[str], _: Sequence[Labels]) -> Score:
    """Some text names both characters that the prompt names."""
    if len(wish.characters) != 2:
        return 0.0, 0.0
    return float(any(set(wish.characters) <= mentioned(text)["characters"] for text in texts)), 1.0


def _both_in_pictures(wish: Wish, _: Sequence[str], pictures: Sequence[Labels]) -> Score:
    """Some picture shows both characters that the prompt names."""
    if len(wish.characters) != 2:
        return 0.0, 0.0
    return float(any(set(wish.characters) <= set(page["characters"]) for page in pictures)), 1.0


def _colors_in_texts(wish: Wish, texts: Sequence[str], _: Sequence[Labels]) -> Score:
    """Characters whose clothes are named in the colour asked for, and in no other."""
    worn = [Wish.of(text).colors for text in texts]
    named = {kind: {page[kind] for page in worn if kind in page} for kind in wish.colors}
    return float(sum(named[kind] == {color} for kind, color in wish.colors.items())), float(len(wish.colors))


def _colors_in_pictures(wish: Wish, _: Sequence[str], pictures: Sequence[Labels]) -> Score:
    """The share of each character's pictures in which it wears the colour asked for."""
    earned = 0.0
    for kind, color in wish.colors.items():
        shown = [page["colors"].get(kind) for page in pictures if kind in page["characters"]]
        earned += shown.count(color) / max(1, len(shown))
    return earned, float(len(wish.colors))


ROLE_MEASURES: dict[str, Measure] = {
    "giver_in_texts": _giver,
    "helper_in_texts": _helped,
    "both_in_texts": _both_in_texts,
    "both_in_pictures": _both_in_pictures,
    "asked_colour_in_texts": _colors_in_texts,
    "asked_colour_in_pictures": _colors_in_pictures,
}
