"""The plan of a story that was continued."""

from __future__ import annotations

from dataclasses import replace

from modules.generation.output import StoryPipelineOutput
from modules.generation.pipeline import StoryPipeline
from modules.generation.settings import GenerationSettings
from modules.steering.plan import Origin
from modules.steering.planned_story import PlannedStory, codes_of, with_log_probs
from modules.steering.rendering import Codes, Rendering


def extend(
    pipeline: StoryPipeline,
    story: PlannedStory,
    read_codes: Codes,
    new: StoryPipelineOutput,
    settings: GenerationSettings,
) -> PlannedStory:
    """Return a story with the pages that `pipeline.continue_story` added to it.

    `read_codes` (T,S) are those that the encoder read in the given pages: the new pages were decoded in the plan of
    these, while the given pages keep the codes that they came from.
    """
    assert new.codes is not None, "a baseline has no plan"
    added, count = codes_of(new.codes), len(new.texts)
    origin: Origin = "drawn"
    plan = replace(
        story.plan,
        prompt=new.prompt,
        codes=(*story.plan.codes, *added),
        origins=(*story.plan.origins, *(origin,) * count),
        text_from=(*story.plan.text_from, *(None,) * count),
        picture_from=(*story.plan.picture_from, *(None,) * count),
        given_texts=(*story.plan.given_texts, *(None,) * count),
    )
    pages = tuple(range(len(story.texts), len(story.texts) + count))
    plan = plan.rendered(Rendering((*read_codes, *added), pages, settings))
    return PlannedStory(
        with_log_probs(pipeline, plan),
        (*story.texts, *new.texts),
        (*story.images, *new.images),
        (*story.stamps, *(plan.to_string(),) * count),
        new.notes,
    )
