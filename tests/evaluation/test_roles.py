"""Roles and colours that prompts ask for: true stories score one, swapped roles and other stories do not."""

from __future__ import annotations

import pytest

from modules.evaluation.judge.roles import score_roles
from modules.storyworld import CHARACTERS, NAMES, StoryWorld


def shown(attributes):
    kinds, colors = attributes["characters"], attributes["colors"]
    return {**attributes, "characters": set(kinds), "colors": dict(zip(kinds, colors, strict=True))}


@pytest.fixture(scope="module")
def stories():
    world = StoryWorld(300, seed=9)
    outlines = [world.outline(index) for index in range(len(world))]
    steps = [step for story in outlines for step in story.steps]
    pages = [step.text for step in steps], [shown(step.attributes) for step in steps]
    return [story.prompt for story in outlines], pages, [len(story.steps) for story in outlines]


def test_true_stories_score_one_and_others_less(stories):
    prompts, pages, lengths = stories
    for name, estimate in score_roles(prompts, pages, pages, lengths).items():
        assert estimate.value == estimate.ceiling > 0.97, name
        assert estimate.low <= estimate.value <= estimate.high
        assert estimate.floor < 0.5, name


def test_swapped_characters_score_nothing_for_roles(stories):
    prompts, pages, lengths = stories
    estimates = score_roles([swap(prompt) for prompt in prompts], pages, pages, lengths)
    assert estimates["giver_in_texts"].value == 0
    assert estimates["helper_in_texts"].value < 0.5  # Stories of one or two pages may not show who is helped.
    assert estimates["both_in_texts"].value > 0.97


def swap(prompt):
    """Exchange the first two characters that a prompt names, by their names alone."""
    names = {word: kind for kind in CHARACTERS for word in (kind, NAMES[kind].lower())}
    words = prompt.lower().replace(".", " .").replace(",", " ,").split()
    kinds = list(dict.fromkeys(names[word] for word in words if word in names))
    if len(kinds) < 2:
        return prompt
    other = {kinds[0]: kinds[1], kinds[1]: kinds[0]}
    return " ".join(other[names[word]] if word in names else word for word in words)


def test_one_prompt_has_no_floor():
    pages = ["Ella gives the balloon to Lily."], [{"characters": {"elephant", "rabbit"}, "colors": {"rabbit": "red"}}]
    estimates = score_roles(["Ella gives a balloon to Lily in a red dress"], pages, pages, [1])
    assert {name: estimate.value for name, estimate in estimates.items() if name != "helper_in_texts"} == {
        "giver_in_texts": 1,
        "both_in_texts": 1,
        "both_in_pictures": 1,
        "asked_colour_in_texts": 0,
        "asked_colour_in_pictures": 1,
    }
    assert all(estimate.floor is None for estimate in estimates.values())
