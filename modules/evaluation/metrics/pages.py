"""The metrics of decoded pages that `evaluate` reports. To add one, write a function and add it to `PAGE_METRICS`."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from PIL import Image

from modules.evaluation.judge.attributes import score_agreement, score_obedience, score_pictures, score_texts
from modules.evaluation.judge.judge import Judge
from modules.evaluation.judge.roles import score_roles
from modules.evaluation.metrics.image import Extractor, distances
from modules.evaluation.metrics.statistics import Estimate
from modules.evaluation.scorers import Scorer, clip_scores, retrieval


@dataclass(frozen=True)
class Graders:
    """The models that grade pictures.

    The judge predicts attributes, the extractor gives the features of Fréchet and kernel distances, and the scorer
    rates how well a text and a picture match.
    """

    judge: Judge
    extractor: Extractor
    scorer: Scorer


@dataclass(frozen=True)
class GradedPages:
    """M decoded pages beside the true pages that they correspond to; all have a picture.

    `lengths` are the stories' numbers of pages (sum M), `prompts` (B,) their prompts, `attributes` (M,) the true
    attributes, None outside the story world. With `from_prompt` the stories were generated from their prompts alone, so
    the pages need not resemble the true ones.
    """

    texts: Sequence[str]
    images: Sequence[Image.Image]
    true_texts: Sequence[str | None]
    true_images: Sequence[Image.Image]
    attributes: Sequence[Mapping[str, Any]] | None
    prompts: Sequence[str]
    lengths: Sequence[int]
    from_prompt: bool
    graders: Graders
    seed: int

    @cached_property
    def predictions(self) -> list[dict[str, Any]]:
        """The attributes that the judge predicts for the decoded pictures."""
        return self.graders.judge.read(self.images)

    @cached_property
    def true_predictions(self) -> list[dict[str, Any]]:
        """The attributes that the judge predicts for the true pictures."""
        return self.graders.judge.read(self.true_images)

    @property
    def named_texts(self) -> list[str]:
        """The true texts; empty for a page without one."""
        return [text or "" for text in self.true_texts]


PageMetric = Callable[[GradedPages], dict[str, Estimate]]  # Returns {} where it does not apply.


def grade_pages(pages: GradedPages) -> dict[str, Estimate]:
    """Return all metrics of the pages, by name."""
    estimates: dict[str, Estimate] = {}
    for metric in PAGE_METRICS:
        estimates |= metric(pages)
    return estimates


def picture_distances(pages: GradedPages) -> dict[str, Estimate]:
    """Return the Fréchet and kernel distances of the pictures from the true ones; of two stories or more."""
    if len(pages.lengths) < 2:
        return {}
    extractor = pages.graders.extractor
    features, true_features = (
        extractor.features(images).double().numpy() for images in (pages.images, pages.true_images)
    )
    return distances(features, true_features, extractor.name, pages.lengths, seed=pages.seed)


def picture_text_match(pages: GradedPages) -> dict[str, Estimate]:
    """Return the CLIP score, or the judge's, of the pictures with the decoded texts and with the true texts."""
    scorer, true_texts, true_images = pages.graders.scorer, pages.true_texts, pages.true_images
    return clip_scores(scorer, pages.images, pages.texts, true_texts, pages.lengths, pages.seed, true_images)


def picture_text_retrieval(pages: GradedPages) -> dict[str, Estimate]:
    """Return how often the true text of a picture, and the picture of a true text, is among the nearest."""
    if pages.from_prompt:
        return {}
    return retrieval(pages.graders.scorer, pages.images, pages.true_texts, pages.lengths, pages.seed)


def picture_attributes(pages: GradedPages) -> dict[str, Estimate]:
    """Return how often the pictures show the true attributes, according to the judge."""
    if pages.attributes is None:
        return {}
    truths, predictions, real = pages.attributes, pages.predictions, pages.true_predictions
    return score_pictures(truths, predictions, real, pages.lengths, pages.seed, hero_only=pages.from_prompt)


def text_picture_agreement(pages: GradedPages) -> dict[str, Estimate]:
    """Return how often a picture shows all that the text of the same page names."""
    if pages.attributes is None:
        return {}
    predictions, real = pages.predictions, pages.true_predictions
    return score_agreement(pages.texts, predictions, pages.named_texts, real, pages.lengths, pages.seed)


def prompt_obedience(pages: GradedPages) -> dict[str, Estimate]:
    """Return how much of what a prompt names some page of its story names and shows."""
    if pages.attributes is None or not pages.from_prompt:
        return {}
    return score_obedience(pages.prompts, pages.texts, pages.predictions, pages.lengths, pages.seed)


def prompt_roles(pages: GradedPages) -> dict[str, Estimate]:
    """Return how often two characters have the roles, and characters the colours, that the prompt asks for."""
    if pages.attributes is None or not pages.from_prompt:
        return {}
    decoded, true = (pages.texts, pages.predictions), (pages.named_texts, pages.true_predictions)
    return score_roles(pages.prompts, decoded, true, pages.lengths, pages.seed)


def text_attributes(pages: GradedPages) -> dict[str, Estimate]:
    """Return how often the decoded texts name what the true texts name."""
    if pages.attributes is None or pages.from_prompt:
        return {}
    estimates = score_texts(pages.named_texts, pages.texts, pages.lengths, pages.seed)
    return {f"text_{name}": estimate for name, estimate in estimates.items()}


PAGE_METRICS: tuple[PageMetric, ...] = (
    picture_distances,
    picture_text_match,
    picture_text_retrieval,
    picture_attributes,
    text_picture_agreement,
    prompt_obedience,
    prompt_roles,
    text_attributes,
)
