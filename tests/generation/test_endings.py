"""Given pages that end their story are followed by another episode, and a note reports it."""

import math

import pytest
import torch

from modules.config import StoryConfig
from modules.generation import endings
from modules.generation.endings import ENDED, ends_story, room_for_history
from modules.story import StoryStep
from modules.storyworld import StoryWorld

PROMPT = "Rusty the fox wants a kite"


@pytest.fixture(scope="module")
def story():
    return StoryWorld(1, image_size=32)[0]


def test_the_last_page_decides(tiny_pipeline, story):
    """An ending is a page that is likelier with no step left than with 1 to 3."""
    codes = tiny_pipeline.encode(story.steps)
    tokens, prior = tiny_pipeline.prompt_tokens(PROMPT), tiny_pipeline.model.prior
    masks = [torch.ones(1, len(codes) + left, dtype=torch.bool) for left in range(4)]
    with torch.no_grad():
        nll = [prior(codes[None], *tokens, mask).nll[0, -1].sum().item() for mask in masks]
    last, others = math.exp(-nll[0]), sum(math.exp(-value) for value in nll[1:]) / 3
    assert ends_story(prior, codes, *tokens, max_steps=4) == (last > others)


def test_the_history_of_a_new_episode_fits_the_training():
    config = StoryConfig()
    assert [room_for_history(config, num_steps) for num_steps in (1, 2, 7, 8, 20)] == [7, 6, 1, 1, 1]


@pytest.mark.parametrize("ended", [False, True])
def test_a_new_episode_is_noted(tiny_pipeline, story, monkeypatch, ended):
    monkeypatch.setattr("modules.generation.pipeline.ends_story", lambda *_: ended)
    new = tiny_pipeline.continue_story(PROMPT, story.steps, 5, num_inference_steps=1)
    assert len(new.texts) == len(new.codes) == 5
    assert (ENDED in new.notes) == ended
    given = tiny_pipeline.encode(story.steps)
    read = given[-endings.room_for_history(tiny_pipeline.config, 5) :] if ended else given
    assert torch.equal(tiny_pipeline.plan(PROMPT, 5, codes=read).codes[0], new.codes)


def test_notes_are_in_the_output(tiny_pipeline):
    story = tiny_pipeline("Rusty wants a zeppelin and a ballon", 1, num_inference_steps=1)
    assert story.notes == (
        'the model was not trained on "ballon" and reads "balloon" instead',
        "the model was not trained on zeppelin; the story may differ from the prompt there",
    )
    read = tiny_pipeline("Rusty wants a zeppelin and a balloon", 1, num_inference_steps=1)
    assert torch.equal(read.codes, story.codes) and read.texts == story.texts
    assert tiny_pipeline("Rusty plays with a kite", 1, num_inference_steps=1).notes == ()
    given = [StoryStep("Rusty sees a sousaphone.")]
    assert "sousaphone" in tiny_pipeline.complete("", given, num_inference_steps=1).notes[0]
