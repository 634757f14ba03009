"""The tables and folders of a user's own: what belongs together stays together, and what is misspelt is told."""

from __future__ import annotations

import json
import os

import pytest

from modules.data.folder import open_split
from modules.data.writing import write_stories
from modules.storyworld import StoryWorld
from tests.support.downloads import collected, paint, run, texts


def test_steps_of_a_table_keep_their_own_pictures(tmp_path):
    """A step may lack its text or its picture: what the others have does not move."""
    for page in (1, 2):
        paint(tmp_path / f"p{page}.png", page)
    (tmp_path / "t.csv").write_text("book,text,image\nb0,A alpha.,\nb0,B beta.,p1.png\nb0,,p2.png\n")
    found = collected(tmp_path / "out", "csv", tmp_path / "t.csv", "--story", "book")["b0"]
    assert texts(found) == ["A alpha.", "B beta.", None]
    pictures = [None if step.image_path is None else step.image_path.read_bytes() for step in found.steps]
    assert pictures == [None, (tmp_path / "p1.png").read_bytes(), (tmp_path / "p2.png").read_bytes()]


@pytest.mark.parametrize("flag", ["--text", "--image", "--story", "--prompt", "--id", "--license_column", "--credit"])
def test_a_column_that_is_nowhere_is_told_with_those_that_are(tmp_path, capsys, flag):
    paint(tmp_path / "p.png", 1)
    (tmp_path / "t.csv").write_text("text,image\nOne.,p.png\n")
    assert run("csv", tmp_path / "t.csv", flag, "typo", "--output", tmp_path / "out") == 2
    assert (
        f"no column for {flag} typo; its columns are text, image" in capsys.readouterr().err
        and not (tmp_path / "out").exists()
    )


@pytest.mark.parametrize(
    ("source", "content"),
    [
        ("csv", b"text,image\na,b,c\n"),
        ("jsonl", b"{not json\n"),
        ("jsonl", b"[1, 2]\n"),
        ("jsonl", b'{"text": ["a", 5]}\n'),
    ],
)
def test_a_probe_of_a_bad_record_is_one_sentence(tmp_path, capsys, source, content):
    (tmp_path / f"t.{source}").write_bytes(content)
    assert run(source, tmp_path / f"t.{source}", "--probe", "--output", tmp_path / "out") == 2
    error = capsys.readouterr().err
    assert (
        error.count("\n") == 1
        and "the first record" in error
        and "cannot be used" in error
        and not (tmp_path / "out").exists()
    )


def test_a_folder_with_train_alone_holds_some_of_it_out(tmp_path):
    for page in range(3):
        paint(tmp_path / f"in/train/p{page}.png", page)
    (tmp_path / "in/train/metadata.csv").write_text(
        "file_name,text\n" + "".join(f"p{page}.png,Page {page}.\n" for page in range(3))
    )
    found = collected(tmp_path / "out", "folder", tmp_path / "in")
    assert sorted(text for story in found.values() for text in texts(story)) == ["Page 0.", "Page 1.", "Page 2."]
    assert len(open_split(tmp_path / "out", "train")) == 2


def test_names_that_are_no_text_and_odd_digits(tmp_path, capsys):
    for folder in ("²", "a"):
        paint(tmp_path / f"in/{folder}/1.png", 1 + len(folder.encode()))
        (tmp_path / f"in/{folder}/1.txt").write_text("One.")
    bad = tmp_path / "in" / os.fsdecode(b"b\xff")
    paint(bad / "1.png", 9)
    (bad / "1.txt").write_text("Two.")
    assert set(collected(tmp_path / "out", "folder", tmp_path / "in")) == {"²", "a"}
    assert "left out 1 bad" in capsys.readouterr().err


def test_ones_own_stories_keep_what_is_known_of_them(tmp_path):
    world = StoryWorld(3, image_size=32)
    write_stories(tmp_path / "in", world)
    found = collected(tmp_path / "out", "folder", tmp_path / "in")
    for story in world:
        assert [step.attributes for step in found[story.id].steps] == [
            json.loads(json.dumps(step.attributes)) for step in story.steps
        ]
