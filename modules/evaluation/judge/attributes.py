"""Attribute metrics, for the story world only: attributes named in texts and shown in pictures, against the truth.

The truth of a page is its step's `attributes`; the attributes of a picture are those that the judge predicts. Every
ceiling is the score of real texts and real renders, every floor that of pages of other stories.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from modules.evaluation.metrics.statistics import Estimate, mean_over_steps, rows_of_other_stories, story_of_rows
from modules.storyworld import mentioned
from modules.storyworld.wishes import Wish

GROUPS = {
    "characters": "character",
    "colors": "colour",
    "places": "place",
    "objects": "object",
    "weathers": "weather",
    "actions": "action",
}
PROMPT_GROUPS = ("characters", "objects", "places")
Labels = Mapping[str, Any]
Score = tuple[float, float]  # What a page earned, out of how much.
Measure = Callable[[Labels, Labels], Score]  # Of a page's truth and its prediction.


def score_texts(
    true_texts: Sequence[str], decoded_texts: Sequence[str], lengths: Sequence[int], seed: int = 0
) -> dict[str, Estimate]:
    """Return how often a decoded text names exactly what the true text names, over steps whose true text names any.

    "wearer" is not only which colours are named but who wears each. `lengths` are the stories' numbers of steps. The
    floor is the score of a true text of another story.
    """

    def names_the_same(group: str) -> Measure:
        return lambda truth, named: (float(named[group] == truth[group]), 1.0) if truth[group] else (0.0, 0.0)

    true, decoded = [_named_in(text) for text in true_texts], [_named_in(text) for text in decoded_texts]
    measures = {name: names_the_same(group) for group, name in {**GROUPS, "worn": "wearer"}.items()}
    return _estimates(measures, true, decoded, true, lengths, seed)


def score_pictures(
    truths: Sequence[Labels],
    predictions: Sequence[Labels],
    real_predictions: Sequence[Labels],
    lengths: Sequence[int],
    seed: int = 0,
    hero_only: bool = False,
) -> dict[str, Estimate]:
    """Return how often pictures show what they should, for N pages of stories of `lengths` pages.

    Character F1 over all kinds, and frame accuracy: exactly the right kinds (both as for PororoSV, arXiv 1812.02784);
    the colour of every character that should be there; the object where there is one. Hero-colour persistence needs no
    true colour: the share of a story's pages with its hero in which it wears its most frequent colour. `hero_only`, for
    stories generated from a prompt alone, leaves only the metrics that a prompt determines.
    """
    measures = {"hero": PICTURE_MEASURES["hero"]} if hero_only else PICTURE_MEASURES
    estimates = _estimates(measures, truths, predictions, real_predictions, lengths, seed)
    if max(lengths) > 1:
        estimates["hero_colour_persistence"] = _persistence(truths, predictions, real_predictions, lengths, seed)
    return estimates


def score_agreement(
    texts: Sequence[str],
    predictions: Sequence[Labels],
    true_texts: Sequence[str],
    real_predictions: Sequence[Labels],
    lengths: Sequence[int],
    seed: int = 0,
) -> dict[str, Estimate]:
    """Return the share of pages whose picture shows every character, the object and the place that their text names,
    and, of the texts that name colours of clothes, whose characters wear these colours in the picture.
    """
    named, truly_named = [_named_in(text) for text in texts], [_named_in(text) for text in true_texts]
    estimates = {}
    for name, measure in (("text_and_picture_agree", _agree), ("worn_as_told", _worn_as_told)):
        ceiling = mean_score(_score_all(measure, truly_named, real_predictions))
        floor, scores = _floor(measure, named, predictions, lengths, seed), _score_all(measure, named, predictions)
        estimates[name] = estimate_scores(scores, lengths, seed, floor, ceiling)
    return estimates


def score_obedience(
    prompts: Sequence[str], texts: Sequence[str], predictions: Sequence[Labels], lengths: Sequence[int], seed: int = 0
) -> dict[str, Estimate]:
    """Return how much of what a prompt names (characters, object, place) some text names and some picture shows."""
    in_texts, in_pictures, start = [], [], 0
    for length in lengths:
        pages = slice(start, start := start + length)
        in_texts.append(_union([mentioned(text) for text in texts[pages]]))
        in_pictures.append(_union([_shown_in(prediction) for prediction in predictions[pages]]))
    wanted, ones = [mentioned(prompt) for prompt in prompts], [1] * len(lengths)
    estimates = {}
    for group in PROMPT_GROUPS:
        for place, stories in (("texts", in_texts), ("pictures", in_pictures)):

            def measure(wish: Labels, story: Labels, group: str = group) -> Score:
                return float(len(wish[group] & story[group])), float(len(wish[group]))

            floor = _floor(measure, wanted, stories, ones, seed)
            scores = _score_all(measure, wanted, stories)
            estimates[f"{GROUPS[group]}_in_{place}"] = estimate_scores(scores, ones, seed, floor, 1.0)
    return estimates


def _named_in(text: str) -> dict[str, Any]:
    """Return what a text names, by group, and as `worn` the colour of the clothes of each character."""
    return {**mentioned(text), "worn": Wish.of(text).colors}


def _shown_in(prediction: Labels) -> dict[str, set[str]]:
    """Return the judge's prediction of one picture by the names of the text's groups."""
    return {"characters": prediction["characters"], "objects": {prediction["object"]}, "places": {prediction["place"]}}


def _union(pages: Sequence[Labels]) -> dict[str, set[str]]:
    return {group: set().union(*(page[group] for page in pages)) for group in PROMPT_GROUPS}


# Measures of one picture


def _same(name: str) -> Measure:
    return lambda truth, prediction: (float(truth[name] == prediction[name]), 1.0)


def _overlap(truth: Labels, prediction: Labels) -> Score:
    kinds = set(truth["characters"])
    return 2.0 * len(kinds & prediction["characters"]), float(len(kinds) + len(prediction["characters"]))


def _same_kinds(truth: Labels, prediction: Labels) -> Score:
    return float(set(truth["characters"]) == prediction["characters"]), 1.0


def _same_colors(truth: Labels, prediction: Labels) -> Score:
    pairs = list(zip(truth["characters"], truth["colors"], strict=True))
    return float(sum(prediction["colors"].get(kind) == color for kind, color in pairs)), float(len(pairs))


def _same_object(truth: Labels, prediction: Labels) -> Score:
    return (float(truth["object"] == prediction["object"]), 1.0) if truth["object"] else (0.0, 0.0)


def _shows_hero(truth: Labels, prediction: Labels) -> Score:
    return float(truth["hero"] in prediction["characters"]), 1.0


def _same_hero_color(truth: Labels, prediction: Labels) -> Score:
    return float(prediction["colors"].get(truth["hero"]) == truth["colors"][0]), 1.0


PICTURE_MEASURES: dict[str, Measure] = {
    "character_f1": _overlap,
    "frame_accuracy": _same_kinds,
    "colour": _same_colors,
    "place": _same("place"),
    "object": _same_object,
    "weather": _same("weather"),
    "action": _same("action"),
    "hero": _shows_hero,
    "hero_colour": _same_hero_color,
}


def _agree(named: Labels, prediction: Labels) -> Score:
    shown = prediction["characters"] | {prediction["object"], prediction["place"]}
    told = named["characters"] | named["objects"] | named["places"]
    return (float(told <= shown), 1.0) if told else (0.0, 0.0)


def _worn_as_told(named: Labels, prediction: Labels) -> Score:
    worn = named["worn"].items()
    is_right = all(prediction["colors"].get(kind) == color for kind, color in worn)
    return (float(is_right), 1.0) if worn else (0.0, 0.0)


# From measures to estimates


def _estimates(
    measures: Mapping[str, Measure],
    truths: Sequence[Labels],
    predictions: Sequence[Labels],
    real: Sequence[Labels],
    lengths: Sequence[int],
    seed: int,
) -> dict[str, Estimate]:
    estimates = {}
    for name, measure in measures.items():
        floor, ceiling = _floor(measure, truths, real, lengths, seed), mean_score(_score_all(measure, truths, real))
        estimates[name] = estimate_scores(_score_all(measure, truths, predictions), lengths, seed, floor, ceiling)
    return estimates


def _score_all(measure: Measure, truths: Sequence[Labels], predictions: Sequence[Labels]) -> list[Score]:
    return [measure(*pair) for pair in zip(truths, predictions, strict=True)]


def estimate_scores(
    scores: Sequence[Score], lengths: Sequence[int], seed: int, floor: float | None, ceiling: float | None
) -> Estimate:
    """Return the mean of the scores of N pages, with its interval over stories."""
    earned, possible = np.array(scores, dtype=float).T
    return mean_over_steps(earned, possible, lengths, seed, floor, ceiling, is_share=True)


def mean_score(scores: Sequence[Score]) -> float | None:
    """Return what pages or stories earned, out of how much; None if they could earn nothing."""
    earned, possible = np.array(scores, dtype=float).sum(0)
    return earned / possible if possible else None


def _floor(
    measure: Measure, truths: Sequence[Labels], predictions: Sequence[Labels], lengths: Sequence[int], seed: int
) -> float | None:
    """Return the score of pages of other stories; None if there is only one story."""
    others = rows_of_other_stories(story_of_rows(lengths), seed)
    return None if others is None else mean_score(_score_all(measure, truths, [predictions[row] for row in others]))


def _persistence(
    truths: Sequence[Labels], predictions: Sequence[Labels], real: Sequence[Labels], lengths: Sequence[int], seed: int
) -> Estimate:
    """Return hero-colour persistence; its floor is that of the real pages' colours, permuted over all pages."""
    worn, truly_worn = (
        [page["colors"].get(truth["hero"]) for truth, page in zip(truths, pages, strict=True)]
        for pages in (predictions, real)
    )
    colors = [color for color in truly_worn if color is not None]
    permuted = np.random.default_rng(seed).permutation(colors).tolist() if colors else []
    mixed = [permuted.pop() if color is not None else None for color in truly_worn]
    scores, ceiling, floor = (_most_frequent(column, lengths) for column in (worn, truly_worn, mixed))
    return estimate_scores(scores, [1] * len(lengths), seed, mean_score(floor), mean_score(ceiling))


def _most_frequent(colors: Sequence[str | None], lengths: Sequence[int]) -> list[Score]:
    """Return, for each story, the number of pages with the most frequent colour, out of the pages with any."""
    scores, start = [], 0
    for length in lengths:
        counts = Counter(color for color in colors[start : start + length] if color is not None)
        scores.append((float(max(counts.values(), default=0)), float(counts.total())))
        start += length
    return scores
