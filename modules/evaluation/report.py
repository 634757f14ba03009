"""evaluate(): the bound, what the codes hold, next steps, pictures and texts, over held-out stories."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from modules.common.errors import UserError
from modules.common.progress import progress_line
from modules.data.read_ahead import Head
from modules.encoded.codes import cache_codes
from modules.encoded.stories import EncodedStories
from modules.evaluation.bound import measure_bound
from modules.evaluation.codebook.information import perplexity
from modules.evaluation.decoded import (
    DecodedPages,
    decode_pages,
    decode_texts,
    plan_next_steps,
    plan_stories,
    tell_stories,
)
from modules.evaluation.judge.attributes import score_agreement, score_obedience, score_pictures, score_texts
from modules.evaluation.judge.judge import Judge
from modules.evaluation.metrics.image_metrics import Inception
from modules.evaluation.metrics.image_metrics import score_pictures as score_distances
from modules.evaluation.metrics.statistics import Figure, rows_of_other_stories
from modules.evaluation.metrics.text_metrics import score_against
from modules.evaluation.ranking import rank_next_steps
from modules.evaluation.scorers import Scorer, clip_scores, retrieval
from modules.pipeline import StoryPipeline
from modules.story import Story, StoryDataset
from modules.training.reliance import condition_steps

VARIANTS = ("text and picture", "text alone", "picture alone")
QUICK_FIGURES = (
    "text_nats_per_token_own",
    "text_nats_per_token_swap_gap",
    "code_charged_nats_per_token",
    "velocity_mse_own",
    "velocity_mse_swap_gap",
    "noise_mse_own",
    "noise_mse_swap_gap",
    "prior_bits_per_step",
)
Figures = dict[str, dict[str, Any]]


@dataclass(frozen=True)
class Graders:
    """Who looks at pictures: the judge reads attributes; `extractor` gives the features of distances, `scorer` says
    what text fits.
    """

    judge: Judge
    extractor: Judge | Inception
    scorer: Scorer


@torch.no_grad()
def evaluate(
    pipeline: StoryPipeline,
    source: StoryDataset,
    num_stories: int,
    seed: int = 0,
    num_drawn: int = 0,
    graders: Graders | None = None,
) -> dict[str, Any]:
    """Score the first `num_stories` stories of `source`; pictures are drawn for the first `num_drawn` of them.

    Every figure is a dict of value, low, high (95 %), floor and ceiling. What is said of codes is left out of a
    baseline that has none. Raises UserError where there is nothing to score.
    """
    if not pipeline.model.is_ready:
        raise UserError("this checkpoint is from before its codebook was placed: train on, or take a later one")
    pictures = Pictures(source, num_stories)
    stories = _encode(pipeline, pictures)
    sources = _sources(pipeline, stories)
    codes = next(iter(sources.values()))
    report = {
        "data": source.name,
        "num_stories": len(stories),
        "num_steps": len(stories.texts),
        "seed": seed,
        "bound": measure_bound(pipeline, stories, codes, seed),
    }
    if pipeline.model.has_codes:
        report["next_step"] = rank_next_steps(pipeline, stories, codes, seed)
        report["codebook"] = _usage(codes, pipeline.config.storyboard.codebook_size)
    report |= _texts(pipeline, stories, sources, seed)
    if num_drawn and graders is not None:
        report["drawn"] = _drawn(
            pipeline, stories, sources, pictures.images, min(num_drawn, num_stories), seed, graders
        )
    return report


def _sources(pipeline: StoryPipeline, stories: EncodedStories) -> dict[str, Tensor]:
    """What every step is decoded from, by name: its codes (N,S), those of both modalities first; of a baseline, vectors
    (N,S,d).
    """
    if not pipeline.model.has_codes:
        return {"what came before": condition_steps(pipeline.model, stories)}
    return dict(zip(VARIANTS, cache_codes(pipeline.model, stories), strict=True))


class Pictures(Head):
    """The first stories of a source, whose pictures are kept: real ones are what drawn ones are held against."""

    def __init__(self, source: StoryDataset, count: int) -> None:
        super().__init__(source, count)
        self._kept: dict[int, list[Image.Image | None]] = {}

    def __getitem__(self, index: int) -> Story:
        story = super().__getitem__(index)
        self._kept[index] = [step.image for step in story.steps]
        return story

    @property
    def images(self) -> list[Image.Image | None]:
        """Those of all steps read, in the order of the stories."""
        return [image for index in sorted(self._kept) for image in self._kept[index]]


def _encode(pipeline: StoryPipeline, source: Head) -> EncodedStories:
    with progress_line("encoding stories", len(source)) as progress:
        return EncodedStories(source, pipeline.model, pipeline.tokenizer, progress.update)


def _texts(pipeline: StoryPipeline, stories: EncodedStories, sources: dict[str, Tensor], seed: int) -> dict[str, Any]:
    """Texts decoded from every step's codes, against the true ones."""
    decoded = {name: decode_texts(pipeline, codes, name) for name, codes in sources.items()}
    overlap = score_against(stories.texts, next(iter(decoded.values())), stories.lengths, seed)
    report = {"texts": {"figures": _plain(overlap["figures"]), "signatures": overlap["signatures"]}}
    if has_attributes(stories):
        true = [text or "" for text in stories.texts]
        report["named_right"] = {
            name: _plain(score_texts(true, texts, stories.lengths, seed)) for name, texts in decoded.items()
        }
    return report


def _drawn(
    pipeline: StoryPipeline,
    stories: EncodedStories,
    sources: dict[str, Tensor],
    images: list,
    count: int,
    seed: int,
    graders: Graders,
) -> dict[str, Any]:
    """Pages of every origin, and what the graders make of them."""
    lengths, codes = stories.lengths[:count], next(iter(sources.values()))
    next_rows, next_codes = plan_next_steps(pipeline, stories, codes, count, seed)
    pages = {}
    if next_rows:
        pages["next step"] = decode_pages(pipeline, next_codes, next_rows, [1] * len(next_rows), "next steps", seed)
        pages |= _trivial(stories, images, next_rows, seed)
    if not pipeline.model.has_codes:
        pages["whole story"] = tell_stories(pipeline, stories, count, seed)
    else:
        pages = _from_codes(pipeline, stories, sources, count, seed) | pages
    return {
        "num_stories": count,
        "num_pages": sum(lengths),
        "extractor": graders.extractor.name,
        "scorer": graders.scorer.name,
        **{name: _grade(name, decoded, stories, images, seed, graders) for name, decoded in pages.items()},
    }


def _from_codes(
    pipeline: StoryPipeline, stories: EncodedStories, sources: dict[str, Tensor], count: int, seed: int
) -> dict[str, DecodedPages]:
    """Pages from each of the true steps' codes, from whole plans, and from codes that mean nothing."""
    lengths, config = stories.lengths[:count], pipeline.config.storyboard
    rows, generator = list(range(sum(lengths))), torch.Generator().manual_seed(seed)
    origins = {f"true step, {name}": codes[rows] for name, codes in sources.items()}
    origins["whole story"] = plan_stories(pipeline, stories, count, seed)
    origins["random codes"] = torch.randint(config.codebook_size, (len(rows), config.num_slots), generator=generator)
    return {name: decode_pages(pipeline, codes, rows, lengths, name, seed) for name, codes in origins.items()}


def _trivial(stories: EncodedStories, images: list, rows: list[int], seed: int) -> dict[str, DecodedPages]:
    """What a next step must beat: the page before it, and a page of another story."""
    story = np.repeat(np.arange(len(stories)), stories.lengths)
    others = rows_of_other_stories(story, seed)
    picks = {"repeat the last page": [row - 1 for row in rows]} | (
        {} if others is None else {"a random page": others[rows].tolist()}
    )
    return {
        name: DecodedPages(
            rows, [1] * len(rows), [stories.texts[row] or "" for row in pick], [images[row] for row in pick]
        )
        for name, pick in picks.items()
    }


def _grade(
    name: str, pages: DecodedPages, stories: EncodedStories, images: list, seed: int, graders: Graders
) -> Figures:
    """All figures of one kind of pages; without attributes those that need none."""
    pages = _where_pictures_are(pages, images)
    real, true_texts = [images[row] for row in pages.rows], [stories.texts[row] for row in pages.rows]
    if not real:
        return {}
    figures: dict[str, Figure] = {}
    if len(pages.lengths) > 1:
        features = (graders.extractor.features(pictures).double().numpy() for pictures in (pages.images, real))
        figures |= score_distances(*features, graders.extractor.name, pages.lengths, seed=seed)
    figures |= clip_scores(graders.scorer, pages.images, pages.texts, true_texts, pages.lengths, seed, real)
    if name != "whole story":  # Its pages need not be the true story's.
        figures |= retrieval(graders.scorer, pages.images, true_texts, pages.lengths, seed)
    if has_attributes(stories):
        truths = [attributes for story in stories.attributes for attributes in story]
        truths = [truths[row] for row in pages.rows]
        readings, real_readings = graders.judge.read(pages.images), graders.judge.read(real)
        figures |= score_pictures(truths, readings, real_readings, pages.lengths, seed, whole := name == "whole story")
        figures |= score_agreement(pages.texts, readings, true_texts, real_readings, pages.lengths, seed)
        if whole:
            figures |= score_obedience(
                stories.prompts[: len(pages.lengths)], pages.texts, readings, pages.lengths, seed
            )
        else:
            named = score_texts(true_texts, pages.texts, pages.lengths, seed)
            figures |= {f"text_{key}": figure for key, figure in named.items()}
    return _plain(figures)


def _where_pictures_are(pages: DecodedPages, images: list) -> DecodedPages:
    """The pages whose true step has a picture, and which have one themselves."""
    kept = [page for page, row in enumerate(pages.rows) if images[row] is not None and pages.images[page] is not None]
    story = np.repeat(np.arange(len(pages.lengths)), pages.lengths)
    rows, texts, drawn = ([column[page] for page in kept] for column in (pages.rows, pages.texts, pages.images))
    return DecodedPages(rows, np.unique(story[kept], return_counts=True)[1].tolist(), texts, drawn)


def has_attributes(stories: EncodedStories) -> bool:
    """Whether every step's truth is known, as it is in the story world alone."""
    return all(attributes and "hero" in attributes for story in stories.attributes for attributes in story)


def _usage(codes: Tensor, codebook_size: int) -> dict[str, float]:
    """Codes (N, S) -> the share of the codebook that is used, and its perplexity, over all slots and the mean over
    slots.

    `used_ceiling` is what so few draws would use, on average, of a codebook that is used evenly.
    """
    by_slot = np.stack([np.bincount(column, minlength=codebook_size) for column in codes.t().cpu().numpy()])
    counts = by_slot.sum(0)
    return {
        "codebook_size": codebook_size,
        "used": float((counts > 0).mean()),
        "used_ceiling": 1 - (1 - 1 / codebook_size) ** codes.numel(),
        "perplexity": float(perplexity(counts)),
        "perplexity_per_slot": float(perplexity(by_slot).mean()),
    }


def _plain(figures: Mapping[str, Figure]) -> Figures:
    return {name: figure.to_dict() for name, figure in figures.items()}


@torch.no_grad()
def score_quickly(
    pipeline: StoryPipeline, source: StoryDataset, num_stories: int, seed: int = 0
) -> dict[str, float | None]:
    """The figures that need no picture drawn, flat, for comparing many models: name, `name low`, `name high`; None
    where there is none.

    `text_` is told from a step's own codes; `next_text_`, after three true steps, and `code_charged` compare with
    baselines too.
    """
    stories = _encode(pipeline, Head(source, num_stories))
    codes, unknown = next(iter(_sources(pipeline, stories).values())), dict.fromkeys(("value", "low", "high"))
    has_codes = pipeline.model.has_codes
    figures = measure_bound(pipeline, stories, codes, seed, max_vlb_steps=0)
    figures = {name: figures.get(name, unknown) for name in QUICK_FIGURES}  # The same columns for all.
    if has_attributes(stories):
        true = [text or "" for text in stories.texts]
        rows, next_codes = plan_next_steps(pipeline, stories, codes, len(stories), seed)
        next_texts = decode_texts(pipeline, next_codes, "next steps")
        named = _plain(score_texts([true[row] for row in rows], next_texts, [1] * len(rows), seed))
        figures |= {f"next_text_{name}": figure for name, figure in named.items()}
        if has_codes:
            named = _plain(score_texts(true, decode_texts(pipeline, codes, VARIANTS[0]), stories.lengths, seed))
        figures |= {f"text_{name}": figure if has_codes else unknown for name, figure in named.items()}
    flat = {f"{name} {key}".removesuffix(" value"): figure[key] for name, figure in figures.items() for key in unknown}
    return flat | {"codes_used": _usage(codes, pipeline.config.storyboard.codebook_size)["used"] if has_codes else None}
