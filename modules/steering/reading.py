"""The codes that a page may get with new words."""

from __future__ import annotations

import torch
from PIL import Image
from torch import Tensor

from modules.generation.pipeline import StoryPipeline
from modules.steering.locks import Locks
from modules.steering.planned_story import PlannedStory
from modules.story import StoryStep


@torch.no_grad()
def plans_for_text(pipeline: StoryPipeline, story: PlannedStory, page: int, text: str, locks: Locks) -> Tensor:
    """Return the plans (R,T,S) of a story with several readings of new words for a page: the words alone, the words
    with the present picture, and the present codes with only those replaced that the change of words changes.

    The words alone do not say everything that the page shows, and what they leave open should stay. With the picture
    locked, the one reading is that of words and picture.
    """
    old, picture = story.texts[page], story.images[page]
    present = torch.tensor(story.plan.codes[page])
    alone, both = _encode(pipeline, text, None), _encode(pipeline, text, picture)
    readings = [both]
    if page not in locks.pictures:
        before = _encode(pipeline, old, None)
        changed_alone = torch.where(alone != before, alone, present)
        readings = [alone, changed_alone, both, torch.where(both != _encode(pipeline, old, picture), both, present)]
    rows = [torch.tensor(locks.merge(story.plan.codes[page], row.tolist(), page)) for row in readings]
    plans = torch.tensor(story.plan.codes).repeat(len(rows), 1, 1)
    plans[:, page] = torch.stack(rows)
    return plans.unique(dim=0)


def _encode(pipeline: StoryPipeline, text: str, image: Image.Image | None) -> Tensor:
    return pipeline.encode([StoryStep(text=text, image=image)])[0].cpu()
