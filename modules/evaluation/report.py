"""`evaluate`: the bound, the next step, the codebook, texts and pictures, over held-out stories."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from modules.common.errors import UserError
from modules.evaluation.bound import measure_bound, num_vlb_steps
from modules.evaluation.codebook.information import perplexity
from modules.evaluation.decoded import (
    DecodedPages,
    PlannedPages,
    decode_pages,
    decode_texts,
    generate_stories,
    plan_next_steps,
    plan_stories,
)
from modules.evaluation.grading import grade_decoded
from modules.evaluation.held_out import VARIANTS, HeldOutStories
from modules.evaluation.judge.attributes import score_texts
from modules.evaluation.meaning import measure_meaning
from modules.evaluation.metrics.pages import Graders
from modules.evaluation.metrics.statistics import rows_of_other_stories, to_dicts
from modules.evaluation.metrics.text import compare_texts
from modules.evaluation.ranking import rank_next_steps
from modules.evaluation.steering import measure_infill_bits, measure_steering
from modules.generation.pipeline import StoryPipeline
from modules.generation.settings import nonempty_prompt
from modules.layers.seeding import make_generator
from modules.story import StoryDataset

QUICK_METRICS = (
    "text_nats_per_token_own",
    "text_nats_per_token_swap_gap",
    "code_charged_nats_per_token",
    "velocity_mse_own",
    "velocity_mse_swap_gap",
    "noise_mse_own",
    "noise_mse_swap_gap",
    "prior_bits_per_step",
)
FROM_PROMPT = "whole story"  # The name of pages that were generated from the prompt alone.
Metrics = dict[str, dict[str, Any]]


@torch.no_grad()
def evaluate(
    pipeline: StoryPipeline,
    dataset: StoryDataset,
    num_stories: int,
    seed: int = 0,
    num_drawn: int = 0,
    graders: Graders | None = None,
    num_steered: int = 0,
    report: dict[str, Any] | None = None,
) -> dict[str, Any]:
    """Score the first `num_stories` stories of `dataset`; with `graders`, pictures are drawn for the first `num_drawn`,
    and stories of the first `num_steered` prompts are edited, replayed, branched and searched for.

    Every metric is a dict of value, low and high (the 95 % interval), floor and ceiling. Metrics of codes are absent
    for a baseline without codes. `report`, if given, is filled part by part, so an interrupted
    call leaves its finished parts. Raises UserError if the checkpoint's codebook is not initialised yet.
    """
    if not pipeline.model.is_ready:
        raise UserError(
            "this checkpoint was saved before its codebook was initialised: train further or use a later one"
        )
    held_out = HeldOutStories.read(pipeline, dataset, num_stories)
    stories, codes = held_out.encoded, held_out.own_codes
    report = {} if report is None else report
    report |= {"data": dataset.name, "num_stories": len(stories), "num_steps": len(stories.texts), "seed": seed}
    report["bound"] = measure_bound(pipeline, stories, codes, seed, max_vlb_steps=num_vlb_steps(num_stories))
    if pipeline.model.has_codes:
        report["next_step"] = rank_next_steps(pipeline, stories, codes, seed)
        report["codebook"] = codebook_usage(codes, pipeline.config.storyboard.codebook_size)
    report |= _text_report(pipeline, held_out, seed)
    if num_drawn and graders is not None:
        drawn = report["drawn"] = {}
        _PageReport(pipeline, held_out, min(num_drawn, num_stories), seed, graders).measure(drawn)
    if num_steered and graders is not None and pipeline.model.has_codes:
        report["steering"] = _steering_report(pipeline, held_out, num_steered, seed, graders)
    return report


def _steering_report(
    pipeline: StoryPipeline, held_out: HeldOutStories, count: int, seed: int, graders: Graders
) -> Metrics:
    """Measure the operations of `modules/steering` on stories of the first `count` prompts."""
    prompts = [nonempty_prompt(prompt) for prompt in held_out.encoded.prompts[:count]]
    judge = None if held_out.attributes is None else graders.judge
    stories, num = held_out.encoded, len(prompts)
    others = [(index + 1) % num for index in range(num)] if num > 1 else []
    pictures = [held_out.images[stories.rows(other)[0]] for other in others]
    metrics = measure_steering(pipeline, prompts, seed, judge, pictures)
    return to_dicts(metrics | measure_infill_bits(pipeline, stories, held_out.own_codes, num, seed))


def _text_report(pipeline: StoryPipeline, held_out: HeldOutStories, seed: int) -> dict[str, Any]:
    """Compare the texts decoded from every step's codes with the true texts."""
    stories = held_out.encoded
    decoded = {name: decode_texts(pipeline, codes, stories.lengths, name) for name, codes in held_out.codes.items()}
    own = next(iter(decoded.values()))
    report: dict[str, Any] = {"texts": compare_texts(stories.texts, own, stories.lengths, seed)}
    meaning = measure_meaning(pipeline, held_out, own, seed)
    if meaning:
        report["meaning"] = to_dicts(meaning)
    if held_out.attributes is not None:
        report["named_right"] = {
            name: to_dicts(score_texts(held_out.true_texts, texts, stories.lengths, seed))
            for name, texts in decoded.items()
        }
    return report


@dataclass(frozen=True)
class _PageReport:
    """The metrics of decoded pages of several kinds, for the first `count` held-out stories."""

    pipeline: StoryPipeline
    held_out: HeldOutStories
    count: int
    seed: int
    graders: Graders

    def measure(self, report: dict[str, Any]) -> None:
        """Decode and grade the pages of every kind, and add their metrics to `report` kind by kind."""
        report |= {
            "num_stories": self.count,
            "num_pages": sum(self.held_out.encoded.lengths[: self.count]),
            "extractor": self.graders.extractor.name,
            "scorer": self.graders.scorer.name,
        }
        for name, pages in self._kinds():
            report[name] = self._grade(name, pages)

    def _kinds(self) -> Iterator[tuple[str, DecodedPages]]:
        if self.pipeline.model.has_codes:
            yield from self._from_codes()
            yield from self._next_steps().items()
        else:
            yield from self._next_steps().items()
            yield FROM_PROMPT, generate_stories(self.pipeline, self.held_out.encoded, self.count, self.seed)

    def _from_codes(self) -> Iterator[tuple[str, DecodedPages]]:
        """Decode pages from the codes of the true steps, from whole plans, and from random codes."""
        lengths, config = self.held_out.encoded.lengths[: self.count], self.pipeline.config.storyboard
        count, generator = sum(lengths), make_generator(self.seed)
        kinds = {f"true step, {name}": codes[:count] for name, codes in self.held_out.codes.items()}
        kinds[FROM_PROMPT] = plan_stories(self.pipeline, self.held_out.encoded, self.count, self.seed)
        kinds["random codes"] = torch.randint(config.codebook_size, (count, config.num_slots), generator=generator)
        for name, codes in kinds.items():
            yield name, self._decode(PlannedPages.whole(codes, lengths), name)

    def _next_steps(self) -> dict[str, DecodedPages]:
        """Decode the predicted next steps; beside them, two trivial predictions: the page before, and a random page."""
        stories, images, seed = self.held_out.encoded, self.held_out.images, self.seed
        plans = plan_next_steps(self.pipeline, stories, self.held_out.own_codes, self.count, seed)
        rows, lengths = plans.rows, plans.lengths
        if not rows:
            return {}
        others = rows_of_other_stories(self.held_out.story, seed)
        picks = {"repeat the last page": [row - 1 for row in rows]}
        if others is not None:
            picks["a random page"] = others[rows].tolist()
        kinds = {"next step": self._decode(plans, "next steps")}
        for name, pick in picks.items():
            texts = [self.held_out.true_texts[row] for row in pick]
            kinds[name] = DecodedPages(rows, lengths, texts, [images[row] for row in pick])
        return kinds

    def _decode(self, plans: PlannedPages, title: str) -> DecodedPages:
        return decode_pages(self.pipeline, plans, title, self.seed)

    def _grade(self, name: str, decoded: DecodedPages) -> Metrics:
        """Return all metrics of one kind of pages; without true attributes, those that need none."""
        return to_dicts(grade_decoded(decoded, self.held_out, self.graders, self.seed, from_prompt=name == FROM_PROMPT))


def codebook_usage(codes: Tensor, codebook_size: int) -> dict[str, float]:
    """Return the share of the codebook that codes (N,S) use, and their perplexity: over all slots, and mean by slot.

    `used_ceiling` is the expected share if N*S codes were drawn uniformly.
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


@torch.no_grad()
def score_quickly(
    pipeline: StoryPipeline, dataset: StoryDataset, num_stories: int, seed: int = 0
) -> dict[str, float | None]:
    """Return the metrics that need no drawn picture, flat, for comparing many models: `name`, `name low`, `name high`.

    All models have the same names; a metric that does not apply is None. `text_*` are of texts from a step's own codes,
    `next_text_*` of texts from the predicted next step after three true ones. `code_charged_*` and `next_text_*`
    also compare models with baselines that have no codes.
    """
    held_out = HeldOutStories.read(pipeline, dataset, num_stories)
    stories, codes, true = held_out.encoded, held_out.own_codes, held_out.true_texts
    absent, has_codes = dict.fromkeys(("value", "low", "high")), pipeline.model.has_codes
    bound = measure_bound(pipeline, stories, codes, seed, max_vlb_steps=0)
    metrics: Metrics = {name: bound.get(name, absent) for name in QUICK_METRICS}
    if held_out.attributes is not None:
        plans = plan_next_steps(pipeline, stories, codes, len(stories), seed)
        next_texts = plans.texts(pipeline, "next steps")
        named = to_dicts(score_texts([true[row] for row in plans.rows], next_texts, plans.lengths, seed))
        metrics |= {f"next_text_{name}": metric for name, metric in named.items()}
        if has_codes:
            texts = decode_texts(pipeline, codes, stories.lengths, VARIANTS[0])
            named = to_dicts(score_texts(true, texts, stories.lengths, seed))
        metrics |= {f"text_{name}": metric if has_codes else absent for name, metric in named.items()}
    flat = {f"{name} {key}".removesuffix(" value"): metric[key] for name, metric in metrics.items() for key in absent}
    usage = codebook_usage(codes, pipeline.config.storyboard.codebook_size)["used"] if has_codes else None
    return flat | {"codes_used": usage}
