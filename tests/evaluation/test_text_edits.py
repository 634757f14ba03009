"""Edits of story-world texts, and whether pictures obey them."""

from __future__ import annotations

from typing import Any

import pytest

from modules.evaluation.judge.edits import Change, change_text
from modules.storyworld import StoryWorld, mentioned

SEEN = {"characters": {"fox", "cat"}, "colors": {"fox": "red", "cat": "blue"}, "place": "farm"}
SEEN |= {"object": "kite", "weather": "sunny", "action": "play"}


@pytest.mark.parametrize("turn", range(5))
def test_one_attribute_of_a_text_is_replaced(turn):
    for story in (StoryWorld(20, seed=3).outline(index) for index in range(20)):
        for step in story.steps:
            change = change_text(step.text, turn)
            before, after = mentioned(step.text), mentioned(change.text)
            assert {group for group in before if before[group] != after[group]} == {change.group}
            assert after[change.group] == before[change.group] - {change.old} | {change.new}


def test_a_changed_text_is_english():
    text = "One night on the farm, Rusty the fox in his red coat finds an apple."
    texts = [change_text(text, turn).text for turn in range(5)]
    assert texts[0] == "One night on the farm, Rusty the fox in his blue coat finds an apple."
    assert texts[1] == "One night on the farm, Rusty the fox in his red coat finds a kite."
    assert texts[2].startswith("One night in the city, Rusty")
    assert texts[3].startswith("One night on the farm, Pip the penguin in his red sweater")
    assert texts[4].startswith("One rainy day on the farm")
    assert change_text("Nothing is here.", 0) is None


@pytest.mark.parametrize(
    ("change", "after", "obeyed", "kept"),
    [
        (("colors", "red", "pink"), {"colors": {"fox": "pink", "cat": "blue"}}, True, 6 / 6),
        (("colors", "red", "pink"), {"colors": {"fox": "red", "cat": "pink"}}, False, 5 / 6),
        (("colors", "green", "pink"), {"colors": {"fox": "pink", "cat": "blue"}}, True, 6 / 7),
        (("objects", "kite", "cake"), {"object": "cake", "action": "find"}, True, 5 / 6),
        (("places", "farm", "moon"), {}, False, 6 / 6),
        (
            ("characters", "cat", "pig"),
            {"characters": {"fox", "pig"}, "colors": {"fox": "red", "pig": "blue"}},
            True,
            1,
        ),
        (("characters", "cat", "pig"), {"characters": {"pig"}, "colors": {"pig": "red"}}, True, 4 / 5),
    ],
)
def test_pictures_are_compared_before_and_after(change, after: dict[str, Any], obeyed, kept):
    change = Change(*change, text="")
    assert change.is_obeyed(SEEN, SEEN | after) == obeyed
    found = change.kept(SEEN, SEEN | after)
    assert sum(found) / len(found) == pytest.approx(kept)
