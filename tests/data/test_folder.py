"""Folders of stories, on real files, and real picture books."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from modules.common.errors import UserError
from modules.data.folder import StoryFolder, open_split
from modules.data.images import fit_image
from modules.text_decoder.tokenizers import StoryTokenizer
from tests.support.story_folders import make_folder, page, picture, record

REPOSITORY = Path(__file__).resolve().parents[2]
PICTUREBOOKS = REPOSITORY.parent / "shared" / "picturebooks"


# --- reading stories


def test_reads_stories_with_pictures_and_extra_keys(tmp_path):
    one = record(license="CC-BY")
    one["steps"][1] = {"text": None, "image_path": "images/p.png", "attributes": {"place": "beach"}}
    one["steps"].append({"text": "No picture.\nTwo lines."})
    folder = StoryFolder(make_folder(tmp_path, [b"\xef\xbb\xbf" + json.dumps(one).encode(), b"", record("b", pages=1)]))
    assert len(folder) == 2 and folder.lengths == [3, 1] and folder.skipped == []
    story = folder[0]
    assert (story.id, story.prompt, dict(story.extra)) == ("a", "A fox", {"license": "CC-BY"})
    assert story.steps[0].image.mode == "RGB" and story.steps[0].image.size == (12, 8)
    assert story.steps[1].text is None and story.steps[1].attributes == {"place": "beach"}
    assert story.steps[2].image is None and story.steps[2].image_path is None
    assert list(folder.texts()) == ["A fox", "Page 0.", "No picture.\nTwo lines.", "A fox", "Page 0."]
    assert [story.id for story in folder] == ["a", "b"]
    assert "\n" not in folder.report() and "2 stories" in folder.report()


def test_reads_the_older_one_step_form(tmp_path):
    line = {"prompt": "A cat", "story": "The cat sat.", "image_path": "images/p.png", "source": "m3it"}
    folder = StoryFolder(make_folder(tmp_path, [line, line]))
    assert len({folder[0].id, folder[1].id}) == 2
    assert (
        folder[0].prompt == "A cat"
        and folder[0].steps[0].text == "The cat sat."
        and folder[0].steps[0].image is not None
    )
    assert folder[0].extra == {"source": "m3it"}


@pytest.mark.parametrize(("pages", "sizes"), [(7, [2, 2, 3]), (6, [3, 3]), (3, [3]), (1, [1]), (10, [2, 3, 2, 3])])
def test_long_stories_become_even_windows(tmp_path, pages, sizes):
    folder = StoryFolder(make_folder(tmp_path, [record(pages=pages)]), max_steps=3)
    assert folder.lengths == sizes
    assert [story.id for story in folder] == (["a"] if len(sizes) == 1 else [f"a#{i}" for i in range(len(sizes))])
    assert [step.text for story in folder for step in story.steps] == [f"Page {page}." for page in range(pages)]


def test_fingerprint_follows_content_not_place(tmp_path):
    first = StoryFolder(make_folder(tmp_path / "x", [record()])).fingerprint()
    second = make_folder(tmp_path / "y", [record()])
    assert StoryFolder(second).fingerprint() == first
    assert StoryFolder(second, max_steps=1).fingerprint() != first
    picture("blue").save(second / "images" / "p.png")
    assert StoryFolder(second).fingerprint() != first


BAD_LINES = {
    "missing": (page(image_path="images/none.png"), "step 2.*does not exist"),
    "absolute": (page(image_path="/etc/hostname"), "step 2.*inside the folder"),
    "parent": (page(image_path="images/../../p.png"), "step 2.*inside the folder"),
    "windows_parent": (page(image_path="images\\..\\..\\p.png"), "step 2.*inside the folder"),
    "windows_drive": (page(image_path="C:\\p.png"), "step 2.*inside the folder"),
    "empty_path": (page(image_path="", text="Two."), "step 2.*inside the folder"),
    "null_byte": (page(image_path="images/\0.png"), "step 2"),
    "long_name": (page(image_path="x" * 5000), "step 2"),
    "a_folder": (page(image_path="images"), "step 2.*not a file"),
    "empty_step": (page(text=" \n"), "step 2.*neither a text nor a picture"),
    "text_type": (page(text=5), 'step 2.*"text" must be a text, got a number'),
    "path_type": (page(image_path=["p.png"]), 'step 2.*"image_path" must be a text, got a list'),
    "attributes_type": (page(text="Two.", attributes=[1]), 'step 2.*"attributes" must be an object'),
    "step_type": (record(steps=["One."]), "step 1.*must be an object"),
    "no_steps": (record(steps=[]), "no steps"),
    "steps_type": (record(steps={}), '"steps" must be a list'),
    "id_type": (record(id=7), '"id" must be a text'),
    "empty_id": (record(id=""), '"id" is empty'),
    "prompt_type": (record(prompt=None), '"prompt" must be a text, got null'),
    "no_prompt": ({"id": "x", "steps": [{"text": "One."}]}, '"prompt" is missing'),
    "not_a_story": ([1, 2], "must be an object, got a list"),
    "malformed": (b'{"id": "a", ', "not valid JSON"),
    "not_utf8": (b'{"id": "\xff\xfe"}', "not UTF-8"),
    "nan": (b'{"id": "a", "prompt": "p", "score": NaN, "steps": [{"text": "t"}]}', "NaN"),
    "infinity": (b'{"id": "a", "prompt": "p", "score": -Infinity, "steps": [{"text": "t"}]}', "Infinity"),
    "nesting": (b"[" * 200_000, "nested too deeply"),
    "surrogate in a key of its own": (
        b'{"id": "a", "prompt": "p", "lic": "\\ud800", "steps": [{"text": "t"}]}',
        "surrogate",
    ),
    "surrogate": (b'{"id": "a", "prompt": "\\ud800", "steps": [{"text": "t"}]}', "surrogate"),
    "huge_number": (
        b'{"id": "a", "prompt": "p", "n": ' + b"9" * 5000 + b', "steps": [{"text": "t"}]}',
        "not valid JSON",
    ),
    "duplicate": (record("good0"), 'the id "good0" is that of line 1 too'),
    "over_long": (b'{"id": "' + b"x" * 10_000_001 + b'"}', "longer than 10 MB"),
}


@pytest.mark.parametrize("name", BAD_LINES)
def test_a_bad_record_is_named_or_skipped(tmp_path, name):
    bad, message = BAD_LINES[name]
    good = [record(f"good{i}", pages=1) for i in range(10)]
    make_folder(tmp_path, [*good[:5], bad, *good[5:]])
    with pytest.raises(UserError, match=rf"stories\.jsonl line 6: .*{message}"):
        StoryFolder(tmp_path)
    folder = StoryFolder(tmp_path, on_bad_record="skip")
    assert len(folder) == 10 and len(folder.skipped) == 1 and "line 6" in folder.skipped[0]
    assert "1 skipped" in folder.report() and "\n" not in folder.report()


def test_a_window_id_that_another_story_has_is_a_duplicate(tmp_path):
    make_folder(tmp_path, [record("a", pages=4), record("a#1", pages=1)])
    assert len(StoryFolder(tmp_path)) == 2
    with pytest.raises(UserError, match='line 2: the id "a#1"'):
        StoryFolder(tmp_path, max_steps=2)


def test_an_error_names_the_first_five_problems(tmp_path):
    make_folder(tmp_path, [record(), *[b"{"] * 8])
    with pytest.raises(UserError, match=r"8 of 9 records.*line 2.*line 6.*and 3 more") as caught:
        StoryFolder(tmp_path)
    assert "line 7" not in str(caught.value)


def test_more_than_a_tenth_skipped_is_an_error(tmp_path):
    make_folder(tmp_path, [*(record(f"g{i}") for i in range(8)), b"{"])
    with pytest.raises(UserError, match=r"1 of 9 records.*too many to skip"):
        StoryFolder(tmp_path, on_bad_record="skip")


def test_missing_or_empty_files_and_wrong_options(tmp_path):
    with pytest.raises(UserError, match="does not exist"):
        StoryFolder(tmp_path)
    make_folder(tmp_path, [b"", b"  "])
    with pytest.raises(UserError, match="has no stories"):
        StoryFolder(tmp_path)
    make_folder(tmp_path, [record()])
    with pytest.raises(UserError, match="max_steps"):
        StoryFolder(tmp_path, max_steps=0)
    with pytest.raises(UserError, match="on_bad_record"):
        StoryFolder(tmp_path, on_bad_record="ignore")


@pytest.mark.skipif(os.name == "nt", reason="links and pipes of POSIX")
def test_links_that_escape_and_pipes_are_refused(tmp_path):
    folder = make_folder(tmp_path / "data", [page(image_path="images/link.png")])
    picture().save(tmp_path / "outside.png")
    link = folder / "images" / "link.png"
    link.symlink_to(tmp_path / "outside.png")
    with pytest.raises(UserError, match=r"line 1: step 2.*leaves the folder"):
        StoryFolder(folder)
    link.unlink()
    link.symlink_to(link)
    with pytest.raises(UserError, match="line 1: step 2"):
        StoryFolder(folder)
    link.unlink()
    link.symlink_to(folder / "images" / "p.png")
    assert len(StoryFolder(folder)) == 1
    link.unlink()
    os.mkfifo(link)
    with pytest.raises(UserError, match="not a file"):
        StoryFolder(folder)


def test_open_split_picks_parts(tmp_path):
    for split, pages in (("train", 2), ("val", 1)):
        make_folder(tmp_path / split, [record(pages=pages)])
    assert open_split(tmp_path, "train").lengths == [2]
    assert open_split(tmp_path, "train", max_steps=1).lengths == [1, 1]
    assert open_split(tmp_path, "val").lengths == [1]
    assert open_split(tmp_path / "val", "val").lengths == [1]
    for folder, split, message in [
        (tmp_path / "val", "train", 'no "train" split'),
        (tmp_path / "train", "val", 'no "val" split'),
        (tmp_path, "test", '"train" or "val"'),
        (tmp_path / "none", "val", "does not exist"),
        (tmp_path / "train" / "images", "val", "has neither"),
    ]:
        with pytest.raises(UserError, match=message):
            open_split(folder, split)


# --- real data


def test_reads_real_picture_books():
    if not (PICTUREBOOKS / "val" / "stories.jsonl").exists():
        pytest.skip("the picture books are not on this machine")
    folder = open_split(PICTUREBOOKS, "val", max_steps=8)
    assert folder.skipped == [] and max(folder.lengths) <= 8
    story = folder[0]
    assert story.extra["license"] and all(
        step.text and fit_image(step.image, 96).size == (96, 96) for step in story.steps
    )
    texts = list(folder.texts())
    tokenizer = StoryTokenizer.train(texts, 500)
    assert all(tokenizer.decode(tokenizer.encode(text, 4096)) == text for text in texts)
    assert tokenizer.unseen_words(" ".join(texts)) == []
