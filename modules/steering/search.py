"""Search: many plans of one story; the likeliest are drafted, and ranked by what the drafts show."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor

from modules.common.errors import UserError
from modules.common.progress import track
from modules.generation.pipeline import StoryPipeline
from modules.generation.rendering import render_texts
from modules.generation.settings import GenerationSettings
from modules.steering.beam import different, draw_beam
from modules.steering.drafts import read_drafts
from modules.steering.plan import Plan, drawn_plan, with_given_texts
from modules.steering.planned_story import codebook_size, codes_of
from modules.story import StoryStep

NUM_DRAFTED = 8  # Plans, the likeliest ones, whose texts are decoded and whose pictures are drafted.
SIMILARITY = 0.1  # What a plan loses that equals one already chosen, in units of the score.
PLANS_PER_DRAW, PLANS_PER_READ = 256, 64


@dataclass(frozen=True)
class Constraints:
    """What a plan must have: words that occur in its texts, words that do not, codes by page and slot, and pages told
    in words; all numbers from 0.
    """

    must: tuple[str, ...] = ()
    avoid: tuple[str, ...] = ()
    codes: Mapping[tuple[int, int], int] = field(default_factory=dict)
    pages: Mapping[int, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for page, text in self.pages.items():
            if not text.strip():
                raise UserError(f"the text of page {page + 1} is empty: write a sentence")
            if any(place == page for place, _ in self.codes):
                raise UserError(f"page {page + 1} has both a text and a fixed code: leave one of the two out")

    def allow(self, texts: Sequence[str]) -> bool:
        """Return whether texts have all of the words that they must, as whole words, and none to be avoided."""
        told = " ".join(texts)
        return all(_names(told, word) for word in self.must) and not any(_names(told, word) for word in self.avoid)


@dataclass(frozen=True)
class RankedPlan:
    """A plan with the texts of its pages, its bits under the prior, and its score: see `DraftReading`, which explains
    `fit` and `text_nats`, nats a page.
    """

    plan: Plan
    texts: tuple[str, ...]
    bits: float
    fit: float
    text_nats: float
    score: float


@torch.no_grad()
def search(
    pipeline: StoryPipeline,
    prompt: str,
    num_steps: int,
    num_plans: int = 64,
    keep: int = 5,
    constraints: Constraints | None = None,
    settings: GenerationSettings | None = None,
    num_drafted: int = NUM_DRAFTED,
    beam: int = 0,
) -> list[RankedPlan]:
    """Draw `num_plans` plans and return up to `keep` of them that differ, in the order of their scores.

    With a `beam` they are drawn page by page, each page from the `beam` likeliest beginnings: see `draw_beam`.
    Only the `num_drafted` likeliest of those that meet the constraints, or `keep` if that is more, get a score. A page
    told in words has the codes that the encoder reads in them, and keeps the words: plans are likeliest whose other
    pages lead to it. Raises UserError if no plan meets the constraints.
    """
    settings, constraints = settings or GenerationSettings(), constraints or Constraints()
    fixed = _fixed(pipeline, num_steps, constraints)
    if beam:
        codes, log_probs = draw_beam(pipeline, prompt, fixed, num_plans, beam, settings)
    else:
        codes, log_probs = _draw(pipeline, prompt, fixed, num_plans, settings)
    order = log_probs.sum((1, 2)).argsort(descending=True)
    codes, log_probs, count = codes[order], log_probs[order], max(num_drafted, keep)
    if constraints.must or constraints.avoid:
        told = _decode(pipeline, codes, settings, constraints.pages)
        allowed = [row for row, story in enumerate(told) if constraints.allow(story)][:count]
        if not allowed:
            raise UserError(
                f"none of {num_plans} plans satisfies the wishes (must:"
                f" {', '.join(constraints.must) or 'nothing'}; avoid:"
                f" {', '.join(constraints.avoid) or 'nothing'}): ask for fewer, or draw more with --num_plans"
            )
        codes, log_probs, texts = codes[allowed], log_probs[allowed], [told[row] for row in allowed]
    else:
        codes, log_probs = codes[:count], log_probs[:count]
        texts = _decode(pipeline, codes, settings, constraints.pages)
    return _rank(pipeline, prompt, codes, log_probs, texts, keep, settings, constraints.pages)


def _rank(
    pipeline: StoryPipeline,
    prompt: str,
    codes: Tensor,
    log_probs: Tensor,
    texts: Sequence[tuple[str, ...]],
    keep: int,
    settings: GenerationSettings,
    given: Mapping[int, str],
) -> list[RankedPlan]:
    """Draft R plans (R,T,S) and return up to `keep` of them, the best first."""
    read, fingerprint, ranked = read_drafts(pipeline, codes, texts, settings), pipeline.fingerprint(), []
    scores, bits = read.scores, -log_probs.double().sum((1, 2)) / math.log(2)
    for row in sorted(_choose(scores, codes, keep), key=lambda row: -float(scores[row])):
        plan = drawn_plan(prompt, codes_of(codes[row]), codebook_size(pipeline), fingerprint, settings)
        plan = with_given_texts(plan, given)
        plan = replace(plan, log_probs=tuple(map(tuple, log_probs[row].tolist())))
        values = (float(column[row]) for column in (bits, read.fit, read.text_nats, scores))
        ranked.append(RankedPlan(plan, texts[row], *values))
    return ranked


def _fixed(pipeline: StoryPipeline, num_steps: int, constraints: Constraints) -> Tensor:
    """Return the codes (T,S) that every plan must have, -1 where any will do."""
    fixed = torch.full((num_steps, pipeline.config.storyboard.num_slots), -1)
    for place, code in constraints.codes.items():
        fixed[place] = code
    if constraints.pages:
        told = pipeline.encode([StoryStep(text) for text in constraints.pages.values()])
        fixed[list(constraints.pages)] = told.cpu()
    return fixed


def _draw(
    pipeline: StoryPipeline, prompt: str, fixed: Tensor, num_plans: int, settings: GenerationSettings
) -> tuple[Tensor, Tensor]:
    """Return the different plans among those drawn, (R,T,S), and their log-probabilities."""
    parts = []
    starts = range(0, num_plans, PLANS_PER_DRAW)
    for start in track("plans drawn", starts, visible=len(starts) > 1):
        own = replace(settings, seed=(settings.seed + start) % 2**63)
        count = min(PLANS_PER_DRAW, num_plans - start)
        parts.append(pipeline.plan(prompt, len(fixed), num_plans=count, fixed=fixed, settings=own))
    codes, rows = different(torch.cat([part.codes for part in parts]).cpu())
    return codes, torch.cat([part.log_probs for part in parts]).cpu()[rows]


def _decode(
    pipeline: StoryPipeline, codes: Tensor, settings: GenerationSettings, given: Mapping[int, str]
) -> list[tuple[str, ...]]:
    """Return the texts of R plans (R,T,S), all but those that are given by page."""
    num_steps, parts, texts = codes.shape[1], codes.split(PLANS_PER_READ), list[str]()
    for part in track("plans read", parts, visible=len(parts) > 1):
        code_embeds = pipeline.embed(part.flatten(0, 1))
        window = pipeline.model.window(code_embeds, [num_steps] * len(part))
        texts += render_texts(pipeline.model, pipeline.tokenizer, code_embeds, settings, window)
    return [
        tuple(given.get(page, texts[start + page]) for page in range(num_steps))
        for start in range(0, len(texts), num_steps)
    ]


def _choose(scores: Tensor, codes: Tensor, keep: int) -> list[int]:
    """Return up to `keep` rows: each time the best, less what it shares with those chosen before."""
    chosen: list[int] = []
    left = list(range(len(codes)))
    while left and len(chosen) < keep:
        shared = [
            max((float((codes[row] == codes[other]).double().mean()) for other in chosen), default=0.0) for row in left
        ]
        values = [float(scores[row]) - SIMILARITY * share for row, share in zip(left, shared, strict=True)]
        best = left[values.index(max(values))]
        chosen.append(best)
        left.remove(best)
    return chosen


def _names(text: str, word: str) -> bool:
    return re.search(rf"(?<!\w){re.escape(word.strip())}(?!\w)", text, re.IGNORECASE) is not None
