"""Data sets that the `datasets` library loads: local folders, and repositories of the Hub that are not Parquet."""

from __future__ import annotations

import io
import json
import tarfile
from collections.abc import Iterator
from pathlib import Path

import datasets
import pytest

from modules.data.folder import open_split
from tests.support.downloads import collected, files, texts
from tests.support.downloads import run as run_here
from tests.support.hub_data import picture, run
from tests.support.hub_server import Hub, serving


def write_images(folder: Path, count: int = 4) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    for number in range(count):
        (folder / f"{number}.png").write_bytes(picture(number, "PNG"))
    return folder


def write_lines(path: Path, rows: list[dict]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))


def write_image_folder(folder: Path) -> Path:
    write_images(folder)
    write_lines(folder / "metadata.jsonl", [{"file_name": f"{n}.png", "text": f"Number {n}."} for n in range(4)])
    return folder


def stories_with_structs() -> datasets.Dataset:
    """Three stories whose steps are a list of structs; one step has no text, one no picture."""
    step = {"words": datasets.Value("string"), "shot": datasets.Image()}
    features = datasets.Features({"name": datasets.Value("string"), "steps": datasets.List(step)})
    rows = [
        {
            "name": f"s{number}",
            "steps": [
                {"words": f"One of {number}.", "shot": {"bytes": picture(10 + number, "PNG"), "path": None}},
                {"words": None, "shot": {"bytes": picture(20 + number, "PNG"), "path": None}},
                {"words": "No picture.", "shot": None},
            ],
        }
        for number in range(3)
    ]
    return datasets.Dataset.from_list(rows, features=features)


STRUCTS = ("--text", "steps.words", "--image", "steps.shot", "--id", "name")


# Local folders


def test_an_image_folder_keeps_every_picture_byte_for_byte(tmp_path):
    found = collected(tmp_path / "out", "hub", write_image_folder(tmp_path / "in"))
    stories = {texts(story)[0]: story for story in found.values()}
    assert sorted(stories) == [f"Number {n}." for n in range(4)]
    assert stories["Number 2."].steps[0].image_path.read_bytes() == picture(2, "PNG")


@pytest.mark.parametrize("splits", [1, 2])
def test_a_saved_data_set_with_lists_of_structs(tmp_path, splits):
    saved = stories_with_structs()
    if splits == 2:
        saved = datasets.DatasetDict(train=saved.select([0, 1]), test=saved.select([2]))
    saved.save_to_disk(tmp_path / "in")
    found = collected(tmp_path / "out", "hub", tmp_path / "in", *STRUCTS)
    assert sorted(found) == ["s0", "s1", "s2"]
    assert texts(found["s1"]) == ["One of 1.", None, "No picture."]
    assert [step.image_path and step.image_path.read_bytes() for step in found["s1"].steps] == [
        picture(11, "PNG"),
        picture(21, "PNG"),
        None,
    ]


def test_lines_and_csv_with_pictures_beside(tmp_path):
    folder = write_images(tmp_path / "lines")
    write_lines(folder / "train.jsonl", [{"text": [f"A {n}.", "B."], "image": [f"{n}.png", None]} for n in range(3)])
    found = collected(tmp_path / "out", "hub", folder)
    assert sorted(texts(story) for story in found.values()) == [[f"A {n}.", "B."] for n in range(3)]
    folder = write_images(tmp_path / "table")
    (folder / "train.csv").write_text("book,text,image\nb,One.,0.png\nb,Two.,1.png\nc,Three.,2.png\n")
    found = collected(tmp_path / "csv", "hub", folder, "--story", "book")
    assert {name: texts(story) for name, story in found.items()} == {"b": ["One.", "Two."], "c": ["Three."]}


def test_a_web_dataset(tmp_path):
    (tmp_path / "in").mkdir()
    with tarfile.open(tmp_path / "in/train-0.tar", "w") as archive:
        for number in range(3):
            for ending, content in (("png", picture(number, "PNG")), ("txt", f"Number {number}.".encode())):
                member = tarfile.TarInfo(f"{number}.{ending}")
                member.size = len(content)
                archive.addfile(member, io.BytesIO(content))
    found = collected(tmp_path / "out", "hub", tmp_path / "in", "--text", "txt", "--image", "png")
    assert sorted(texts(story)[0] for story in found.values()) == [f"Number {n}." for n in range(3)]


def test_what_pack_writes_is_loaded(tmp_path):
    """The folder of shards is a data set like any other."""
    first = collected(tmp_path / "data", "hub", write_image_folder(tmp_path / "in"))
    assert run_here("pack", tmp_path / "data", "--output", tmp_path / "shards") == 0
    columns = ("--text", "texts", "--image", "images", "--id", "id", "--prompt", "prompt")
    found = collected(tmp_path / "again", "hub", tmp_path / "shards", *columns)
    assert {name: texts(story) for name, story in found.items()} == {
        name: texts(story) for name, story in first.items()
    }


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("--split", "test"), "has no split 'test'; it has train"),
        (("--text", "caption"), "no column for --text caption; its columns are image, text"),
        (("--text", "steps.words"), "no column for --text steps.words"),
        (
            ("--config", "other"),
            "cannot be loaded by the datasets library (ValueError: BuilderConfig 'other' not found",
        ),
    ],
)
def test_faults_of_a_local_data_set_are_one_sentence(tmp_path, capsys, words, message):
    folder = write_image_folder(tmp_path / "in")
    assert run_here("hub", folder, *words, "--output", tmp_path / "out") == 2
    lines = capsys.readouterr().err.splitlines()
    assert message in lines[-1] and "Traceback" not in lines[-1] and not (tmp_path / "out").exists()


# The Hub


@pytest.fixture(scope="module")
def hub(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Hub]:
    root = tmp_path_factory.mktemp("hub")
    write_image_folder(root / "some/images/main/train")
    lines = write_images(root / "some/lines/main")
    for split, first in (("train", 0), ("validation", 2)):
        rows = [{"pages": [{"text": f"{split} {n}.", "image": f"{n}.png"}]} for n in (first, first + 1, 9)]
        write_lines(lines / f"{split}.jsonl", rows)
    with serving(root) as hub:
        yield hub


def test_repositories_that_are_not_parquet(hub, tmp_path):
    structs = ("--text", "pages.text", "--image", "pages.image")
    answers = run(
        hub.endpoint,
        tmp_path / "home",
        ["hub", "some/images", "--output", tmp_path / "images"],
        ["hub", "some/lines", *structs, "--output", tmp_path / "lines"],
        ["hub", "some/lines", *structs, "--split", "train", "--output", tmp_path / "train"],
        ["hub", "some/lines", *structs, "--split", "test", "--output", tmp_path / "test"],
    )
    assert [answer[0] for answer in answers] == [0, 0, 0, 2], answers
    assert "some/lines has no split 'test'; it has train, validation" in answers[3][2]
    assert "left out 2 bad" in answers[1][2] and "the file 9.png does not exist" in answers[1][2]
    stories = {
        name: [story for split in ("train", "val") for story in open_split(tmp_path / name, split)]
        for name in ("images", "lines", "train")
    }
    assert sorted(texts(story)[0] for story in stories["images"]) == [f"Number {n}." for n in range(4)]
    expected = ["train 0.", "train 1.", "validation 2.", "validation 3."]
    assert sorted(texts(story)[0] for story in stories["lines"]) == expected
    assert sorted(texts(story)[0] for story in stories["train"]) == ["train 0.", "train 1."]
    pictures = {story.steps[0].image_path.read_bytes() for story in stories["lines"]}
    assert pictures == {picture(n, "PNG") for n in range(4)}


@pytest.mark.slow
@pytest.mark.parametrize(("name", "columns"), [("images", ()), ("lines", ("pages.text", "pages.image"))])
def test_a_killed_run_resumes_without_a_gap_or_a_duplicate(hub, tmp_path, name, columns):
    """The library's state and the number of rows are saved; later splits are read from their start."""
    flags = [word for pair in zip(("--text", "--image"), columns, strict=False) for word in pair]
    command = ["hub", f"some/{name}", *flags, "--output"]
    assert run(hub.endpoint, tmp_path / "home", ["die", 4], [*command, tmp_path / "killed"]) == []
    again, whole = run(hub.endpoint, tmp_path / "home", [*command, tmp_path / "killed"], [*command, tmp_path / "whole"])
    assert again[0] == whole[0] == 0, again
    assert f"resuming some/{name} (train) after row 1" in again[2]
    assert files(tmp_path / "killed") == files(tmp_path / "whole")
