"""Fixtures of the commands' tests."""

from __future__ import annotations

from pathlib import Path

import pytest

from modules.data.writing import write_stories
from modules.story import Story, StoryStep
from modules.storyworld import StoryWorld
from tests.support.commands import PROMPT, run


@pytest.fixture
def generate(tiny_checkpoint, tmp_path):
    """Return a function that generates two pages with few denoising steps and returns their folder."""

    def call(name: str = "out", *flags: object) -> Path:
        quick = ("--num_steps", 2, "--num_inference_steps", 2)
        assert (
            run("generate", "--prompt", PROMPT, "--ckpt", tiny_checkpoint, "--output", tmp_path / name, *quick, *flags)
            == 0
        )
        return tmp_path / name

    return call


@pytest.fixture(scope="session")
def story_folder(tmp_path_factory) -> Path:
    """A folder of two stories; the first has three pages: both, text only, a wide picture only."""
    world = StoryWorld(1, image_size=32)[0]
    wide = world.steps[2].image.resize((1600, 800))
    steps = (world.steps[0], StoryStep(text=world.steps[1].text), StoryStep(text=None, image=wide))
    folder = tmp_path_factory.mktemp("stories")
    write_stories(
        folder,
        [Story(id="first", prompt=world.prompt, steps=steps), Story(id="second", prompt="x", steps=world.steps[:1])],
    )
    return folder
