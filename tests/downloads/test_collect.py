"""Collecting stories: splits, stopping and resuming, bad records, full disks."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from modules.downloads.collect import Staging
from modules.downloads.splits import assign_splits
from tests.support.downloads import collected, files, paint, run

ROOT = Path(__file__).parents[2]


# --- splits


def test_stories_that_share_a_picture_go_together():
    chain = [("a", "all", "12"), ("b", "all", "23"), ("c", "all", "34")]
    stories = [*chain, *((f"s{n}", "all", [f"own {n}"]) for n in range(97))]
    splits = assign_splits(stories)
    assert len(set(splits[:3])) == 1 and splits.count("val") == 10 and splits == assign_splits(stories)
    own = [("a", "train", "1"), ("b", "val", "12"), ("c", "val", "2"), ("d", "val", "3")]
    assert assign_splits(own) == ["train", "train", "train", "val"]
    assert assign_splits(own[1:]) == ["val"] * 3
    assert assign_splits([("a", "all", "1"), ("b", "all", "1")]) == ["train", "train"]


def test_no_picture_is_in_two_splits_on_disk(tmp_path, capsys):
    for n in range(30):
        paint(tmp_path / f"in/{n:02d}/1.png", n // 2)
        (tmp_path / f"in/{n:02d}/1.txt").write_text(f"Story {n}.")
    collected(tmp_path / "out", "folder", tmp_path / "in")
    pictures = [{path.name for path in (tmp_path / "out" / split).rglob("*.png")} for split in ("train", "val")]
    assert pictures[0] and pictures[1] and not pictures[0] & pictures[1]
    collected(tmp_path / "val", "folder", tmp_path / "in", "--splits", "val")
    assert files(tmp_path / "val/val") == files(tmp_path / "out/val") and not (tmp_path / "val/train").exists()
    assert run("validate", tmp_path / "out") == 0
    assert "no fault" in capsys.readouterr().out


# --- stopping, resuming, and full disks


def many(folder: Path, count: int = 60) -> Path:
    lines = [
        {"text": f"Story {n}. It is told.", "image": paint(folder / f"{n}.png", n, (200, 160)).name}
        for n in range(count)
    ]
    (folder / "t.jsonl").write_text("\n".join(map(json.dumps, lines)))
    return folder / "t.jsonl"


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL])
def test_a_stopped_run_goes_on_and_gives_the_same_files(tmp_path, number):
    table = many(tmp_path / "in")
    collected(tmp_path / "whole", "jsonl", table)
    slowly = "import signal, sys, time; from modules.downloads import collect; import download_data\n"
    slowly += "store = collect.store_image\n"
    # Tests that run in the background may have SIGINT ignored.
    slowly += "signal.signal(signal.SIGINT, signal.default_int_handler)\n"
    slowly += (
        "collect.store_image = lambda *a: (time.sleep(0.02), store(*a))[1]; collect.SECONDS_BETWEEN_SAVES = 0.05\n"
    )
    command = [
        sys.executable,
        "-c",
        f"{slowly}sys.exit(download_data.main({['jsonl', str(table), '--output', str(tmp_path / 'out')]}))",
    ]
    process = subprocess.Popen(command, cwd=ROOT, stderr=subprocess.PIPE, text=True)
    records = tmp_path / "out/.download-jsonl/records.jsonl"
    while not (records.exists() and records.stat().st_size > 2000):
        assert process.poll() is None and not time.sleep(0.01)
    process.send_signal(number)
    _, err = process.communicate(timeout=60)
    assert process.returncode == (-number if number == signal.SIGKILL else 128 + number)
    assert number == signal.SIGKILL or ("the same command goes on from there" in err and "Traceback" not in err)
    assert not (tmp_path / "out/train").exists() and 0 < len(records.read_bytes().splitlines()) < 60
    collected(tmp_path / "out", "jsonl", table)
    assert files(tmp_path / "out") == files(tmp_path / "whole")


def test_a_run_that_ends_while_it_moves_is_completed(tmp_path, monkeypatch):
    from modules.downloads import splits

    table = many(tmp_path / "in", 20)
    collected(tmp_path / "whole", "jsonl", table)
    replace_folder = splits.replace_folder

    def once(folder: Path, new: Path) -> None:
        replace_folder(folder, new)
        raise KeyboardInterrupt

    monkeypatch.setattr(splits, "replace_folder", once)
    assert run("jsonl", table, "--output", tmp_path / "out") == 130 and not (tmp_path / "out/val").exists()
    monkeypatch.undo()
    collected(tmp_path / "out", "jsonl", table)
    assert files(tmp_path / "out") == files(tmp_path / "whole")


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="a disk that is always full is Linux's")
def test_a_full_disk_is_one_sentence_and_loses_nothing(tmp_path, capsys, monkeypatch):
    table, begin = many(tmp_path / "in", 3), Staging._begin

    def begin_on_a_full_disk(staging: Staging) -> None:
        begin(staging)
        (staging.folder / "records.jsonl").symlink_to("/dev/full")

    with monkeypatch.context() as patched:
        patched.setattr(Staging, "_begin", begin_on_a_full_disk)
        assert run("jsonl", table, "--output", tmp_path / "out") == 2
    error = capsys.readouterr().err.splitlines()[-1]
    assert "No space left on device" in error and "the same command goes on from there" in error
    assert len(collected(tmp_path / "out", "jsonl", table)) == 3


def test_bad_records_are_named_and_none_that_is_good_is_an_error(tmp_path, capsys):
    table = many(tmp_path / "in", 4)
    (tmp_path / "in/2.png").write_bytes((tmp_path / "in/2.png").read_bytes()[:60])
    with open(table, "a") as file:
        file.write('\n{"text": 5}\n{"image": "1.png"\n' + json.dumps({"text": "t", "image": "../in/0.png", "id": "x"}))
    found = collected(tmp_path / "out", "jsonl", table)
    problems = json.loads((tmp_path / "out/train/source.json").read_text())["problems"]
    assert len(found) == 4
    for fault in ("2.png is broken", "'text' contains int", "not valid JSON"):
        assert any(fault in problem for problem in problems)
    assert f"left out 3 bad; the first: {table} at byte " in capsys.readouterr().err
    assert run("jsonl", table, "--text", "words", "--image", "photo", "--output", tmp_path / "none") == 2
    assert "has no usable story" in capsys.readouterr().err and not (tmp_path / "none").exists()
