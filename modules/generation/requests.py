"""What a pipeline is asked for: prompts, and the settings of each story."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch

from modules.common.errors import UserError
from modules.generation.settings import GenerationSettings

Generators = torch.Generator | Sequence[torch.Generator]
MAX_STORIES = 1024  # Of one prompt.


@dataclass(frozen=True)
class StoryRequest:
    """One story to generate; its seed is that of its settings."""

    prompt: str
    settings: GenerationSettings


def read_requests(
    prompt: str | Sequence[str], num_stories: int, generator: Generators | None, settings: GenerationSettings
) -> list[StoryRequest]:
    """Return the stories of one prompt or of each of several, `num_stories` of each in a row.

    The stories of a prompt have the seeds `settings.seed`, `settings.seed` + 1, ...; with a generator, seeds that are
    drawn from it. Raises UserError on arguments that are not these.
    """
    prompts = [prompt] if isinstance(prompt, str) else prompt
    if not isinstance(prompts, Sequence) or not all(isinstance(text, str) for text in prompts):
        raise UserError(f"prompt must be a text or a list of texts, got {_kind(prompt)}")
    if not prompts:
        raise UserError("prompt is an empty list: give at least one text")
    check_count("num_stories", num_stories, MAX_STORIES)
    if generator is None:
        seeds = [settings.seed + number for _ in prompts for number in range(num_stories)]
    else:
        seeds = draw_seeds(generator, len(prompts) * num_stories)
    texts = [text for text in prompts for _ in range(num_stories)]
    return [
        StoryRequest(text, dataclasses.replace(settings, seed=seed % 2**63))
        for text, seed in zip(texts, seeds, strict=True)
    ]


def draw_seeds(generator: Generators, count: int) -> list[int]:
    """Return `count` seeds drawn from one generator, or one seed from each of as many generators."""
    generators = [generator] * count if isinstance(generator, torch.Generator) else generator
    if not isinstance(generators, Sequence) or not all(isinstance(each, torch.Generator) for each in generators):
        raise UserError(f"generator must be a torch.Generator or a list of them, got {_kind(generator)}")
    if len(generators) != count:
        raise UserError(f"generator must be one, or a list of one for each of {count} stories, got {len(generators)}")
    draws = [torch.randint(2**63 - 1, (), generator=each, device=each.device) for each in generators]
    return [int(draw) for draw in draws]


def check_texts(texts: Any) -> None:
    """Raise UserError unless there are one or more texts."""
    is_list = isinstance(texts, Sequence) and not isinstance(texts, (str, bytes))
    if not is_list or not texts or not all(isinstance(text, str) for text in texts):
        raise UserError(f"texts must be a list of texts, got {_kind(texts)}")


def check_codes(codes: Any, num_slots: int, codebook_size: int) -> None:
    """Raise UserError unless codes are those of one or more pages: whole numbers (T,S) from 0 to K-1."""
    if not isinstance(codes, torch.Tensor) or codes.is_floating_point() or codes.ndim != 2 or not len(codes):
        kind = f"one of shape {tuple(codes.shape)}" if isinstance(codes, torch.Tensor) else _kind(codes)
        raise UserError(f"codes must be a tensor of whole numbers (pages, {num_slots}), got {kind}")
    if codes.shape[1] != num_slots or codes.min() < 0 or codes.max() >= codebook_size:
        raise UserError(
            f"codes must be {num_slots} a page, each from 0 to {codebook_size - 1}; got {codes.shape[1]} a page, from"
            f" {int(codes.min())} to {int(codes.max())}"
        )


def check_pages(pages: Sequence[int], num_pages: int, texts: Sequence[str | None]) -> None:
    """Raise UserError unless `pages` are numbers of pages from 0, and `texts`, if given, one for each."""
    wrong = [page for page in pages if not 0 <= page < num_pages]
    if wrong:
        raise UserError(f"pages must be from 0 to {num_pages - 1}, got {wrong[0]!r:.80}")
    if texts and len(texts) != len(pages):
        raise UserError(f"texts must be one for each page that is drawn, {len(pages)}, got {len(texts)}")


def check_count(name: str, value: Any, high: int) -> None:
    """Raise UserError unless a number of things is a whole number from 1 to `high`."""
    if isinstance(value, bool) or not isinstance(value, int) or not 1 <= value <= high:
        raise UserError(f"{name} must be a whole number from 1 to {high}, got {value!r:.80}")


def _kind(value: Any) -> str:
    if isinstance(value, Sequence) and not isinstance(value, (str, bytes)):
        kinds = sorted({type(item).__name__ for item in value})
        return f"a {type(value).__name__} of {', '.join(kinds) or 'nothing'}"
    return type(value).__name__
