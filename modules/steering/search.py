"""Search: many plans of one story, ranked by how likely they are and how well their texts read back."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor

from modules.batch import StepInputs
from modules.common.errors import UserError
from modules.common.progress import track
from modules.encoded.stories import batch_of_steps
from modules.generation.pipeline import StoryPipeline
from modules.generation.rendering import render_texts
from modules.generation.settings import GenerationSettings
from modules.steering.plan import Plan, drawn_plan
from modules.steering.planned_story import codebook_size, codes_of
from modules.story import StoryStep
from modules.storyboard.storyboard import Storyboard

NUM_READ = 16  # Plans, the likeliest ones, whose texts are decoded and read again.
SIMILARITY = 0.25  # What a plan loses that equals one already chosen, in units of the score.
PLANS_PER_DRAW, PLANS_PER_READ = 256, 64


@dataclass(frozen=True)
class Constraints:
    """What a plan must have: words that occur in its texts, words that do not, and codes by page and slot, from 0."""

    must: tuple[str, ...] = ()
    avoid: tuple[str, ...] = ()
    codes: Mapping[tuple[int, int], int] = field(default_factory=dict)

    def allow(self, texts: Sequence[str]) -> bool:
        """Return whether texts have all of the words that they must, as whole words, and none to be avoided."""
        told = " ".join(texts)
        return all(_names(told, word) for word in self.must) and not any(_names(told, word) for word in self.avoid)


@dataclass(frozen=True)
class RankedPlan:
    """A plan with the texts of its pages and its score: `agreement`, the share of its codes that the encoder finds
    again in the texts, less `bits` as a share of those of a plan drawn without a prior.
    """

    plan: Plan
    texts: tuple[str, ...]
    bits: float
    agreement: float
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
    num_read: int = NUM_READ,
) -> list[RankedPlan]:
    """Draw `num_plans` plans and return up to `keep` of them, the best first, and no two alike.

    The texts of the `num_read` likeliest are decoded and read again; with words to have or to avoid, those of all.
    Raises UserError if no plan meets the constraints.
    """
    settings, constraints = settings or GenerationSettings(), constraints or Constraints()
    codes, log_probs = _draw(pipeline, prompt, num_steps, num_plans, constraints, settings)
    order = log_probs.sum((1, 2)).argsort(descending=True)
    if not (constraints.must or constraints.avoid):
        order = order[: max(num_read, keep)]
    codes, log_probs = codes[order], log_probs[order]
    texts = _decode(pipeline, codes, settings)
    found = encode_texts(pipeline, [text for story in texts for text in story]).view_as(codes)
    agreement, bits = (found == codes).double().mean((1, 2)), -log_probs.double().sum((1, 2)) / math.log(2)
    scores = agreement - bits / (codes[0].numel() * math.log2(codebook_size(pipeline)))
    allowed = [row for row, story in enumerate(texts) if constraints.allow(story)]
    if not allowed:
        raise UserError(
            f"none of {num_plans} plans meets the wishes (must: {', '.join(constraints.must) or 'nothing'}; avoid:"
            f" {', '.join(constraints.avoid) or 'nothing'}): ask for fewer, or draw more with --num_plans"
        )
    fingerprint, ranked = pipeline.fingerprint(), []
    for row in _choose(scores, codes, allowed, keep):
        plan = drawn_plan(prompt, codes_of(codes[row]), codebook_size(pipeline), fingerprint, settings)
        plan = replace(plan, log_probs=tuple(map(tuple, log_probs[row].tolist())))
        ranked.append(RankedPlan(plan, texts[row], float(bits[row]), float(agreement[row]), float(scores[row])))
    return ranked


def _draw(
    pipeline: StoryPipeline,
    prompt: str,
    num_steps: int,
    num_plans: int,
    constraints: Constraints,
    settings: GenerationSettings,
) -> tuple[Tensor, Tensor]:
    """Return the different plans among those drawn, (R,T,S), and their log-probabilities."""
    fixed = torch.full((num_steps, pipeline.config.storyboard.num_slots), -1)
    for place, code in constraints.codes.items():
        fixed[place] = code
    parts = []
    starts = range(0, num_plans, PLANS_PER_DRAW)
    for start in track("plans drawn", starts, visible=len(starts) > 1):
        own = replace(settings, seed=(settings.seed + start) % 2**63)
        count = min(PLANS_PER_DRAW, num_plans - start)
        parts.append(pipeline.plan(prompt, num_steps, num_plans=count, fixed=fixed, settings=own))
    codes = torch.cat([part.codes for part in parts]).cpu()
    rows = list({row: index for index, row in reversed([*enumerate(map(codes_of, codes))])}.values())
    rows.sort()
    return codes[rows], torch.cat([part.log_probs for part in parts]).cpu()[rows]


def _decode(pipeline: StoryPipeline, codes: Tensor, settings: GenerationSettings) -> list[tuple[str, ...]]:
    """Return the texts of R plans (R,T,S)."""
    num_steps, parts, texts = codes.shape[1], codes.split(PLANS_PER_READ), list[str]()
    for part in track("plans read", parts, visible=len(parts) > 1):
        code_embeds = pipeline.embed(part.flatten(0, 1))
        window = pipeline.model.window(code_embeds, [num_steps] * len(part))
        texts += render_texts(pipeline.model, pipeline.tokenizer, code_embeds, settings, window)
    return [tuple(texts[start : start + num_steps]) for start in range(0, len(texts), num_steps)]


@torch.no_grad()
def encode_texts(pipeline: StoryPipeline, texts: Sequence[str]) -> Tensor:
    """Return the codes (N,S) that the encoder reads in N texts alone: as `pipeline.encode`, without looking at the
    places of absent pictures where the encoder can do so.
    """
    model, board = pipeline.model, pipeline.model.storyboard
    if type(board) is not Storyboard:
        return pipeline.encode([StoryStep(text) for text in texts]).cpu()
    batch = batch_of_steps([StoryStep(text) for text in texts[:1]], model, pipeline.tokenizer).steps()
    ids, mask = pipeline.tokenizer.encode_batch(list(texts), model.config.text_decoder.max_length)
    longest = int(mask.sum(1).max())
    width = getattr(board.from_image, "in_features", board.config.dim)
    steps = StepInputs(
        latents=batch.latents,
        image_mask=torch.zeros(len(texts), dtype=torch.bool),
        input_ids=ids[:, :longest],
        text_mask=mask[:, :longest].bool(),
        image_features=torch.zeros(len(texts), 0, width),
        **model.tokenize(texts),
    )
    codes = board(steps.to(pipeline.device)).codes
    assert codes is not None
    return codes.cpu()


def _choose(scores: Tensor, codes: Tensor, allowed: Sequence[int], keep: int) -> list[int]:
    """Return up to `keep` of the allowed rows: each time the best, less what it shares with those chosen before."""
    chosen: list[int] = []
    left = list(allowed)
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
