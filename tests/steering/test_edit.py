"""Edits: what one asks for changes, what is locked does not, and all other pages keep their bytes."""

from __future__ import annotations

import pytest
import torch
from PIL import Image

from modules.common.errors import UserError
from modules.steering import candidates, edit
from modules.steering.locks import Locks, parse_code, parse_locks, parse_page_codes
from modules.steering.plan import Plan
from modules.steering.planned_story import PlannedStory, replay
from modules.story import StoryStep
from modules.storyworld import StoryWorld

PAGE = 2


def pages(story: PlannedStory) -> list[tuple[str, bytes, str | None]]:
    return [
        (text, image.tobytes(), stamp)
        for text, image, stamp in zip(story.texts, story.images, story.stamps, strict=True)
    ]


def check_edit(pipeline, before: PlannedStory, after: PlannedStory, changed: set[int]) -> None:
    """The other pages are those from before, and the new plan gives all pages again."""
    pairs = list(zip(pages(before), pages(after), strict=True))
    assert {page for page, (old, new) in enumerate(pairs) if old != new} == changed
    again = replay(pipeline, Plan.from_string(after.plan.to_string()), after.images)
    assert [page[:2] for page in pages(again)] == [page[:2] for page in pages(after)]
    assert again.plan == after.plan


CHANGES = {
    "text": lambda pipeline, story, **options: edit.set_text(
        pipeline, story, PAGE, "The bear has a red hat.", **options
    ),
    "image": lambda pipeline, story, **options: edit.set_image(
        pipeline, story, PAGE, StoryWorld(2, image_size=96)[1].steps[0].image, **options
    ),
    "codes": lambda pipeline, story, **options: edit.set_codes(pipeline, story, PAGE, {4: 17, 0: 3}, **options),
    "rewrite": lambda pipeline, story, **options: edit.rewrite(pipeline, story, PAGE, **options),
    "redraw": lambda pipeline, story, **options: edit.redraw(pipeline, story, PAGE, **options),
    "replan": lambda pipeline, story, **options: edit.replan(pipeline, story, PAGE, **options),
}


@pytest.mark.parametrize("change", CHANGES)
def test_only_the_edited_page_changes(tiny_pipeline, story, change):
    edited = CHANGES[change](tiny_pipeline, story)
    check_edit(tiny_pipeline, story, edited, {PAGE})
    assert edited.plan.codes[:PAGE] == story.plan.codes[:PAGE] and edited.plan.codes[3] == story.plan.codes[3]
    same = CHANGES[change](tiny_pipeline, story)
    assert pages(same) == pages(edited)
    twice = CHANGES[change](tiny_pipeline, edited, **({"seed": 8} if change in ("rewrite", "redraw") else {}))
    assert pages(twice)[:PAGE] == pages(story)[:PAGE]


def test_what_was_given_is_kept_to_the_letter(tiny_pipeline, story):
    told = CHANGES["text"](tiny_pipeline, story)
    assert told.texts[PAGE] == "The bear has a red hat." and told.plan.given_texts[PAGE] == told.texts[PAGE]
    assert told.plan.text_from[PAGE] is None and told.plan.origins[PAGE] == "encoded"
    shown = CHANGES["image"](tiny_pipeline, story)
    assert shown.plan.picture_from[PAGE] is None and shown.images[PAGE].size == (32, 32)
    coded = CHANGES["codes"](tiny_pipeline, story)
    assert (coded.plan.codes[PAGE][4], coded.plan.codes[PAGE][0]) == (17, 3) and coded.plan.origins[PAGE] == "set"


def test_new_words_and_pictures_leave_the_codes(tiny_pipeline, story):
    for change in ("rewrite", "redraw"):
        edited = CHANGES[change](tiny_pipeline, story, seed=3)
        assert edited.plan.codes == story.plan.codes
        kept = edited.images if change == "rewrite" else edited.texts
        assert kept == (story.images if change == "rewrite" else story.texts)


def test_replanning_goes_on_to_the_end_around_locks(tiny_pipeline, story):
    everything = edit.replan(tiny_pipeline, story, 1, and_after=True, seed=11)
    check_edit(tiny_pipeline, story, everything, {1, 2, 3})
    locks = parse_locks(["3", "4.5"], 4, 8)
    some = edit.replan(tiny_pipeline, story, 1, and_after=True, locks=locks, seed=11)
    check_edit(tiny_pipeline, story, some, {1, 3})
    assert some.plan.codes[2] == story.plan.codes[2] and some.plan.codes[3][4] == story.plan.codes[3][4]


@pytest.mark.parametrize(
    ("change", "lock"), [("text", "picture"), ("image", "text"), ("codes", "text"), ("replan", "picture")]
)
def test_a_locked_part_stays(tiny_pipeline, story, change, lock):
    edited = CHANGES[change](tiny_pipeline, story, locks=parse_locks([lock], 4, 8))
    if lock == "text":
        assert edited.texts == story.texts
    else:
        assert [image.tobytes() for image in edited.images] == [image.tobytes() for image in story.images]
    assert edited.plan.codes != story.plan.codes


@pytest.mark.parametrize(
    ("change", "lock"),
    [
        ("text", "text"),
        ("image", "3.picture"),
        ("codes", "3.1"),
        ("rewrite", "3"),
        ("redraw", "picture"),
        ("replan", "3"),
    ],
)
def test_a_lock_against_the_edit_is_an_error(tiny_pipeline, story, change, lock):
    with pytest.raises(UserError, match=r"page 3: .* locked"):
        CHANGES[change](tiny_pipeline, story, locks=parse_locks([lock], 4, 8))


def test_bad_edits_are_refused(tiny_pipeline, story):
    with pytest.raises(UserError, match="text is empty"):
        edit.set_text(tiny_pipeline, story, 0, " ")
    with pytest.raises(UserError, match="slot 9, code 0: there are 8 slots"):
        edit.set_codes(tiny_pipeline, story, 0, {8: 0})


def test_locks_and_codes_are_read_from_words():
    assert parse_locks(["2.text", "picture", "1.3"], 3, 8) == Locks(
        frozenset({1}), frozenset({0, 1, 2}), frozenset({(0, 2)})
    )
    assert parse_locks(["1.codes"], 1, 2).codes == {(0, 0), (0, 1)}
    assert parse_code("5=117", 8, 4096) == (4, 117)
    assert parse_page_codes(["3.5=117"], 3, 8, 4096) == {(2, 4): 117}
    for word, message in (
        ("4", "page must be a number from 1 to 3"),
        ("1.9", "slot must be"),
        ("x", "page"),
        ("", "page"),
    ):
        with pytest.raises(UserError, match=message):
            parse_locks([word], 3, 8)
    for word in ("5", "9=1", "5=4096", "5=-1", "=", "5=x"):
        with pytest.raises(UserError):
            parse_code(word, 8, 4096)


def test_pictures_that_start_from_the_one_before_are_replayed(tiny_pipeline):
    from modules.generation.settings import GenerationSettings
    from modules.steering.planned_story import tell

    settings = GenerationSettings(seed=1, num_inference_steps=4, strength=0.5)
    before = tell(tiny_pipeline, "Rusty the fox wants a kite", 3, settings)
    after = edit.redraw(tiny_pipeline, edit.redraw(tiny_pipeline, before, 1, seed=4), 2, seed=5)
    check_edit(tiny_pipeline, before, after, {1, 2})
    assert isinstance(after.images[1], Image.Image)


@pytest.mark.parametrize(("margin", "alone"), [(-1e9, True), (1e9, False)])
def test_contradicting_pages_are_drawn_in_their_own_codes(tiny_pipeline, story, monkeypatch, margin, alone):
    monkeypatch.setattr(candidates, "VIEW_NATS", margin)
    edited = CHANGES["text"](tiny_pipeline, story, seed=3)
    own = edited.plan.codes[PAGE]
    (drawn,) = [rendering for rendering in edited.plan.renderings if rendering.parts == "picture"]
    assert drawn.codes == ((own,) * 4 if alone else edited.plan.codes) and drawn.settings.seed == 3
    assert list(own) == tiny_pipeline.encode([StoryStep(edited.texts[PAGE])])[0].tolist()
    check_edit(tiny_pipeline, story, edited, {PAGE})


def test_the_words_of_a_picture_are_those_of_its_own_codes(tiny_pipeline, story):
    edited = CHANGES["image"](tiny_pipeline, story)
    (written,) = [rendering for rendering in edited.plan.renderings if rendering.parts == "text"]
    assert written.codes == (edited.plan.codes[PAGE],) * 4
    check_edit(tiny_pipeline, story, edited, {PAGE})


def test_words_are_chosen_in_which_the_codes_are_read(tiny_pipeline, story):
    codes, settings = torch.tensor(story.plan.codes), story.plan.settings
    for code in range(0, 32, 5):
        codes[PAGE, 2] = code
        words, seed = candidates.choose_wording(tiny_pipeline, codes, PAGE, [2], settings, [7, 8])
        usual = tiny_pipeline.render(codes, pages=[PAGE], settings=settings)[0][0]
        read = tiny_pipeline.encode([StoryStep(text) for text in (usual, words or usual)])[:, 2].tolist()
        assert seed in (7, 8) and (words is None or (read[0] != code and read[1] == code and words != usual))
    assert candidates.choose_wording(tiny_pipeline, codes, PAGE, [2], settings, [7], "A fox.")[0] is None
    assert candidates.noise_seeds(4)[0] == 4 and len(set(candidates.noise_seeds(4))) == candidates.NUM_NOISES
