"""Data as people have it: encodings, column names, system files, clones from the Hub, broken and foreign pictures."""

from __future__ import annotations

import base64
import codecs
import json
import shutil
from pathlib import Path

import pytest

from modules.downloads.record import first_sentence
from modules.downloads.text_files import near_names
from tests.support.downloads import collected, paint, run, texts

ENCODED = ["utf-8", "utf-8-sig", "utf-16", "utf-16-le", "utf-16-be", "utf-32"]
SAID = ["Der Bär süß.", "Ça va, l’été ?", "Three."]


def told(found: dict) -> list[str]:
    return sorted(text for story in found.values() for text in texts(story))


def table(folder: Path, kind: str, encoding: str = "utf-8", text: str = "text", image: str = "image") -> Path:
    rows = [{text: said, image: paint(folder / f"{n}.png", n).name} for n, said in enumerate(SAID)]
    if kind == "csv":
        lines = [",".join(rows[0]), *(",".join(f'"{value}"' for value in row.values()) for row in rows)]
    else:
        lines = [json.dumps(row, ensure_ascii=False) for row in rows]
    path = folder / f"t.{kind}"
    path.write_bytes("\n".join([*lines, ""]).encode(encoding))
    return path


# --- encodings


@pytest.mark.parametrize("encoding", ENCODED)
@pytest.mark.parametrize("kind", ["csv", "jsonl"])
def test_unicode_in_any_form_is_read(tmp_path, kind, encoding):
    flags = ["--encoding", encoding] if encoding == "utf-32" and kind == "csv" else []
    assert told(collected(tmp_path / "out", kind, table(tmp_path, kind, encoding), *flags)) == sorted(SAID)


@pytest.mark.parametrize("kind", ["csv", "jsonl"])
def test_other_encodings_are_named_by_a_flag(tmp_path, capsys, kind):
    path = table(tmp_path, kind, "windows-1252")
    assert run(kind, path, "--output", tmp_path / "out") == 2
    assert "is not UTF-8" in (error := capsys.readouterr().err) and "--encoding" in error
    assert not (tmp_path / "out").exists()
    found = collected(tmp_path / "out", kind, path, "--encoding", "windows-1252")
    assert told(found) == sorted(SAID)
    assert run(kind, path, "--encoding", "klingon", "--output", tmp_path / "no") == 2


@pytest.mark.parametrize("name", ["metadata.csv", "metadata.jsonl"])
def test_metadata_has_the_same_reader(tmp_path, name):
    path = table(tmp_path / "in", name[9:], "utf-16", image=" file_name ")
    path.rename(path.with_name(name))
    assert told(collected(tmp_path / "out", "folder", tmp_path / "in")) == sorted(SAID)
    path.with_name(name).unlink()


def test_texts_beside_pictures_are_decoded_too(tmp_path, capsys):
    for number, mark in enumerate((b"", codecs.BOM_UTF8, codecs.BOM_UTF16_LE)):
        paint(tmp_path / f"in/{number}.png", number)
        encoding = "utf-16-le" if mark == codecs.BOM_UTF16_LE else "utf-8"
        (tmp_path / f"in/{number}.txt").write_bytes(mark + SAID[number].encode(encoding))
    paint(tmp_path / "in/3.png", 3)
    (tmp_path / "in/3.txt").write_bytes("Bär".encode("cp1252"))
    assert told(collected(tmp_path / "out", "folder", tmp_path / "in")) == sorted(SAID)
    assert "left out 1 bad" in (error := capsys.readouterr().err) and "--encoding" in error


# --- columns


def test_blanks_around_names_of_columns_do_not_matter(tmp_path):
    for kind in ("csv", "jsonl"):
        found = collected(tmp_path / kind, kind, table(tmp_path, kind, image=" image "))
        assert all(step.image_path for story in found.values() for step in story.steps)


@pytest.mark.parametrize("name", ["picture", "Image", "images", "file_name", "img", "foto"])
@pytest.mark.parametrize("kind", ["csv", "jsonl"])
def test_a_name_that_may_be_meant_is_proposed(tmp_path, capsys, kind, name):
    path = table(tmp_path, kind, image=name)
    assert run(kind, path, "--output", tmp_path / "out") == 2
    assert f"is it --image {name}?" in capsys.readouterr().err and not (tmp_path / "out").exists()
    assert len(collected(tmp_path / "out", kind, path, "--image", name)) == 3


def test_a_table_without_pictures_says_so(tmp_path, capsys):
    (tmp_path / "t.csv").write_text("text;number\nOne.;1\nTwo.;2\n")
    assert run("csv", tmp_path / "t.csv", "--output", tmp_path / "out") == 2
    assert "no column for --image image" in (error := capsys.readouterr().err) and "--image none" in error
    assert told(collected(tmp_path / "out", "csv", tmp_path / "t.csv", "--image", "none")) == ["One.", "Two."]


def test_blanks_after_the_commas_of_a_table_do_not_matter(tmp_path):
    paint(tmp_path / "p.png", 1)
    (tmp_path / "t.csv").write_text('text, image\n"One, two.", p.png \n')
    (story,) = collected(tmp_path / "out", "csv", tmp_path / "t.csv").values()
    assert texts(story) == ["One, two."] and story.steps[0].image_path.is_file()


def test_two_columns_of_one_name_are_refused(tmp_path, capsys):
    (tmp_path / "t.csv").write_text("text,image, text\nOne.,a.png,Two.\n")
    assert run("csv", tmp_path / "t.csv", "--output", tmp_path / "out") == 2
    assert "two columns 'text'" in capsys.readouterr().err


def test_similar_names_come_first():
    assert near_names("text", ["texts", "caption", "number"]) == ["texts", "caption"]
    assert near_names("story", ["book", "page"]) == []


# --- folders


def test_hidden_and_system_files_are_passed_over(tmp_path, capsys):
    for name in ("fox", "hen"):
        for page in range(2):
            paint(tmp_path / f"in/{name}/{page}.png", len(name) * 7 + page + ord(name[0]))
            (tmp_path / f"in/{name}/{page}.txt").write_text(f"{name} {page}.")
    for rubbish in (
        ".ipynb_checkpoints/0.png",
        "@eaDir/0.png",
        "__MACOSX/._0.png",
        "fox/._0.png",
        ".DS_Store",
        "#recycle/1.png",
    ):
        (tmp_path / "in" / rubbish).parent.mkdir(exist_ok=True)
        shutil.copy(tmp_path / "in/fox/0.png", tmp_path / "in" / rubbish)
    assert told(collected(tmp_path / "out", "folder", tmp_path / "in")) == ["fox 0.", "fox 1.", "hen 0.", "hen 1."]
    assert "left out" not in capsys.readouterr().err
    (tmp_path / "in/.t.csv").write_text("nonsense")
    (tmp_path / "in/t.csv").write_text("text,image\nOne.,fox/0.png\n")
    assert told(collected(tmp_path / "table", "csv", tmp_path / "in")) == ["One."]


def split(folder: Path, first: int, count: int = 2) -> None:
    lines = [
        json.dumps({"file_name": paint(folder / f"{n}.png", n).name, "text": f"{folder.name} {n}."})
        for n in range(first, first + count)
    ]
    (folder / "metadata.jsonl").write_text("\n".join(lines))


@pytest.mark.parametrize("inner", ["", "data/"])
@pytest.mark.parametrize(
    ("splits", "val", "note"),
    [
        (("train",), "train", "README.md"),
        (("train", "test"), "test", "test/ is used for validation"),
        (("train", "validation"), "validation", "README.md"),
        (("train", "validation", "test"), "validation", "test/"),
        (("Train", "dev"), "dev", "README.md"),
    ],
)
def test_clones_from_the_hub_are_read(tmp_path, capsys, inner, splits, val, note):
    for number, name in enumerate(splits):
        split(tmp_path / f"in/{inner}{name}", 10 * number)
    for name in ("README.md", "dataset_infos.json"):
        (tmp_path / "in" / name).write_text("A card.")
    collected(tmp_path / "out", "folder", tmp_path / "in")
    assert note in (error := capsys.readouterr().err) and "README.md" in error
    held_out = (tmp_path / "out/val/stories.jsonl").read_text()
    assert held_out.count(f'"text": "{val} ') == (1 if splits == ("train",) else 2)


def test_splits_may_number_their_stories_anew(tmp_path, capsys):
    for number, name in enumerate(("train", "test")):
        split(tmp_path / f"in/{name}", 0)
        for page in range(2):
            paint(tmp_path / f"in/{name}/{page}.png", 10 * number + page)
    found = collected(tmp_path / "out", "folder", tmp_path / "in")
    assert sorted(found) == ["0.png", "1.png", "val/0.png", "val/1.png"] and "left out" not in capsys.readouterr().err


def test_stories_may_have_the_names_of_splits(tmp_path, capsys):
    for number, name in enumerate(("train", "plane", "ship")):
        paint(tmp_path / f"in/{name}/0.png", number)
        (tmp_path / f"in/{name}/0.txt").write_text(f"A {name}.")
    (tmp_path / "in/empty").mkdir()
    assert sorted(collected(tmp_path / "out", "folder", tmp_path / "in")) == ["plane", "ship", "train"]
    assert "ignored empty/" in capsys.readouterr().err


# --- pictures


def test_what_is_not_a_usable_picture_is_one_bad_record(tmp_path, capsys):
    good = paint(tmp_path / "good.png", 1)
    content = good.read_bytes()
    (tmp_path / "no_end.png").write_bytes(content[:-12])
    (tmp_path / "bad_sum.png").write_bytes(content[:-16] + b"xxxx" + content[-12:])
    bad = [
        "no_end.png",
        "bad_sum.png",
        base64.b64encode(content * 20).decode(),
        "n" * 256 + ".png",
        "a\0b.png",
        "/dev/zero",
        ".",
    ]
    lines = [json.dumps({"text": f"Number {n}.", "image": image}) for n, image in enumerate(["good.png", *bad])]
    (tmp_path / "t.jsonl").write_text("\n".join(lines))
    assert told(collected(tmp_path / "out", "jsonl", tmp_path / "t.jsonl")) == ["Number 0."]
    assert f"left out {len(bad)} bad" in (error := capsys.readouterr().err) and max(map(len, error.splitlines())) < 1000
    assert run("validate", tmp_path / "out") == 0


@pytest.mark.parametrize("kind", ["csv", "jsonl", "metadata", "folder"])
def test_nothing_outside_the_folder_is_read(tmp_path, kind):
    paint(tmp_path / "private/secret.png", 3)
    (tmp_path / "private/secret.txt").write_text("Secret.")
    inside = tmp_path / "in"
    paint(inside / "a.png", 1)
    (inside / "link.png").symlink_to(tmp_path / "private/secret.png")
    names = ["a.png", "../private/secret.png", str(tmp_path / "private/secret.png"), "link.png"]
    lines = [{"text": f"Number {n}.", "image": name, "file_name": name} for n, name in enumerate(names)]
    if kind == "folder":
        (inside / "a.txt").write_text("Number 0.")
        (inside / "link.txt").symlink_to(tmp_path / "private/secret.txt")
        path = inside
    elif kind == "csv":
        path = inside / "t.csv"
        path.write_text("text,image\n" + "".join(f"{line['text']},{line['image']}\n" for line in lines))
    else:
        path = inside / ("t.jsonl" if kind == "jsonl" else "metadata.jsonl")
        path.write_text("\n".join(map(json.dumps, lines)))
    source = (inside, "folder") if kind == "metadata" else (path, kind)
    found = collected(tmp_path / "out", source[1], source[0])
    assert told(found) == ["Number 0."]


@pytest.mark.parametrize("kind", ["folder", "csv"])
def test_a_list_that_is_a_link_to_elsewhere_is_refused(tmp_path, capsys, kind):
    (tmp_path / "private").mkdir()
    (tmp_path / "private/t.csv").write_text("file_name,text\na.png,Secret.\n")
    paint(tmp_path / "in/a.png", 1)
    (tmp_path / "in/metadata.csv").symlink_to(tmp_path / "private/t.csv")
    assert run(kind, tmp_path / "in", "--output", tmp_path / "out") == 2
    assert "metadata.csv is outside the folder that is read" in capsys.readouterr().err


def test_addresses_are_fetched_only_when_asked(tmp_path, capsys):
    paint(tmp_path / "a.png", 1)
    address = "http://me:secret@127.0.0.1:9/a.png"
    lines = [{"text": "One.", "image": "a.png"}, {"text": "Two.", "image": address}]
    (tmp_path / "t.jsonl").write_text("\n".join(map(json.dumps, lines)))
    for flags, reason in (((), "add --fetch to download it"), (("--fetch",), "http://127.0.0.1:9/a.png")):
        out = tmp_path / f"out{len(flags)}"
        assert told(collected(out, "jsonl", tmp_path / "t.jsonl", *flags)) == ["One."]
        error = capsys.readouterr().err
        assert reason in error and "secret" not in error + (out / "train/source.json").read_text()


@pytest.mark.parametrize("kind", ["csv", "jsonl", "parquet"])
def test_words_of_a_path_mean_nothing(tmp_path, kind):
    folder = tmp_path / "my row boat at byte sea"
    path = table(folder, "csv" if kind == "csv" else "jsonl")
    if kind == "parquet":
        import pyarrow as pa
        import pyarrow.parquet as pq

        rows = [json.loads(line) for line in path.read_text().splitlines()]
        pq.write_table(pa.Table.from_pylist(rows), path := folder / "t.parquet")
    assert told(collected(tmp_path / "out", kind, path)) == sorted(SAID)


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("Mr. Fox went out. He ran.", "Mr. Fox went out."),
        ("Dr. A. B. Hen and Mrs. Owl met. They sang.", "Dr. A. B. Hen and Mrs. Owl met."),
        ("At 5 p.m. he slept. Then not.", "At 5 p.m. he slept."),
        ("So did I. She left.", "So did I."),
        ("They live at No. 5 now. It is small.", "They live at No. 5 now."),
        ("She said no. 5 hens left.", "She said no. 5 hens left."),
        ("Wait... what? No.", "Wait... what?"),
        ("小狐狸想要一只风筝。它跑了。", "小狐狸想要一只风筝。"),
        ("「行こう。」と言った。次。", "「行こう。」"),
        ("Only Mr.", "Only Mr."),
    ],
)
def test_prompts_are_whole_sentences(text, sentence):
    assert first_sentence(text) == sentence
