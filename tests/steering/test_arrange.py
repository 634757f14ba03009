"""Pages inserted, moved and removed: the others keep their text and picture."""

from __future__ import annotations

import pytest
import torch

from modules.steering.arrange import _is_fresh, arrange, insert
from modules.steering.plan import Plan
from modules.steering.planned_story import PlannedStory, replay


def told(story: PlannedStory) -> list[tuple[str, bytes]]:
    return [(text, image.tobytes()) for text, image in zip(story.texts, story.images, strict=True)]


@pytest.mark.parametrize("place", [0, 2, 4])
def test_new_pages_leave_the_others_as_they_are(tiny_pipeline, story, place):
    longer = insert(tiny_pipeline, story, place, seed=5, num_pages=2)
    new = told(longer)[place : place + 2]
    assert told(longer) == [*told(story)[:place], *new, *told(story)[place:]]
    assert longer.plan.codes[:place] + longer.plan.codes[place + 2 :] == story.plan.codes
    assert longer.plan.origins[place : place + 2] == ("drawn", "drawn")
    assert told(insert(tiny_pipeline, story, place, seed=5, num_pages=2)) == told(longer)
    again = replay(tiny_pipeline, Plan.from_string(longer.plan.to_string()), longer.images)
    assert told(again) == told(longer)


def test_pages_change_places_and_leave(tiny_pipeline, story):
    other = arrange(tiny_pipeline, story, [2, 1, 0])
    assert told(other) == [told(story)[page] for page in (2, 1, 0)]
    assert other.plan.codes == tuple(story.plan.codes[page] for page in (2, 1, 0))


def test_new_pages_repeat_none_where_another_plan_is_drawn(tiny_pipeline, story, monkeypatch):
    others, told = [text for text in story.texts if text != story.texts[2]], list(story.texts)
    codes = torch.tensor(story.plan.codes)
    assert _is_fresh(tiny_pipeline, codes, [2], story.plan.settings, others)
    assert not _is_fresh(tiny_pipeline, codes, [2], story.plan.settings, told)
    answers: list[bool] = []
    monkeypatch.setattr("modules.steering.arrange._is_fresh", lambda *_: answers.pop(0) if answers else False)
    likeliest = insert(tiny_pipeline, story, 2, seed=5).plan.codes  # No plan is better than another.
    answers += [True]
    assert insert(tiny_pipeline, story, 2, seed=5).plan.codes == likeliest
    answers += [False, True]
    assert insert(tiny_pipeline, story, 2, seed=5).plan.codes != likeliest and not answers
