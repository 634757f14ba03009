"""Edits of one page of a story. Only what changes is rendered; all other texts and pictures stay as they are.

Every function takes a story and returns a new one. Locked texts, pictures and codes do not change. A page's new text
and picture are decoded in the new plan; those of the other pages were decoded in the plan before, and keep their bytes.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

import torch
from PIL import Image

from modules.common.errors import UserError
from modules.data.images import fit_image
from modules.generation.pipeline import StoryPipeline
from modules.generation.settings import GenerationSettings
from modules.layers.seeding import derive_seed
from modules.steering.candidates import choose_view, choose_wording, noise_seeds
from modules.steering.locks import Locks
from modules.steering.plan import Origin, Plan
from modules.steering.planned_story import PlannedStory, before, codes_of, render, with_log_probs
from modules.steering.rendering import PARTS, Codes, Parts, Rendering
from modules.story import StoryStep

NO_LOCKS = Locks()
REWRITE_TEMPERATURE, REWRITE_TOP_P = 0.8, 0.98  # Of new words: the likeliest ones are those that the page has.
MAX_DRAWS = 8  # Of another plan or text, until it differs from the one before.


def set_text(
    pipeline: StoryPipeline, story: PlannedStory, page: int, text: str, locks: Locks = NO_LOCKS, seed: int | None = None
) -> PlannedStory:
    """Give a page new words: its codes are read from them, with a locked picture from both, and its picture is drawn
    anew.

    The picture is drawn in the whole plan or, where this contradicts the words, in the page's own codes alone, and
    without a `seed` from one of several noises: see `choose_view`. Raises UserError if the text is empty or locked.
    """
    if not text.strip():
        raise UserError("the new text is empty: write a sentence")
    if page in locks.texts:
        raise UserError(f"page {page + 1}: its text is locked and is to be replaced: drop the lock or the change")
    image, view = (story.images[page] if page in locks.pictures else None), None
    read = codes_of(pipeline.encode([StoryStep(text, image)]))[0]
    codes = _with_page(story.plan.codes, page, locks.merge(story.plan.codes[page], read, page))
    if image is None:
        seeds = _noise_seeds(story.plan, page, seed)
        view, seed = choose_view(pipeline, torch.tensor(codes), page, text, story.plan.settings, seeds)
    story, drawn_in = _take(story, page, text=text), None if view is None else codes_of(view)
    return _rerender(pipeline, story, codes, {page: "encoded"}, {page: ("picture",)}, locks, seed, view=drawn_in)


def put_text(pipeline: StoryPipeline, story: PlannedStory, page: int, text: str) -> PlannedStory:
    """Give a page other words and change nothing else: its picture and its codes stay.

    Raises UserError if the text is empty.
    """
    if not text.strip():
        raise UserError("the new text is empty: write a sentence")
    story = _take(story, page, text=text)
    plan = with_log_probs(pipeline, story.plan)
    stamps = tuple(plan.to_string() if index == page else old for index, old in enumerate(story.stamps))
    return replace(story, plan=plan, stamps=stamps)


def set_image(
    pipeline: StoryPipeline,
    story: PlannedStory,
    page: int,
    image: Image.Image,
    locks: Locks = NO_LOCKS,
    seed: int | None = None,
) -> PlannedStory:
    """Give a page a new picture: its codes are read from it, and its text is written anew from these alone: other pages
    may tell of what the picture does not show.

    With the text locked, the codes are read from text and picture together. Raises UserError if the picture is locked.
    """
    if page in locks.pictures:
        raise UserError(f"page {page + 1}: its picture is locked and is to be replaced: drop the lock or the change")
    text = story.texts[page] if page in locks.texts else None
    wanted = codes_of(pipeline.encode([StoryStep(text=text, image=image)]))[0]
    codes = _with_page(story.plan.codes, page, locks.merge(story.plan.codes[page], wanted, page))
    story = _take(story, page, image=fit_image(image, pipeline.config.autoencoder.image_size))
    alone = (codes[page],) * len(codes)
    return _rerender(pipeline, story, codes, {page: "encoded"}, {page: ("text",)}, locks, seed, view=alone)


def set_codes(
    pipeline: StoryPipeline,
    story: PlannedStory,
    page: int,
    values: Mapping[int, int],
    locks: Locks = NO_LOCKS,
    seed: int | None = None,
) -> PlannedStory:
    """Replace single codes of a page, by slot: its text and picture are decoded anew.

    Where the encoder does not read the new codes in the likeliest words, it chooses others, and without a `seed` the
    noise that the picture begins with. Raises UserError if a slot is locked or absent, or a code is out of range.
    """
    plan, row = story.plan, list(story.plan.codes[page])
    for slot, code in values.items():
        if not (0 <= slot < plan.num_slots and 0 <= code < plan.codebook_size):
            raise UserError(
                f"slot {slot + 1}, code {code}: there are {plan.num_slots} slots, and codes from 0 to"
                f" {plan.codebook_size - 1}"
            )
        if (page, slot) in locks.codes:
            raise UserError(f"page {page + 1}: slot {slot + 1} is locked and is to be set: drop the lock or the change")
        row[slot] = code
    codes = _with_page(plan.codes, page, tuple(row))
    told = story.texts[page] if page in locks.texts else None
    shown = story.images[page] if page in locks.pictures else None
    parts: tuple[Parts, ...] = ("text", "picture")
    if told is None or shown is None:
        wanted, seeds = torch.tensor(codes), _noise_seeds(plan, page, seed)
        words, seed = choose_wording(pipeline, wanted, page, list(values), plan.settings, seeds, told, shown)
        if words is not None:
            story, parts = _take(story, page, text=words), ("picture",)
    return _rerender(pipeline, story, codes, {page: "set"}, {page: parts}, locks, seed)


def rewrite(
    pipeline: StoryPipeline, story: PlannedStory, page: int, locks: Locks = NO_LOCKS, seed: int | None = None
) -> PlannedStory:
    """Write the text of a page anew from the same codes, in other words, which are drawn at random.

    The codes leave few words open: the temperature rises until the words differ, at most `MAX_DRAWS` times.
    """
    if page in locks.texts:
        raise UserError(f"page {page + 1}: its text is locked and is to be rewritten: drop the lock or the change")
    settings, edited = story.plan.settings, story
    for attempt in range(MAX_DRAWS):
        drawn = replace(
            settings,
            decoding="top_p",
            temperature=max(settings.temperature, REWRITE_TEMPERATURE) + 0.2 * attempt,
            top_p=max(settings.top_p, REWRITE_TOP_P),
            penalty_alpha=0.0,
        )
        edited = _rerender(pipeline, story, story.plan.codes, {}, {page: ("text",)}, locks, seed, drawn)
        if edited.texts != story.texts:
            break
    return edited


def redraw(
    pipeline: StoryPipeline, story: PlannedStory, page: int, locks: Locks = NO_LOCKS, seed: int | None = None
) -> PlannedStory:
    """Draw the picture of a page anew from the same codes and other noise."""
    if page in locks.pictures:
        raise UserError(f"page {page + 1}: its picture is locked and is to be redrawn: drop the lock or the change")
    return _rerender(pipeline, story, story.plan.codes, {}, {page: ("picture",)}, locks, seed)


def replan(
    pipeline: StoryPipeline,
    story: PlannedStory,
    page: int,
    and_after: bool = False,
    locks: Locks = NO_LOCKS,
    seed: int | None = None,
) -> PlannedStory:
    """Draw the codes of a page, or of it and all pages after it, anew from the pages before; then decode these pages.

    Locked codes stay, and later ones are drawn given them. Raises UserError if all codes of the pages are locked.
    """
    plan = story.plan
    pages = range(page, plan.num_pages if and_after else page + 1)
    free = {(index, slot) for index in pages for slot in range(plan.num_slots)} - locks.codes
    if not free:
        raise UserError(f"page {page + 1}: all codes to be planned anew are locked: leave some of the locks out")
    fixed = torch.tensor(plan.codes[page:])
    for index, slot in free:
        fixed[index - page, slot] = -1
    history = torch.tensor(plan.codes[:page]) if page else None
    for attempt in range(MAX_DRAWS if seed is None else 1):  # A plan drawn at random may be the one that there is.
        own = _seed(plan, page, f"replan {attempt}") if seed is None else seed
        settings = replace(plan.settings, seed=own)
        drawn = pipeline.plan(plan.prompt, len(fixed), codes=history, fixed=fixed, settings=settings).codes[0]
        codes = (*plan.codes[:page], *codes_of(drawn))
        if codes != plan.codes:
            break
    changed = [index for index in pages if codes[index] != plan.codes[index]]
    return _rerender(
        pipeline,
        story,
        codes,
        dict.fromkeys(changed, "drawn"),
        {index: ("text", "picture") for index in changed},
        locks,
        own,
    )


def _rerender(
    pipeline: StoryPipeline,
    story: PlannedStory,
    codes: Codes,
    origins: Mapping[int, Origin],
    wanted: Mapping[int, Sequence[Parts]],
    locks: Locks,
    seed: int | None,
    settings: GenerationSettings | None = None,
    view: Codes | None = None,
) -> PlannedStory:
    """Return the story with new codes, of which the `wanted` parts of pages are rendered, unless they are locked.

    They are decoded in the new plan, or in the `view` of it.
    """
    plan = replace(
        story.plan, codes=codes, origins=tuple(origins.get(page, old) for page, old in enumerate(story.plan.origins))
    )
    texts, images, changed = list(story.texts), list(story.images), set(wanted)
    groups: dict[Parts, list[int]] = {}
    for page, parts in wanted.items():
        free = [part for part in parts if page not in (locks.texts if part == "text" else locks.pictures)]
        if free:
            groups.setdefault("both" if len(free) == 2 else free[0], []).append(page)
    for part in PARTS:
        if pages := tuple(groups.get(part, ())):
            own = _seed(plan, pages[0], part) if seed is None else seed
            kept = tuple(texts[page] for page in pages) if part == "picture" and _reads_text(pipeline) else ()
            rendering = Rendering(view or codes, pages, replace(settings or plan.settings, seed=own), part, kept)
            new_texts, new_images = render(pipeline, rendering, before(images, pages))
            plan = plan.rendered(rendering)
            for row, page in enumerate(pages):
                texts[page] = new_texts[row] if new_texts else texts[page]
                images[page] = new_images[row] if new_images else images[page]
    plan = with_log_probs(pipeline, plan)
    stamp = plan.to_string()
    stamps = tuple(stamp if page in changed else old for page, old in enumerate(story.stamps))
    return replace(
        story, plan=plan, texts=tuple(texts), images=tuple(images), stamps=stamps, notes=pipeline.notes(plan.prompt)
    )


def _take(story: PlannedStory, page: int, text: str | None = None, image: Image.Image | None = None) -> PlannedStory:
    """Return the story with a given text or picture of a page."""
    texts, images, plan = list(story.texts), list(story.images), story.plan
    if text is not None:
        texts[page] = text
        given, sources = list(plan.given_texts), list(plan.text_from)
        given[page], sources[page] = text, None
        plan = replace(plan, given_texts=tuple(given), text_from=tuple(sources))
    if image is not None:
        images[page] = image
        sources = list(plan.picture_from)
        sources[page] = None
        plan = replace(plan, picture_from=tuple(sources))
    return replace(story, plan=plan.without_unused(), texts=tuple(texts), images=tuple(images))


def _with_page(codes: Codes, page: int, row: tuple[int, ...]) -> Codes:
    return (*codes[:page], row, *codes[page + 1 :])


def _seed(plan: Plan, page: int, purpose: str) -> int:
    """Return a seed that differs from those of the renderings before."""
    used = [rendering.settings.seed for rendering in plan.renderings]
    return derive_seed(plan.settings.seed, purpose, page, len(used), used[-1] if used else 0)


def _noise_seeds(plan: Plan, page: int, seed: int | None) -> list[int]:
    """Return the seeds to choose from: the given one, or several."""
    return noise_seeds(_seed(plan, page, "picture")) if seed is None else [seed]


def _reads_text(pipeline: StoryPipeline) -> bool:
    """Return whether pictures are drawn to their texts."""
    return pipeline.model.image_decoder.text_encoder is not None
