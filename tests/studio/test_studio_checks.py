"""Warnings and the cast: what the judge reads in pictures of the story world, held against their texts."""

from __future__ import annotations

from dataclasses import replace

import pytest

from modules.common.errors import UserError
from modules.generation.pipeline import StoryPipeline
from modules.generation.settings import GenerationSettings
from modules.steering.locks import Locks
from modules.steering.planned_story import PlannedStory, tell
from modules.storyworld import StoryWorld, mentioned
from modules.studio.checks import Checker, color_of, hold, name_of, split_locks, texts_change, unusual, wrong_colors


@pytest.fixture(scope="module")
def checker(tiny_pipeline: StoryPipeline) -> Checker:
    return Checker(tiny_pipeline)


@pytest.fixture(scope="module")
def drawn(tiny_pipeline: StoryPipeline) -> PlannedStory:
    """Four pages of a true story, in the place of what the tiny model would draw; the first two name its hero."""
    world = StoryWorld(40, image_size=96)
    stories = [world[number] for number in range(40)]
    found = next(
        story
        for story in stories
        if len(story.steps) >= 4 and all(len(mentioned(step.text)["characters"]) == 1 for step in story.steps[:2])
    )
    story = tell(tiny_pipeline, found.prompt, 4, GenerationSettings(seed=1))
    texts, images = ([getattr(step, name) for step in found.steps[:4]] for name in ("text", "image"))
    return replace(story, texts=tuple(texts), images=tuple(images))


def test_the_cast_is_who_the_pages_show(checker, drawn):
    checks = checker.check(drawn, [10.0] * 4)
    member = checks["cast"][0]
    assert {member["kind"]} == mentioned(drawn.texts[0])["characters"] and member["name"] in drawn.texts[0]
    other = next(color for color in ("red", "blue") if color != member["color"])
    warned = checker.check(drawn, [10.0] * 4, {member["kind"]: other})["warnings"]
    assert any(f"locked to {other}" in sentence for page in warned for sentence in page)


def test_changes_of_a_locked_character_are_counted(checker, drawn):
    member = checker.check(drawn, [10.0] * 4)["cast"][0]
    held = {member["kind"]: member["color"]}
    assert checker.changes(drawn, drawn, held) == 0
    swapped = replace(drawn, images=(drawn.images[1], *drawn.images[1:]))
    assert checker.changes(drawn, swapped, held) == 0
    empty = replace(drawn, texts=("The sun is out.", *drawn.texts[1:]))
    assert checker.changes(drawn, empty, held) == 1
    other = next(color for color in ("red", "blue") if color != member["color"])
    assert checker.changes(drawn, swapped, {member["kind"]: other}) == 1


def test_a_locked_character_holds_the_codes_that_carry_it():
    locks = hold(Locks(codes=frozenset({(0, 5)})), ["The fox runs.", "The sun is out."], {"fox": "red"}, [1, 3])
    assert locks.codes == {(0, 5), (0, 1), (0, 3)}


def test_words_about_characters_are_read():
    assert color_of("fox", "Rusty the fox in his red coat runs.") == "red"
    assert color_of("fox", "Rusty the fox in his old coat runs.") is None
    assert name_of("fox", ["Rusty the fox runs.", "Nala the cat sleeps."]) == "Rusty"
    assert name_of("pig", ["Rusty the fox runs."]) == ""
    assert texts_change(["The fox runs."], ["The pig runs."], {"fox": "red"})
    assert texts_change(["The fox runs."], ["The fox in a blue coat runs."], {"fox": "red"})
    assert not texts_change(["The fox runs."], ["The fox in a red coat sleeps."], {"fox": "red", "pig": "pink"})
    assert split_locks(["2.text", "cast.fox.red"]) == (["2.text"], {"fox": "red"})
    with pytest.raises(UserError, match="no such character"):
        split_locks(["cast.fox"])
    assert unusual([10.0, 30.0, 10.0], 1) and not unusual([10.0, 12.0], 1)


def test_each_character_has_the_colour_that_its_text_says():
    picture = {"colors": {"elephant": "blue", "girl": "pink", "fox": "red"}}

    def warned(text: str) -> list[str]:
        return wrong_colors(text, mentioned(text), picture)

    (sentence,) = warned("Ella the elephant in a pink coat greets Mia the girl in her pink dress.")
    assert sentence == "The text says pink; the elephant wears blue in the picture."
    assert not warned("Ella the elephant in an old coat greets Mia the girl in her pink dress.")
    assert len(warned("The fox has a green coat.")) == 1 and not warned("The fox and the girl have a green coat.")
