"""Pages moved, removed, inserted, or taken back from an earlier version of a story.

A rendering names its pages by their places in a plan of the whole story. So a page that moves becomes a given one, and
all pages do where their number changes: the plan contains their texts, not their pictures.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import TypeVar

import torch
from torch import Tensor

from modules.common.errors import UserError
from modules.generation.pipeline import StoryPipeline
from modules.generation.scoring import plan_nats
from modules.generation.settings import GenerationSettings
from modules.layers.seeding import derive_seed
from modules.steering.plan import Origin
from modules.steering.planned_story import PlannedStory, before, codes_of, render, with_log_probs
from modules.steering.rendering import Rendering

T = TypeVar("T")
NUM_DRAWS = 16  # Plans drawn for an insertion, of which the one is taken that fits best to the pages after it.


def arrange(pipeline: StoryPipeline, story: PlannedStory, order: Sequence[int]) -> PlannedStory:
    """Return the story with its pages in another `order` (T'), which may leave some out.

    Raises UserError if no page is left.
    """
    if not order:
        raise UserError("a story keeps at least one page")
    plan, stays = story.plan, [place == page for place, page in enumerate(order)]
    whole = len(order) == plan.num_pages
    kept = [whole and stay for stay in stays]  # With fewer pages no rendering's plan is that of the story.
    plan = replace(
        plan,
        codes=tuple(plan.codes[page] for page in order),
        origins=tuple(plan.origins[page] for page in order),
        text_from=tuple(plan.text_from[page] if stay else None for page, stay in zip(order, kept, strict=True)),
        picture_from=tuple(plan.picture_from[page] if stay else None for page, stay in zip(order, kept, strict=True)),
        given_texts=tuple(
            plan.given_texts[page] if stay else story.texts[page] for page, stay in zip(order, kept, strict=True)
        ),
        log_probs=None,
    ).without_unused()
    return PlannedStory(
        with_log_probs(pipeline, plan),
        tuple(story.texts[page] for page in order),
        tuple(story.images[page] for page in order),
        tuple(story.stamps[page] if stay else None for page, stay in zip(order, kept, strict=True)),
        story.notes,
    )


@torch.no_grad()
def insert(
    pipeline: StoryPipeline, story: PlannedStory, place: int, seed: int | None = None, num_pages: int = 1
) -> PlannedStory:
    """Return the story with `num_pages` new pages at `place`, from 0; at the end it goes on.

    Of `NUM_DRAWS` plans the one is taken with which all pages from `place` on are likeliest, of those whose new pages
    repeat no page if there are any. They are drawn from the pages before and, by a prior with `given_share`, towards
    those after.
    """
    plan, new_places = story.plan, tuple(range(place, place + num_pages))
    own = derive_seed(plan.settings.seed, "insert", place, plan.num_pages) if seed is None else seed
    settings = replace(plan.settings, seed=own)
    later = torch.tensor(plan.codes[place:], dtype=torch.long).view(-1, plan.num_slots)
    fixed = torch.cat([torch.full((num_pages, plan.num_slots), -1), later])
    history = torch.tensor(plan.codes[:place]) if place else None
    drawn = pipeline.plan(
        plan.prompt, len(fixed), codes=history, fixed=fixed, num_plans=NUM_DRAWS, settings=settings
    ).codes.cpu()
    earlier = torch.tensor(plan.codes[:place], dtype=torch.long).view(place, plan.num_slots)
    plans = torch.cat([earlier.expand(NUM_DRAWS, -1, -1), drawn], dim=1)
    order = plan_nats(pipeline, plan.prompt, plans)[:, place:].sum((1, 2)).argsort(stable=True).tolist()
    fresh = (row for row in order if _is_fresh(pipeline, plans[row], new_places, settings, story.texts))
    codes = codes_of(plans[next(fresh, order[0])])
    rendering = Rendering(codes, new_places, settings)
    texts, images = render(pipeline, rendering, before(story.images, new_places))
    kept = [*range(place), *[0] * num_pages, *range(place, plan.num_pages)]
    moved = arrange(pipeline, story, kept).plan
    drawn_one: Origin = "drawn"
    origins = (*moved.origins[:place], *[drawn_one] * num_pages, *moved.origins[place + num_pages :])
    new = replace(moved, codes=codes, origins=origins, log_probs=None).rendered(rendering)
    new = with_log_probs(pipeline, new)
    stamps = [story.stamps[page] if index < place else None for index, page in enumerate(kept)]
    stamps[place : place + num_pages] = [new.to_string()] * num_pages
    return PlannedStory(
        new,
        (*story.texts[:place], *texts, *story.texts[place:]),
        (*story.images[:place], *images, *story.images[place:]),
        tuple(stamps),
        story.notes,
    )


def _is_fresh(
    pipeline: StoryPipeline, codes: Tensor, pages: Sequence[int], settings: GenerationSettings, told: Sequence[str]
) -> bool:
    """Return whether the words of some pages of the plan `codes` (T,S) are new: neither told before nor told twice."""
    texts = pipeline.write(codes, pages, settings)
    return len({*texts, *told}) == len(texts) + len(set(told))


def take_page(pipeline: StoryPipeline, story: PlannedStory, page: int, other: PlannedStory) -> PlannedStory:
    """Return the story with a page as `other`, an earlier version of it, has it.

    Raises UserError if the two do not have the same number of pages.
    """
    plan, source = story.plan, other.plan
    if plan.num_pages != source.num_pages:
        raise UserError("the page cannot be taken back alone: pages were added or removed since")
    first = len(plan.renderings)
    sources = [None if one is None else first + one for one in (source.text_from[page], source.picture_from[page])]
    plan = replace(
        plan,
        codes=_with(plan.codes, page, source.codes[page]),
        origins=_with(plan.origins, page, source.origins[page]),
        renderings=(*plan.renderings, *source.renderings),
        text_from=_with(plan.text_from, page, sources[0]),
        picture_from=_with(plan.picture_from, page, sources[1]),
        given_texts=_with(plan.given_texts, page, source.given_texts[page]),
        log_probs=None,
    ).without_unused()
    return replace(
        story,
        plan=with_log_probs(pipeline, plan),
        texts=_with(story.texts, page, other.texts[page]),
        images=_with(story.images, page, other.images[page]),
        stamps=_with(story.stamps, page, plan.to_string()),
    )


def _with(values: tuple[T, ...], index: int, value: T) -> tuple[T, ...]:
    return (*values[:index], value, *values[index + 1 :])
