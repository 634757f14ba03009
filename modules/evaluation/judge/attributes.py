"""What pages hold (story world only): labels matched in texts and read off pictures, against the truth and against each
other.

A page's truth is a step's `attributes`; a page's reading is the judge's, with the same labels. Every figure has as its
ceiling what real texts and real renders score, and as its floor what pages of other stories score.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from modules.evaluation.metrics.statistics import Figure, bootstrap_mean, rows_of_other_stories
from modules.storyworld import mentioned

GROUPS = {
    "characters": "character",
    "colors": "colour",
    "places": "place",
    "objects": "object",
    "weathers": "weather",
    "actions": "action",
}
Labels = Mapping[str, Any]
Score = tuple[float, float]  # What a page earns, of how much.


def score_texts(
    true_texts: Sequence[str], decoded_texts: Sequence[str], lengths: Sequence[int], seed: int = 0
) -> dict[str, Figure]:
    """How often a decoded text names exactly what the true text names, over the steps whose true text names any.

    `lengths` are the stories' numbers of steps. The floor is the same score for a true text of another story in place
    of the decoded one.
    """
    true, decoded = [mentioned(text) for text in true_texts], [mentioned(text) for text in decoded_texts]

    def measure(group: str) -> Callable[[Labels, Labels], Score]:
        return lambda truth, told: (
            float(bool(truth[group]) and told[group] == truth[group]),
            float(bool(truth[group])),
        )

    measures = {name: measure(group) for group, name in GROUPS.items()}
    return _figures(measures, true, decoded, true, lengths, seed)


def score_pictures(
    truths: Sequence[Labels],
    readings: Sequence[Labels],
    real_readings: Sequence[Labels],
    lengths: Sequence[int],
    seed: int = 0,
    hero_only: bool = False,
) -> dict[str, Figure]:
    """How often pictures show what they should, for N pages of stories of `lengths` pages.

    Character F1 over all kinds; frame accuracy: exactly the right kinds (both as for PororoSV, arXiv 1812.02784); the
    colour of every character, which must be there; the object where there is one. Hero-colour persistence asks for no
    truth: in how many of a story's pages that show its hero it wears what it wears most often (stories of several
    pages). `hero_only` is for stories told from a prompt, which settles no more.
    """
    measures = {"hero": PICTURE_MEASURES["hero"]} if hero_only else PICTURE_MEASURES
    figures = _figures(measures, truths, readings, real_readings, lengths, seed)
    if max(lengths) > 1:
        figures["hero_colour_persistence"] = _persistence(truths, readings, real_readings, lengths, seed)
    return figures


def score_agreement(
    texts: Sequence[str],
    readings: Sequence[Labels],
    true_texts: Sequence[str],
    real_readings: Sequence[Labels],
    lengths: Sequence[int],
    seed: int = 0,
) -> dict[str, Figure]:
    """In how many pages the picture shows every character, the object and the place that the text beside it names."""
    named, truly_named = [mentioned(text) for text in texts], [mentioned(text) for text in true_texts]
    real = _mean([_agree(*page) for page in zip(truly_named, real_readings, strict=True)])
    floor = _floor(_agree, named, readings, lengths, seed)
    return {
        "text_and_picture_agree": _figure(
            [_agree(*page) for page in zip(named, readings, strict=True)], lengths, seed, floor, real
        )
    }


def score_obedience(
    prompts: Sequence[str], texts: Sequence[str], readings: Sequence[Labels], lengths: Sequence[int], seed: int = 0
) -> dict[str, Figure]:
    """How much of what a prompt names (characters, object, place) some page's text names, and some page's picture
    shows.
    """
    told, shown, start = [], [], 0
    for length in lengths:
        pages = range(start, start := start + length)
        told.append(
            {
                group: set().union(*(mentioned(texts[row])[group] for row in pages))
                for group in ("characters", "objects", "places")
            }
        )
        shown.append(
            {
                "characters": set().union(*(readings[row]["characters"] for row in pages)),
                "objects": {readings[row]["object"] for row in pages},
                "places": {readings[row]["place"] for row in pages},
            }
        )
    wanted, ones = [mentioned(prompt) for prompt in prompts], [1] * len(lengths)
    figures = {}
    for group in ("characters", "objects", "places"):
        for where, found in (("texts", told), ("pictures", shown)):

            def measure(wish: Labels, story: Labels, group: str = group) -> Score:
                return float(len(wish[group] & story[group])), float(len(wish[group]))

            scores = [measure(*pair) for pair in zip(wanted, found, strict=True)]
            figures[f"{GROUPS[group]}_in_{where}"] = _figure(
                scores, ones, seed, _floor(measure, wanted, found, ones, seed), 1.0
            )
    return figures


def _shown(name: str) -> Callable[[Labels, Labels], Score]:
    return lambda truth, reading: (float(truth[name] == reading[name]), 1.0)


def _overlap(truth: Labels, reading: Labels) -> Score:
    kinds = set(truth["characters"])
    return 2.0 * len(kinds & reading["characters"]), float(len(kinds) + len(reading["characters"]))


def _colors(truth: Labels, reading: Labels) -> Score:
    worn = [
        reading["colors"].get(kind) == color for kind, color in zip(truth["characters"], truth["colors"], strict=True)
    ]
    return float(sum(worn)), float(len(worn))


PICTURE_MEASURES: dict[str, Callable[[Labels, Labels], Score]] = {
    "character_f1": _overlap,
    "frame_accuracy": lambda truth, reading: (float(set(truth["characters"]) == reading["characters"]), 1.0),
    "colour": _colors,
    "place": _shown("place"),
    "object": lambda truth, reading: (
        (float(truth["object"] == reading["object"]), 1.0) if truth["object"] else (0.0, 0.0)
    ),
    "weather": _shown("weather"),
    "action": _shown("action"),
    "hero": lambda truth, reading: (float(truth["hero"] in reading["characters"]), 1.0),
    "hero_colour": lambda truth, reading: (float(reading["colors"].get(truth["hero"]) == truth["colors"][0]), 1.0),
}


def _agree(named: Labels, reading: Labels) -> Score:
    shown = reading["characters"] | {reading["object"], reading["place"]}
    return float(named["characters"] | named["objects"] | named["places"] <= shown), 1.0


def _figures(
    measures: Mapping[str, Callable[[Labels, Labels], Score]],
    truths: Sequence[Labels],
    pages: Sequence[Labels],
    real: Sequence[Labels],
    lengths: Sequence[int],
    seed: int,
) -> dict[str, Figure]:
    return {
        name: _figure(
            [measure(*pair) for pair in zip(truths, pages, strict=True)],
            lengths,
            seed,
            _floor(measure, truths, real, lengths, seed),
            _mean([measure(*pair) for pair in zip(truths, real, strict=True)]),
        )
        for name, measure in measures.items()
    }


def _figure(
    scores: Sequence[Score], lengths: Sequence[int], seed: int, floor: float | None, ceiling: float | None
) -> Figure:
    """Scores of N pages -> their mean with its interval over stories."""
    starts = np.cumsum([0, *lengths])[:-1]
    earned, possible = (np.add.reduceat(column, starts) for column in np.array(scores, dtype=float).T)
    return bootstrap_mean(earned, possible, seed, floor, ceiling)


def _mean(scores: Sequence[Score]) -> float | None:
    earned, possible = np.array(scores, dtype=float).sum(0)
    return earned / possible if possible else None


def _floor(
    measure: Callable, truths: Sequence[Labels], pages: Sequence[Labels], lengths: Sequence[int], seed: int
) -> float | None:
    """The score of pages of other stories."""
    others = rows_of_other_stories(np.repeat(np.arange(len(lengths)), lengths), seed)
    return (
        None
        if others is None
        else _mean([measure(truth, pages[row]) for truth, row in zip(truths, others, strict=True)])
    )


def _persistence(
    truths: Sequence[Labels], readings: Sequence[Labels], real: Sequence[Labels], lengths: Sequence[int], seed: int
) -> Figure:
    worn = [reading["colors"].get(truth["hero"]) for truth, reading in zip(truths, readings, strict=True)]
    really = [reading["colors"].get(truth["hero"]) for truth, reading in zip(truths, real, strict=True)]
    anything = [color for color in really if color is not None]
    at_random = np.random.default_rng(seed).permutation(anything).tolist() if anything else []
    mixed = [at_random.pop() if color is not None else None for color in really]
    value, ceiling, floor = (_most_common(colors, lengths) for colors in (worn, really, mixed))
    return _figure(value, [1] * len(lengths), seed, _mean(floor), _mean(ceiling))


def _most_common(colors: Sequence[str | None], lengths: Sequence[int]) -> list[Score]:
    """For each story: in how many pages the most common colour is seen, of the pages where any is."""
    scores, start = [], 0
    for length in lengths:
        seen = Counter(color for color in colors[start : start + length] if color is not None)
        scores.append((float(max(seen.values(), default=0)), float(seen.total())))
        start += length
    return scores
