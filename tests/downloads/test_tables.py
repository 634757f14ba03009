"""Tables and folders of a user: texts stay with their pictures, and misspelt columns are reported."""

from __future__ import annotations

import json
import os

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from modules.data.folder import open_split
from modules.data.writing import write_stories
from modules.downloads.fetch import fetch_picture
from modules.downloads.record import DeadLink
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


def test_csv_jsonl_and_parquet_with_columns_named(tmp_path):
    import pyarrow as pa
    import pyarrow.parquet as pq

    for number in range(4):
        paint(tmp_path / f"pics/{number}.png", number)
    rows = [
        {"pic": f"pics/{n}.png", "says": f"Step {n}.", "book": f"b{n // 2}", "who": "Ann", "about": "A walk"}
        for n in range(4)
    ]
    (tmp_path / "t.csv").write_text("\n".join([",".join(rows[0]), *(",".join(row.values()) for row in rows)]))
    (tmp_path / "t.jsonl").write_text("\n".join(map(json.dumps, [*rows[:2], "no object", *rows[2:]])))
    pq.write_table(pa.Table.from_pylist(rows), tmp_path / "t.parquet", row_group_size=3)
    columns = "--image pic --text says --story book --credit who --prompt about --license CC0".split()
    for kind in ("csv", "jsonl", "parquet"):
        found = collected(tmp_path / kind, kind, tmp_path / f"t.{kind}", *columns)
        assert {name: texts(story) for name, story in found.items()} == {
            "b0": ["Step 0.", "Step 1."],
            "b1": ["Step 2.", "Step 3."],
        }
        assert found["b0"].prompt == "A walk" and found["b0"].extra == {
            "source": kind,
            "license": "CC0",
            "credit": "Ann",
        }


def test_a_damaged_row_group_is_named_and_the_rest_is_read(tmp_path):
    import pyarrow as pa
    import pyarrow.parquet as pq

    path = tmp_path / "t.parquet"
    rows = [{"image": paint(tmp_path / f"{n}.png", n).read_bytes(), "text": f"Text {n}."} for n in range(6)]
    pq.write_table(pa.Table.from_pylist(rows), path, row_group_size=2, compression="zstd", use_dictionary=False)
    column = pq.ParquetFile(path).metadata.row_group(1).column(0)
    content = bytearray(path.read_bytes())
    content[column.data_page_offset : column.data_page_offset + column.total_compressed_size] = bytes(
        column.total_compressed_size
    )
    path.write_bytes(content)
    found = collected(tmp_path / "out", "parquet", path)
    assert sorted(text for story in found.values() for text in texts(story)) == [
        "Text 0.",
        "Text 1.",
        "Text 4.",
        "Text 5.",
    ]
    assert "rows 3 to 4: 2 rows are damaged" in (tmp_path / "out/train/source.json").read_text()


def test_a_parquet_file_with_a_damaged_head_is_one_line(tmp_path, capsys):
    pq.write_table(pa.table({"text": ["One.", "Two."]}), tmp_path / "t.parquet")
    content = bytearray((tmp_path / "t.parquet").read_bytes())
    footer = len(content) - 8 - int.from_bytes(content[-8:-4], "little")
    content[footer : footer + 40] = b"\xff" * 40
    (tmp_path / "t.parquet").write_bytes(content)
    assert run("parquet", tmp_path / "t.parquet", "--image", "none", "--output", tmp_path / "out") == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1 and "is not a whole Parquet file" in error


def test_rows_without_a_story_are_stories_of_their_own(tmp_path):
    (tmp_path / "t.csv").write_text("book,text\nb0,One.\nb0,Two.\n,Three.\n,Four.\n")
    found = collected(tmp_path / "out", "csv", tmp_path / "t.csv", "--story", "book", "--image", "none")
    assert sorted(map(texts, found.values())) == [["Four."], ["One.", "Two."], ["Three."]]


def test_a_broken_row_breaks_its_own_story_alone(tmp_path):
    """Neither is a story kept without its middle, nor is one lost whose rows are sound."""
    rows = ["bad,x,y", "b0,One.", "b0,Two.", "bad,x,y", "b1,Three.", "bad,x,y", "b1,Four.", "b2,Five.", "bad,x,y"]
    (tmp_path / "t.csv").write_text("book,text\n" + "".join(f"{row}\n" for row in rows))
    found = collected(tmp_path / "out", "csv", tmp_path / "t.csv", "--story", "book", "--image", "none")
    assert {name: texts(story) for name, story in found.items()} == {"b0": ["One.", "Two."], "b2": ["Five."]}


def test_a_text_that_is_not_utf_8_costs_one_row(tmp_path):
    column = pa.array([b"One.", b"\xff\xfe", b"Three."], pa.binary()).view(pa.string())
    pq.write_table(pa.table({"text": column}), tmp_path / "t.parquet")
    found = collected(tmp_path / "out", "parquet", tmp_path / "t.parquet", "--image", "none")
    assert sorted(map(texts, found.values())) == [["One."], ["Three."]]


@pytest.mark.parametrize("address", ["file:///etc/hostname", "http://x/a b.jpg", "http://x:port/a.jpg", "//x/a.jpg"])
def test_an_address_that_is_none_is_a_dead_link(address):
    with pytest.raises(DeadLink):
        fetch_picture(address)
