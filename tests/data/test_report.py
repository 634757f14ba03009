"""What is said of a folder of stories, its faults and its figures, and the page that shows it."""

from __future__ import annotations

import json
import re
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import download_data
from modules.data.report import faults, measure, near_pairs, read_splits, remarks
from tests.support.html_pages import Collector


def noise(path: Path, seed: int, size: int = 40, **options) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    cells = np.random.default_rng(seed).integers(0, 255, (9, 9, 3), dtype=np.uint8)
    Image.fromarray(cells).resize((size, size), Image.Resampling.BICUBIC).save(path, **options)


def write_split(folder: Path, records: list) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    lines = [record if isinstance(record, str) else json.dumps(record) for record in records]
    (folder / "stories.jsonl").write_text("\n".join(lines))


def story(name: str, *pages: tuple[str, str | None], **more) -> dict:
    return {
        "id": name,
        "prompt": f"About <{name}>",
        "license": "CC0",
        "steps": [{"text": text, "image_path": path} for text, path in pages],
        **more,
    }


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Three good stories and, in train, a bad line and a broken picture."""
    for seed in range(3):
        noise(tmp_path / f"train/images/{seed}.png", seed)
    noise(tmp_path / "train/images/again.jpg", 1, 60, quality=80)
    (tmp_path / "train/images/cut.png").write_bytes((tmp_path / "train/images/0.png").read_bytes()[:90])
    noise(tmp_path / "val/images/9.png", 9)
    pages = [("The dog ran.", "images/0.png"), ("the dog ran", "images/1.png"), ("It slept.", None)]
    write_split(
        tmp_path / "train",
        [
            story("a", *pages),
            "no JSON",
            story("b", ("A cat's nap.", "images/again.jpg")),
            story("c", ("x", "images/cut.png")),
        ],
    )
    write_split(tmp_path / "val", [story("d", ("Far away.", "images/9.png"), license="CC BY 4.0")])
    return tmp_path


def test_every_fault_is_named(folder, capsys):
    assert download_data.main(["validate", str(folder)]) == 1
    out, err = capsys.readouterr()
    assert re.search(r"fault: \S+stories.jsonl line 2: not valid JSON", err) and re.search(
        r'fault: story "c" step 1: the picture \S+cut.png is broken', err
    )
    assert "2 faults" in out and "train: 3 stories of 5 steps, 4 pictures" in out
    assert "train: 1 steps without a picture" in out and "train: 1 pictures that no story uses" in out


def test_an_id_and_a_picture_in_two_splits_are_faults(folder):
    (folder / "val/images/9.png").write_bytes((folder / "train/images/0.png").read_bytes())
    write_split(folder / "val", [story("a", ("Far away.", "images/9.png"), prompt="")])
    splits = read_splits(folder)
    said = faults(splits)
    assert any('the id "a" is in train and in val' in fault for fault in said) and any(
        "the same picture in two splits" in fault for fault in said
    )
    assert "val: 1 stories without a prompt" in remarks(splits)
    assert faults(splits[1:]) == []


def test_figures_and_what_is_there_twice(folder, capsys):
    statistics = measure(read_splits(folder))
    assert statistics.stories == {"train": 3, "val": 1} and sorted(statistics.steps) == [1, 1, 1, 3]
    assert (
        statistics.words == [3, 3, 2, 3, 1, 2]
        and statistics.same_texts == 1
        and sorted(statistics.sides) == [40, 40, 40, 60]
    )
    assert statistics.licenses == {"CC0": 3, "CC BY 4.0": 1} and statistics.near_across == 0
    assert [{path.name for path in pair} for pair in statistics.near_pictures] == [{"1.png", "again.jpg"}]
    assert download_data.main(["stats", str(folder), "--output", str(folder / "s.png")]) == 0
    assert Image.open(folder / "s.png").width > 800
    out = capsys.readouterr().out
    assert "per text: median 2" in out and "similar pictures: 1 pairs, 0 of them across splits" in out


def test_near_pairs_are_all_pairs_within_three_bits():
    rng = np.random.default_rng(0)
    looks = [int(value) for value in rng.integers(0, 2**63, 200)]
    for index in range(40):
        flips = rng.choice(64, size=index % 6, replace=False)
        looks.append(looks[index] ^ sum(1 << int(flip) for flip in flips))
    every = [
        (i, j) for i in range(len(looks)) for j in range(i + 1, len(looks)) if (looks[i] ^ looks[j]).bit_count() <= 3
    ]
    assert near_pairs(looks) == every and len(every) > 20


def test_the_page_is_one_file_with_pictures_and_texts(folder):
    page = folder / "view.html"
    assert download_data.main(["view", str(folder), "--output", str(page), "--pages", "2"]) == 0
    document = page.read_text(encoding="utf-8")
    seen = Collector(document)
    assert len(seen.values("src", "img")) == 4 and all(
        source.startswith("data:image/jpeg;base64,") for source in seen.values("src")
    )
    told = " ".join(seen.text)
    assert "About <a>" in told and "A cat's nap." in told and "and 1 more" in told and "It slept." not in told
    assert (
        "cannot be read: not valid JSON" in told
        and "cut.png is broken" in told
        and "http" not in document.replace("http-equiv", "")
    )
    first = page.read_bytes()
    assert (
        download_data.main(["view", str(folder / "train"), "--output", str(page), "--stories", "1", "--seed", "3"]) == 0
    )
    assert page.read_bytes() != first and "1 of 4 stories" in page.read_text(encoding="utf-8")


def test_texts_that_a_training_would_cut_are_counted(folder, capsys):
    long = "One two, three four five six seven eight nine ten! " * 4
    write_split(folder / "val", [story("d", (long, None), ("Short.", None))])
    for command in ("validate", "stats"):
        flags = ["--output", str(folder / "stats.png")] if command == "stats" else []
        download_data.main([command, str(folder), *flags])
        told = capsys.readouterr().out
        assert "note: val: at least 1 of 2 texts are longer than 40 tokens" in told and "train: at least" not in told
