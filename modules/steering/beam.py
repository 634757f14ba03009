"""Plans drawn page by page: after every page the likeliest beginnings stay, and all next pages go on from these."""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor

from modules.generation.pipeline import StoryPipeline
from modules.generation.settings import GenerationSettings
from modules.layers.seeding import derive_seed


def draw_beam(
    pipeline: StoryPipeline, prompt: str, fixed: Tensor, num_plans: int, width: int, settings: GenerationSettings
) -> tuple[Tensor, Tensor]:
    """Return different plans (R,T,S), at most `num_plans`, and their log-probabilities, from a beam over T pages.

    After each page but the last, the `width` likeliest beginnings are kept, and each goes on equally often. The codes
    of `fixed` (T,S) that are not negative are in all of them.
    """
    num_steps, num_slots = fixed.shape
    codes = torch.zeros(1, 0, num_slots, dtype=torch.long)
    log_probs = torch.zeros(1, 0, num_slots)
    for page in range(num_steps):
        each = max(1, num_plans // len(codes))
        drawn = pipeline.plan(
            prompt,
            num_steps - page,
            codes=codes.to(pipeline.device) if page else None,
            num_plans=len(codes) * each,
            fixed=fixed[page:],
            num_drawn=1,
            settings=replace(settings, seed=derive_seed(settings.seed, "beam", page)) if page else settings,
        )
        codes, rows = different(torch.cat([codes.repeat_interleave(each, 0), drawn.codes.cpu()], 1))
        log_probs = torch.cat([log_probs.repeat_interleave(each, 0), drawn.log_probs.cpu()], 1)[rows]
        if page < num_steps - 1:
            kept = log_probs.sum((1, 2)).argsort(descending=True, stable=True)[:width]
            codes, log_probs = codes[kept], log_probs[kept]
    return codes, log_probs


def different(codes: Tensor) -> tuple[Tensor, Tensor]:
    """Return the different ones of plans (N,T,S) in their order, and the first row of each."""
    first: dict[tuple[int, ...], int] = {}
    for row, plan in enumerate(codes.flatten(1).tolist()):
        first.setdefault(tuple(plan), row)
    rows = torch.tensor(list(first.values()))
    return codes[rows], rows
