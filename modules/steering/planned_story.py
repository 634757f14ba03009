"""A story with its plan: generated, replayed, or read from pages that someone else made."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import cast

import torch
from PIL import Image
from torch import Tensor

from modules.common.errors import UserError
from modules.common.progress import track
from modules.data.images import fit_image
from modules.generation.output import StoryPipelineOutput
from modules.generation.pipeline import StoryPipeline
from modules.generation.rendering import render_images
from modules.generation.settings import GenerationSettings
from modules.steering.plan import Origin, Plan, drawn_plan
from modules.steering.rendering import Codes, Parts, Rendering
from modules.story import Story

PLAN_KEY = "plan"  # Of a plan's text form in story.json.


@dataclass(frozen=True)
class PlannedStory:
    """The T pages of a plan. `stamps` (T) are the text forms of the plan of which each page is a part: that of the
    story at the time when the page was last changed, None for a page that belonged to none.
    """

    plan: Plan
    texts: tuple[str, ...]
    images: tuple[Image.Image, ...]
    stamps: tuple[str | None, ...]
    notes: tuple[str, ...] = ()

    def to_output(self) -> StoryPipelineOutput:
        """Return the story as a pipeline does."""
        log_probs = None if self.plan.log_probs is None else torch.tensor(self.plan.log_probs)
        codes = torch.tensor(self.plan.codes)
        return StoryPipelineOutput(self.plan.prompt, list(self.images), list(self.texts), codes, log_probs, self.notes)


def codes_of(tensor: Tensor) -> Codes:
    """Return codes (T,S) as a plan has them."""
    return tuple(tuple(row) for row in tensor.tolist())


def tell(pipeline: StoryPipeline, prompt: str, num_steps: int, settings: GenerationSettings) -> PlannedStory:
    """Generate a story with its plan: the same bytes as `pipeline(prompt, num_steps, settings=settings)`."""
    output = pipeline(prompt, num_steps, settings=settings)
    assert output.codes is not None and output.log_probs is not None, "a baseline has no plan"
    plan = drawn_plan(prompt, codes_of(output.codes), codebook_size(pipeline), pipeline.fingerprint(), settings)
    plan = replace(plan, log_probs=tuple(map(tuple, output.log_probs.tolist())))
    return PlannedStory(plan, tuple(output.texts), tuple(output.images), (plan.to_string(),) * num_steps, output.notes)


def replay(pipeline: StoryPipeline, plan: Plan, given_images: Sequence[Image.Image | None] = ()) -> PlannedStory:
    """Render all pages of a plan again: equal bytes with equal weights, on the same machine and versions.

    `given_images` (T) are needed where a page's picture was given; where one is absent, it is drawn from the page's
    codes, and a note reports it. Raises UserError if the plan was made with other weights.
    """
    plan.check_weights(pipeline.fingerprint())
    missing = [page for page in plan.given_pictures if not given_images or given_images[page] is None]
    drawn = plan
    if missing:
        drawn = plan.rendered(
            Rendering(plan.codes, tuple(missing), plan.settings, "picture", _kept_texts(plan, missing))
        )
    texts: list[str | None] = list(drawn.given_texts)
    images = [None if page in missing else image for page, image in enumerate(given_images or [None] * plan.num_pages)]
    latest = list(images)
    for number, rendering in enumerate(track("renderings", drawn.renderings, visible=len(drawn.renderings) > 1)):
        new_texts, new_images = render(pipeline, rendering, before(latest, rendering.pages))
        for row, page in enumerate(rendering.pages):
            if new_images:
                latest[page] = new_images[row]
            if drawn.text_from[page] == number:
                texts[page] = new_texts[row]
            if drawn.picture_from[page] == number:
                images[page] = new_images[row]
    stamp = drawn.to_string()
    pages = [str(page + 1) for page in missing]
    notes = (f"the plan does not contain the given picture of page {', '.join(pages)}: it is drawn from its codes",)
    return PlannedStory(
        with_log_probs(pipeline, drawn),
        tuple(cast("list[str]", texts)),
        tuple(cast("list[Image.Image]", images)),
        (stamp,) * plan.num_pages,
        (*pipeline.notes(plan.prompt), *(notes if missing else ())),
    )


def open_story(
    pipeline: StoryPipeline, story: Story, stamps: Sequence[str | None] = (), settings: GenerationSettings | None = None
) -> PlannedStory:
    """Return a story that was read from its files, with the plan in it; without one, or with that of other weights, its
    pages are given ones, and their codes are those that the encoder reads.

    `stamps` are the plans that the pages' files name. A text or picture that is missing is decoded. Raises UserError if
    the plan is damaged or does not fit the pages.
    """
    text = story.extra.get(PLAN_KEY)
    plan = None if text is None else Plan.from_string(str(text))
    notes: tuple[str, ...] = ()
    if plan is not None and plan.num_pages != len(story.steps):
        raise UserError(f"the plan of the story has {plan.num_pages} pages, and the story {len(story.steps)}")
    if plan is not None and plan.fingerprint != pipeline.fingerprint():
        notes = (f"the story was made with the weights {plan.fingerprint}: its pages are treated as given",)
        plan = None
    if plan is None:
        return replace(adopt(pipeline, story, settings or GenerationSettings()), notes=notes)
    if any(step.text is None or step.image is None for step in story.steps):
        raise UserError("a page of the story lacks its text or its picture: replay it with generate --from")
    pages = [(cast(str, step.text), cast(Image.Image, step.image)) for step in story.steps]
    return PlannedStory(
        with_log_probs(pipeline, plan),
        tuple(text for text, _ in pages),
        tuple(image for _, image in pages),
        tuple(stamps) or (None,) * plan.num_pages,
    )


def adopt(pipeline: StoryPipeline, given: Story, settings: GenerationSettings) -> PlannedStory:
    """Return a story of given pages with the codes that the encoder reads in them; what is missing is decoded.

    Pictures are fitted to the model's size, in which they are stored and read again.
    """
    codes = codes_of(pipeline.encode(given.steps))
    count, steps, texts = len(codes), given.steps, tuple(step.text for step in given.steps)
    undrawn = tuple(page for page, step in enumerate(steps) if step.image is None)
    untold = tuple(page for page, step in enumerate(steps) if step.text is None and page not in undrawn)
    origin: Origin = "encoded"
    plan = Plan(
        prompt=given.prompt,
        codes=codes,
        codebook_size=codebook_size(pipeline),
        fingerprint=pipeline.fingerprint(),
        settings=settings,
        renderings=(),
        origins=(origin,) * count,
        text_from=(None,) * count,
        picture_from=(None,) * count,
        given_texts=texts,
    )
    groups: dict[Parts, tuple[int, ...]] = {"both": undrawn, "text": untold}
    for parts, pages in groups.items():
        if pages:
            plan = plan.rendered(Rendering(codes, pages, settings, parts, tuple(texts[page] for page in pages)))
    size = pipeline.config.autoencoder.image_size
    images = [None if step.image is None else fit_image(step.image, size) for step in steps]
    story = replay(pipeline, plan, images)
    changed = {*undrawn, *untold}
    return replace(story, stamps=tuple(stamp if page in changed else None for page, stamp in enumerate(story.stamps)))


def render(
    pipeline: StoryPipeline, rendering: Rendering, previous: Image.Image | None = None
) -> tuple[list[str], list[Image.Image]]:
    """Decode the texts and pictures of a rendering's pages; what it does not have is an empty list.

    `previous` is the picture before the first page, which a `strength` below 1 starts from.
    """
    codes, settings = torch.tensor(rendering.codes), rendering.settings
    if rendering.parts == "both":
        return pipeline.render(
            codes, pages=rendering.pages, texts=rendering.texts, previous=previous, settings=settings
        )
    if rendering.parts == "text":
        return pipeline.write(codes, rendering.pages, settings), []
    code_embeds, window = pipeline.page_inputs(codes, None, rendering.pages)
    texts = rendering.texts or (None,) * len(rendering.pages)
    return [], render_images(pipeline.model, code_embeds, texts, settings, previous, window)


def before(images: Sequence[Image.Image | None], pages: Sequence[int]) -> Image.Image | None:
    """Return the picture of the page before the first of `pages`."""
    return images[pages[0] - 1] if pages[0] else None


@torch.no_grad()
def with_log_probs(pipeline: StoryPipeline, plan: Plan) -> Plan:
    """Return the plan with the log-probabilities of its codes under the prior."""
    codes = torch.tensor(plan.codes, device=pipeline.device)[None]
    step_mask = torch.ones(codes.shape[:2], dtype=torch.bool, device=pipeline.device)
    nll = pipeline.model.prior.score(codes, *pipeline.prompt_tokens(plan.prompt), step_mask).nll[0]
    return replace(plan, log_probs=tuple(map(tuple, (-nll).tolist())))


def codebook_size(pipeline: StoryPipeline) -> int:
    """Return the number of codes that a slot can have."""
    return pipeline.config.storyboard.codebook_size


def _kept_texts(plan: Plan, pages: Sequence[int]) -> tuple[str | None, ...]:
    return tuple(plan.given_texts[page] for page in pages)
