"""Writing stories to disk so that they can be read back."""

from __future__ import annotations

import pytest

from modules.common.errors import UserError
from modules.data.folder import StoryFolder
from modules.data.writing import write_stories
from modules.story import Story, StoryStep
from tests.support.story_folders import picture


def test_what_is_written_can_be_read(tmp_path):
    steps = (
        StoryStep("Ünï ☂\n“two”", picture("red"), {"place": "hill", "with": ["fox"]}),
        StoryStep(None, picture("blue", mode="RGBA")),
        StoryStep("Text only."),
    )
    stories = [Story("x/../1", "A fox", steps, {"license": "MIT"}), Story("2", "A cat", steps[2:])]
    assert write_stories(tmp_path / "out", stories) == 2
    folder = StoryFolder(tmp_path / "out")
    story = folder[0]
    assert (story.id, story.prompt, story.extra, folder[1].id) == ("x/../1", "A fox", {"license": "MIT"}, "2")
    assert [step.text for step in story.steps] == [step.text for step in steps]
    assert story.steps[0].attributes == steps[0].attributes and story.steps[1].attributes is None
    assert story.steps[0].image.tobytes() == steps[0].image.tobytes() and story.steps[2].image is None
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["images", "stories.jsonl"]


@pytest.mark.parametrize(
    ("stories", "message"),
    [
        ([Story("1", "p", (StoryStep(None),))], "neither a text nor a picture"),
        ([Story("1", "p", ())], "no steps"),
        ([Story("1", "p", (StoryStep("t"),))] * 2, 'two stories have the id "1"'),
        ([Story("1", "p", (StoryStep("t", None, {"x": object()}),))], "cannot be written"),
        ([Story("1", "p", (StoryStep("t"),), {"score": float("nan")})], "cannot be written"),
        ([Story("1", "p", (StoryStep("t"),), {"steps": 1})], "cannot be a key of extra"),
    ],
)
def test_what_could_not_be_read_is_not_written(tmp_path, stories, message):
    with pytest.raises(UserError, match=message):
        write_stories(tmp_path, stories)
    assert not list(tmp_path.glob("stories.jsonl*"))


def test_an_interrupted_write_leaves_the_old_file(tmp_path):
    write_stories(tmp_path, [Story("1", "old", (StoryStep("t"),))])

    def interrupted():
        yield Story("2", "new", (StoryStep("t"),))
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write_stories(tmp_path, interrupted())
    assert [story.prompt for story in StoryFolder(tmp_path)] == ["old"]
    assert not list(tmp_path.glob("*.partial"))


def test_an_unwritable_folder_is_a_user_error(tmp_path):
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(UserError, match="cannot be written"):
        write_stories(tmp_path / "file" / "out", [])
