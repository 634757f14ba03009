"""The codes of a page that gets new words."""

from __future__ import annotations

import torch
from PIL import Image
from torch import Tensor

from modules.encoded.stories import batch_of_steps
from modules.generation.pipeline import StoryPipeline
from modules.generation.scoring import plan_nats
from modules.steering.locks import Locks
from modules.steering.planned_story import PlannedStory
from modules.story import StoryStep


@torch.no_grad()
def codes_for_text(pipeline: StoryPipeline, story: PlannedStory, page: int, text: str, locks: Locks) -> tuple[int, ...]:
    """Return the codes (S) of a page for new words, the likeliest of several readings: that of the words alone, that of
    the words with the present picture, and the present codes with only those replaced that the change of words changes.

    The words alone do not say everything that the page shows, and what they leave open should stay. Likeliest is what
    gives the words and the codes of the whole story together the highest probability. With the picture locked, the
    codes are read from words and picture.
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
    nats = plan_nats(pipeline, story.plan.prompt, plans).sum((1, 2)) + _text_nats(pipeline, plans, page, text)
    return tuple(rows[int(nats.argmin())].tolist())


def _encode(pipeline: StoryPipeline, text: str, image: Image.Image | None) -> Tensor:
    return pipeline.encode([StoryStep(text=text, image=image)])[0].cpu()


def _text_nats(pipeline: StoryPipeline, plans: Tensor, page: int, text: str) -> Tensor:
    """Return -log p of a page's text given each of R plans (R,T,S), in nats (R,) float64."""
    count, num_pages = plans.shape[:2]
    code_embeds = pipeline.embed(plans.flatten(0, 1))
    window = pipeline.model.window(code_embeds, [num_pages] * count)
    rows = torch.arange(count, device=pipeline.device) * num_pages + page
    batch = batch_of_steps([StoryStep(text)], pipeline.model, pipeline.tokenizer)
    ids, mask = (tokens[0].expand(count, -1) for tokens in (batch.input_ids, batch.text_mask))
    around = None if window is None else window[rows]
    return pipeline.model.text_decoder(code_embeds[rows], ids, mask, window=around).nll.double().sum(1).cpu()
