"""Only what this program wrote is ever overwritten, and one process writes into a folder at a time."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from modules.common.errors import UserError
from modules.common.folder_lock import FolderLock
from modules.common.ownership import OwnFiles, refuse_foreign, refuse_overlap
from modules.common.sums import damage, read_sums, write_sums
from tests.support.downloads import collected, files, paint, run


def pictures(folder: Path, count: int = 4) -> Path:
    for number in range(count):
        paint(folder / f"{number}.png", number)
        (folder / f"{number}.txt").write_text(f"Number {number}.")
    return folder


# --- the source


@pytest.mark.parametrize(
    ("source", "output"),
    [("data", "data"), ("data/train", "data"), ("data", "data/new"), ("link", "data"), (".", "data")],
)
@pytest.mark.parametrize("flags", [(), ("--overwrite",)])
def test_what_is_read_is_never_overwritten(tmp_path, monkeypatch, capsys, source, output, flags):
    for split in ("train", "val"):
        pictures(tmp_path / "data" / split)
    (tmp_path / "link").symlink_to("data")
    before = files(tmp_path)
    monkeypatch.chdir(tmp_path)
    assert run("folder", source, "--output", output, *flags) == 2
    error = capsys.readouterr().err
    assert "choose another --output" in error and "--overwrite" not in error and files(tmp_path) == before


def test_a_table_in_the_output_is_a_source_too(tmp_path, capsys):
    paint(tmp_path / "data/p.png", 1)
    (tmp_path / "data/t.csv").write_text("text,image\nOne.,p.png\n")
    assert run("csv", tmp_path / "data/t.csv", "--output", tmp_path / "data", "--overwrite") == 2
    assert "t.csv" in capsys.readouterr().err


# --- what is not ours


@pytest.mark.parametrize("change", ["added", "hidden", "edited", "link", "no list"])
def test_foreign_files_in_the_output_are_kept(tmp_path, capsys, change):
    source, out = pictures(tmp_path / "in"), tmp_path / "out"
    collected(out, "folder", source)
    stories = out / "train/stories.jsonl"
    match change:
        case "added":
            (out / "train/images/mine.png").write_bytes(b"mine")
        case "hidden":
            (out / "val/.notes").write_text("mine")
        case "edited":
            stories.write_bytes(stories.read_bytes().replace(b"Number", b"Figure"))
        case "link":
            (out / "val/more").symlink_to(tmp_path)
        case "no list":
            (out / "val/manifest.json").unlink()
    before = files(tmp_path)
    for words in (["folder", source], ["storyworld", "--stories", "1"]):
        assert run(*words, "--output", out, "--overwrite") == 2
        assert "was not written by this program" in capsys.readouterr().err and files(tmp_path) == before


def test_what_is_ours_is_replaced(tmp_path):
    source, out = pictures(tmp_path / "in"), tmp_path / "out"
    collected(out, "folder", source)
    (out / "notes.txt").write_text("Beside the splits.")
    assert run("storyworld", "--stories", 2, "--image_size", 16, "--output", out, "--overwrite") == 0
    assert run("folder", source, "--output", out, "--overwrite") == 0
    assert sorted(path.name for path in out.iterdir()) == ["notes.txt", "train", "val"]


def test_a_folder_called_like_unfinished_work_is_kept(tmp_path, capsys):
    (tmp_path / ".storyworld.partial").mkdir()
    (tmp_path / ".storyworld.partial/mine.txt").write_text("mine")
    assert run("storyworld", "--stories", 1, "--output", tmp_path) == 2
    assert "was not made by this program" in capsys.readouterr().err
    assert files(tmp_path) == {".storyworld.partial/mine.txt": b"mine"}


def test_files_called_like_those_of_a_run_are_kept(tmp_path, capsys):
    """Locks, the unfinished work of a download, and the folder that a replaced one is moved to."""
    source = pictures(tmp_path / "in")
    mine = {name: f"mine: {name}".encode() for name in (".lock", "../.shards.lock", ".download-folder/records.jsonl")}
    for name, content in mine.items():
        (tmp_path / "out" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "out" / name).write_bytes(content)
    assert run("folder", source, "--output", tmp_path / "out") == 2
    assert "records.jsonl is in the way" in capsys.readouterr().err
    assert run("storyworld", "--stories", 1, "--image_size", 16, "--output", tmp_path / "out") == 0
    for old in (False, True):
        if old:
            (tmp_path / ".shards.old").mkdir()
            (tmp_path / ".shards.old/mine").write_text("mine")
        assert run("pack", tmp_path / "out", "--output", tmp_path / "shards", "--overwrite") == (2 if old else 0)
    assert ".shards.old was not made by this program" in capsys.readouterr().err
    assert (tmp_path / ".shards.old/mine").read_text() == "mine"
    assert {name: (tmp_path / "out" / name).read_bytes() for name in mine} == mine


def test_own_files_beside_those_of_a_user(tmp_path):
    (tmp_path / "mine.txt").write_text("mine")
    own = OwnFiles(tmp_path)
    own.start(["a.txt", "b/c.txt"])
    OwnFiles(tmp_path).check(["a.txt"])  # A killed run may have written a part of it.
    (tmp_path / "a.txt").write_text("a")
    own.finish(["a.txt"])
    OwnFiles(tmp_path).check(["a.txt", "b/c.txt", "new.txt"])
    with pytest.raises(UserError, match=r"mine\.txt was not written by this program"):
        OwnFiles(tmp_path).check(["mine.txt"])
    (tmp_path / "a.txt").write_text("changed")
    with pytest.raises(UserError, match=r"a\.txt was not written by this program"):
        OwnFiles(tmp_path).start(["a.txt"])
    (tmp_path / "manifest.json").write_text("mine too")
    with pytest.raises(UserError, match="manifest"):
        OwnFiles(tmp_path).check(["new.txt"])


def test_overlaps_are_found_through_links(tmp_path):
    (tmp_path / "a/b").mkdir(parents=True)
    (tmp_path / "link").symlink_to(tmp_path / "a/b")
    for output, source in (("a", "link"), ("link", "a"), ("link/new", "a"), ("a/b", "link")):
        with pytest.raises(UserError):
            refuse_overlap(tmp_path / output, [tmp_path / source])
    refuse_overlap(tmp_path / "ab", [tmp_path / "a", tmp_path / "link"])


def test_sums_find_every_kind_of_damage(tmp_path):
    (tmp_path / "deep").mkdir()
    for name in ("a", "deep/b"):
        (tmp_path / name).write_text(name)
    write_sums(tmp_path)
    assert damage(tmp_path) is None and set(read_sums(tmp_path)) == {"a", "deep/b"}
    refuse_foreign(tmp_path)
    (tmp_path / "a").write_text("b")
    assert damage(tmp_path) == "a is corrupt: its SHA-256 differs"
    (tmp_path / "a").write_text("ab")
    assert damage(tmp_path) == "a has 2 bytes, 1 expected"
    (tmp_path / "a").unlink()
    assert damage(tmp_path) == "a is missing"
    for content in ("", "[]", "{}", json.dumps({"files": {"a": 3}}), "[" * 100_000):
        (tmp_path / "manifest.json").write_text(content)
        assert "manifest.json" in (damage(tmp_path) or "")
    shutil.rmtree(tmp_path / "deep")


# --- locks


@pytest.mark.parametrize("words", [["folder", "in"], ["storyworld", "--stories", "1"], ["jsonl", "in/t.jsonl"]])
def test_a_second_writer_is_refused_in_one_line(tmp_path, monkeypatch, capsys, words):
    (pictures(tmp_path / "in") / "t.jsonl").write_text('{"text": "One.", "image": "0.png"}\n')
    monkeypatch.chdir(tmp_path)
    with FolderLock(Path("data")):
        assert run(*words) == 2
        assert "another process is writing into data" in (error := capsys.readouterr().err) and "Traceback" not in error
    assert not Path("data").exists()  # The lock had made it.
    Path("data").mkdir()
    Path("data/.lock").touch()  # As a killed process leaves it.
    assert run(*words) == 0
    assert ".lock" not in {path.name for path in Path("data").iterdir()}


def test_two_packings_into_one_folder(tmp_path, capsys):
    collected(tmp_path / "data", "folder", pictures(tmp_path / "in"))
    with FolderLock(tmp_path / "shards", beside=True):
        assert run("pack", tmp_path / "data", "--output", tmp_path / "shards") == 2
    assert "another process is writing" in capsys.readouterr().err
    assert run("pack", tmp_path / "data", "--output", tmp_path / "shards") == 0
    (tmp_path / "shards/notes.txt").write_text("mine")
    assert run("pack", tmp_path / "data", "--output", tmp_path / "shards", "--overwrite") == 2
    assert "notes.txt was not written by this program" in capsys.readouterr().err
    assert sorted(path.name for path in tmp_path.iterdir()) == ["data", "in", "shards"]
