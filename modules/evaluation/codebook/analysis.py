"""analyze_codebook(): what the codes of a trained storyboard are used for, what they tell, and what they do."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from PIL import Image

from modules.evaluation.codebook.code_cards import make_cards
from modules.evaluation.codebook.code_structure import (
    cluster,
    co_occurrence,
    code_presence,
    project,
    successions,
    transitions,
)
from modules.evaluation.codebook.code_usage import usage_report
from modules.evaluation.codebook.coded_stories import CodedStories, draw_plans, label_steps, read_stories
from modules.evaluation.codebook.interventions import (
    ReadPictures,
    Swaps,
    code_removal,
    removal_report,
    remove_codes,
    swap_report,
    swap_slots,
)
from modules.evaluation.codebook.slot_report import slot_report
from modules.pipeline import StoryPipeline
from modules.story import StoryDataset

NUM_REMOVED, NUM_TOLD, NUM_DRAWN = 160, 96, 24  # Steps, and stories that one step each is told and drawn of.
NUM_IN_MATRICES = 48


@dataclass(frozen=True)
class CodebookAnalysis:
    """`report` for JSON, and beside it the codebook's unit `vectors` (K,d), small pictures of the N held-out steps, and
    the pages drawn from swapped codes, None where no story has a picture.
    """

    report: dict[str, Any]
    vectors: np.ndarray
    thumbnails: list[Image.Image | None]
    drawn: Swaps | None


def analyze_codebook(
    pipeline: StoryPipeline,
    train: StoryDataset,
    held_out: StoryDataset,
    num_stories: int,
    seed: int = 0,
    read_pictures: ReadPictures | None = None,
) -> CodebookAnalysis:
    """Analyse the codes of the first `num_stories` of both sources; all figures are of held-out stories, against the
    others.

    `read_pictures` names what pictures show, as the judge's `read` does, so that what swapped slots change in them is
    counted.

    Raises UserError on a model without codes, and on a checkpoint from before its codebook was placed.
    """
    pipeline.check_codebook()
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
    report = {
        "data": {"train": train.name, "held_out": held_out.name},
        "seed": seed,
        "num_stories": {"train": len(learnt.lengths), "held_out": len(coded.lengths)},
        "num_steps": len(coded.codes),
        "num_slots": coded.codes.shape[1],
        "codebook_size": len(vectors),
        "usage": usage_report(sets, len(vectors), seed),
        **slot_report(coded, labels, learnt, learnt_labels, seed),
        **_structure_report(coded, vectors),
    }
    effects, drawn = _effects_report(pipeline, coded, labels, vectors, seed, read_pictures)
    return CodebookAnalysis(plain(report | effects | {"steps": _steps(coded)}), vectors, coded.thumbnails, drawn)


def _effects_report(
    pipeline: StoryPipeline,
    coded: CodedStories,
    labels: Mapping[str, np.ndarray],
    vectors: np.ndarray,
    seed: int,
    read_pictures: ReadPictures | None,
) -> tuple[dict[str, Any], Swaps | None]:
    """What removed and swapped codes change, the cards, and the pages drawn from swapped codes."""
    stories, codes, lengths = coded.stories, coded.codes, coded.lengths
    removal = remove_codes(pipeline, stories, codes, NUM_REMOVED, seed)
    told = swap_slots(pipeline, codes, lengths, NUM_TOLD, False, seed)
    drawn = swap_slots(pipeline, codes, lengths, NUM_DRAWN, True, seed) if stories.image_mask.any() else None
    cards = make_cards(codes, coded.fit, lengths, stories.texts, labels, vectors)
    return {
        "removal": removal_report(removal, coded.story),
        "swaps": swap_report(told, drawn, coded.story, "hero" in labels, read_pictures)
        | {"examples": _examples(drawn, codes)},
        "cards": [card | {"removal": code_removal(removal, codes, card["code"])} for card in cards],
    }, drawn


def _examples(drawn: Swaps | None, codes: np.ndarray) -> list[dict[str, Any]]:
    """The steps that `drawn` shows: row numbers, codes (S,), and the texts in the order of the variants."""
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
    """Where each row of the report stands: the number of its story and of its step, both from 0, its text and its
    codes.
    """
    places = [(story, step) for story, length in enumerate(coded.lengths) for step in range(length)]
    return [
        {"story": story, "step": step, "text": text, "codes": codes}
        for (story, step), text, codes in zip(places, coded.stories.texts, coded.codes, strict=True)
    ]


def _structure_report(coded: CodedStories, vectors: np.ndarray) -> dict[str, Any]:
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
    """The same of plain numbers for JSON: arrays as lists, six significant digits, None for what is no number."""
    if isinstance(value, Mapping):
        return {str(key): plain(inner) for key, inner in value.items()}
    if isinstance(value, (list, tuple, np.ndarray)):
        return [plain(inner) for inner in value]
    if isinstance(value, (np.integer, np.bool_)):
        return value.item()
    if isinstance(value, (float, np.floating)):
        return float(f"{value:.6g}") if math.isfinite(value) else None
    return value
