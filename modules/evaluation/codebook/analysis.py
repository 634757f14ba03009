"""`analyze`: the usage of a trained storyboard's codes, what they encode, and the effect of replacing them."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from PIL import Image

from modules.common.progress import announce
from modules.evaluation.codebook.cards import make_cards
from modules.evaluation.codebook.coded_stories import CodedStories, draw_plans, label_steps, read_stories
from modules.evaluation.codebook.interventions import (
    NUM_DRAWN_SWAPS,
    NUM_REMOVED,
    NUM_TEXT_SWAPS,
    ReadPictures,
    Swaps,
    code_removal,
    removal_report,
    remove_codes,
    swap_report,
    swap_slots,
)
from modules.evaluation.codebook.slots import slot_report
from modules.evaluation.codebook.structure import (
    cluster,
    co_occurrence,
    code_presence,
    project,
    successions,
    transitions,
)
from modules.evaluation.codebook.usage import usage_report
from modules.evaluation.forecast import forecast_analysis
from modules.generation.pipeline import StoryPipeline
from modules.story import StoryDataset

NUM_IN_MATRICES = 48


@dataclass(frozen=True)
class CodebookAnalysis:
    """The `report` for JSON, and what it does not contain: the codebook's unit `vectors` (K,D), thumbnails of the N
    held-out steps, the pages drawn from swapped codes (None if no story has a picture), and the training stories.
    """

    report: dict[str, Any]
    vectors: np.ndarray
    thumbnails: list[Image.Image | None]
    drawn: Swaps | None
    learnt: CodedStories


def analyze_codebook(
    pipeline: StoryPipeline,
    train: StoryDataset,
    held_out: StoryDataset,
    num_stories: int,
    seed: int = 0,
    read_pictures: ReadPictures | None = None,
    report: dict[str, Any] | None = None,
) -> CodebookAnalysis:
    """Analyse the codes of the first `num_stories` of both datasets; all metrics are of the held-out stories.

    `read_pictures` predicts the attributes of pictures, as the judge's `read` does; with it, the report contains the
    attributes that swapped slots change in pictures. `report`, if given, is filled part by part: who is stopped has
    what is done.

    Raises UserError on a model without codes, and on a checkpoint whose codebook is not initialised yet.
    """
    pipeline.check_codebook()
    if seconds := forecast_analysis(pipeline, held_out, min(num_stories, len(held_out)), seed):
        announce(seconds)
    learnt = read_stories(pipeline, train, min(num_stories, len(train)), "training stories")
    coded = read_stories(pipeline, held_out, min(num_stories, len(held_out)), "held-out stories")
    vectors = pipeline.model.storyboard.quantizer.codebook.detach().cpu().double().numpy()
    learnt_labels = label_steps(learnt.stories, learnt.stories)
    labels = {
        name: column for name, column in label_steps(coded.stories, learnt.stories).items() if name in learnt_labels
    }
    sets = {
        "train": (learnt.codes, learnt.lengths),
        "held_out": (coded.codes, coded.lengths),
        "prior": (draw_plans(pipeline, coded.stories, seed), coded.lengths),
    }
    report = {} if report is None else report
    report |= {
        "data": {"train": train.name, "held_out": held_out.name},
        "seed": seed,
        "num_stories": {"train": len(learnt.lengths), "held_out": len(coded.lengths)},
        "num_steps": len(coded.codes),
        "num_slots": coded.codes.shape[1],
        "codebook_size": len(vectors),
        "usage": usage_report(sets, len(vectors), seed),
    }
    report |= slot_report(coded, labels, learnt, learnt_labels, seed)
    report |= _structure_report(coded, vectors)
    drawn = _add_effects(report, pipeline, coded, labels, vectors, seed, read_pictures)
    report["steps"] = _steps(coded)
    return CodebookAnalysis(plain(report), vectors, coded.thumbnails, drawn, learnt)


def _add_effects(
    report: dict[str, Any],
    pipeline: StoryPipeline,
    coded: CodedStories,
    labels: Mapping[str, np.ndarray],
    vectors: np.ndarray,
    seed: int,
    read_pictures: ReadPictures | None,
) -> Swaps | None:
    """Report what removed and swapped codes change, and the cards; return the pages drawn from swapped codes."""
    stories, codes, lengths, is_world = coded.stories, coded.codes, coded.lengths, "hero" in labels
    removal = remove_codes(pipeline, stories, codes, NUM_REMOVED, seed)
    report["removal"] = removal_report(removal, coded.story)
    texts, drawn = swap_slots(pipeline, codes, lengths, NUM_TEXT_SWAPS, False, seed), None
    report["swaps"] = swap_report(texts, None, coded.story, is_world)
    if stories.image_mask.any():
        drawn = swap_slots(pipeline, codes, lengths, NUM_DRAWN_SWAPS, True, seed)
        report["swaps"] = swap_report(texts, drawn, coded.story, is_world, read_pictures)
    report["swaps"]["examples"] = _examples(drawn, codes)
    cards = make_cards(codes, coded.fit, lengths, stories.texts, labels, vectors)
    report["cards"] = [card | {"removal": code_removal(removal, codes, card["code"])} for card in cards]
    return drawn


def _examples(drawn: Swaps | None, codes: np.ndarray) -> list[dict[str, Any]]:
    """Return the steps of `drawn`: row numbers, codes (S,), and the texts in the order of the variants."""
    if drawn is None:
        return []
    pairs = enumerate(zip(drawn.rows.tolist(), drawn.donors.tolist(), strict=True))
    return [
        {
            "row": row,
            "donor": donor,
            "codes": codes[row],
            "donor_codes": codes[donor],
            "texts": [texts[number] for texts in drawn.texts],
        }
        for number, (row, donor) in pairs
    ]


def _steps(coded: CodedStories) -> list[dict[str, Any]]:
    """Return, for each row, the number of its story and of its step, both from 0, its text and its codes (S,)."""
    places = [(story, step) for story, length in enumerate(coded.lengths) for step in range(length)]
    return [
        {"story": story, "step": step, "text": text, "codes": codes}
        for (story, step), text, codes in zip(places, coded.stories.texts, coded.codes, strict=True)
    ]


def _structure_report(coded: CodedStories, vectors: np.ndarray) -> dict[str, Any]:
    """Report the map, the clusters and the matrices of the codebook."""
    uses = np.bincount(coded.codes.ravel(), minlength=len(vectors))
    used = np.flatnonzero(uses)
    points, explained = project(vectors[used])
    tree = cluster(vectors, uses)
    top = set(np.argsort(-uses, kind="stable")[: min(NUM_IN_MATRICES, len(used))].tolist())
    chosen = [code for code in (tree["codes"] if tree else used.tolist()) if code in top]
    follows = successions(coded.codes, coded.lengths, len(vectors))
    return {
        "map": {
            "explained_variance": explained,
            "points": {int(code): point for code, point in zip(used, points, strict=True)},
        },
        "clusters": tree,
        "matrices": {
            "codes": chosen,
            "co_occurrence_bits": co_occurrence(code_presence(coded.codes, len(vectors)), chosen),
            "transitions": transitions(follows, chosen),
        },
    }


def plain(value: Any) -> Any:
    """Convert to plain values for JSON: lists in place of arrays, six significant digits, None for NaN and infinity."""
    if isinstance(value, Mapping):
        return {str(key): plain(inner) for key, inner in value.items()}
    if isinstance(value, (list, tuple, np.ndarray)):
        return [plain(inner) for inner in value]
    if isinstance(value, (np.integer, np.bool_)):
        return value.item()
    if isinstance(value, (float, np.floating)):
        return float(f"{value:.6g}") if math.isfinite(value) else None
    return value
