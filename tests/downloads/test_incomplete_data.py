"""Pages that have a text or a picture alone, and rows and texts that would be lost without a word."""

from __future__ import annotations

import json

import pytest

from tests.support.downloads import collected, paint, run, texts


def pages(found: dict) -> dict:
    return {name: [(step.text, step.image_path is not None) for step in story.steps] for name, story in found.items()}


@pytest.mark.parametrize("kind", ["jsonl", "csv"])
def test_a_page_of_metadata_may_lack_its_text_or_its_picture(tmp_path, capsys, kind):
    rows = [("One.", "0.png"), ("", "1.png"), ("Words.", ""), ("", "")]
    for number in range(2):
        paint(tmp_path / f"in/{number}.png", number)
    lines = ["text,file_name", *map(",".join, rows)]
    if kind == "jsonl":
        nothing = {"text": None, "file_name": ""}
        lines = [
            json.dumps({key: words or nothing[key] for key, words in zip(nothing, row, strict=True)}) for row in rows
        ]
    (tmp_path / f"in/metadata.{kind}").write_text("\n".join(lines))
    found = pages(collected(tmp_path / "out", "folder", tmp_path / "in"))
    assert sorted(found.values(), key=str) == [[("One.", True)], [("Words.", False)], [(None, True)]]
    error = capsys.readouterr().err
    assert "left out 1 bad" in error and "of 3 pages, 1 without a text and 1 without a picture" in error


def test_columns_that_metadata_must_have(tmp_path, capsys):
    paint(tmp_path / "in/0.png", 0)
    (tmp_path / "in/metadata.csv").write_text("file_name,caption\n0.png,One.\n")
    assert run("folder", tmp_path / "in", "--output", tmp_path / "out") == 2
    assert "it has no text" in (error := capsys.readouterr().err) and "is it caption?" in error


def test_texts_of_a_story_folder_are_pages_or_named(tmp_path, capsys):
    story = tmp_path / "in/fox"
    for name in ("1.PNG", "3.png"):
        paint(story / name, int(name[0]))
    for name in ("1.TXT", "2.txt", "3.txt", "Title.txt", "notes.txt", "3.caption"):
        (story / name).write_text(f"{name[0]}.")
    found = pages(collected(tmp_path / "out", "folder", tmp_path / "in"))
    assert found == {"fox": [("1.", True), ("2.", False), ("3.", True)]}
    assert "ignored fox/3.caption, fox/notes.txt:" in capsys.readouterr().err


def test_pictures_beside_a_table_are_not_read_alone(tmp_path, capsys):
    paint(tmp_path / "in/images/0.png", 0)
    (tmp_path / "in/train.jsonl").write_text('{"image": "images/0.png", "text": "One."}')
    assert run("folder", tmp_path / "in", "--output", tmp_path / "out") == 2
    assert "train.jsonl is a table: read it by download_data.py jsonl" in capsys.readouterr().err


def test_a_quote_that_is_never_closed_takes_no_other_rows_along(tmp_path, capsys):
    rows = [f"{paint(tmp_path / f'{n}.png', n).name},{said}" for n, said in enumerate(["One.", '"Two.', "Three."])]
    (tmp_path / "t.csv").write_text("\n".join(["image,text", *rows]))
    assert [texts(story) for story in collected(tmp_path / "out", "csv", tmp_path / "t.csv").values()] == [["One."]]
    assert "row 2: lines 3 to 4 are not CSV" in capsys.readouterr().err


def test_escapes_in_names_do_not_reach_the_terminal(tmp_path, capsys):
    escape = "\x1b[2J"
    page = paint(tmp_path / "in/fox/0.png", 0)
    (tmp_path / f"in/{escape}\n.md").write_text("A card.")
    (tmp_path / f"in/fox/{escape}.doc").write_text("Notes.")
    collected(tmp_path / "out", "folder", tmp_path / "in")
    record = {"id": escape, "prompt": "A fox.", "steps": [{"text": "One.", "image_path": f"{escape}.png"}]}
    (tmp_path / "stories.jsonl").write_text("\n".join([json.dumps(record)] * 2))
    assert page.is_file() and run("validate", tmp_path) == 1
    said = "".join(capsys.readouterr())
    assert said.count(r"\x1b[2J") >= 4 and "\x1b" not in said and r"\x1b[2J\n.md" in said
