"""Data sets on a stand-in Hub, read through the real client in separate processes, with all kinds of answers."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from modules.data.folder import open_split
from tests.support.downloads import files
from tests.support.hub_data import (
    paragraph,
    picture,
    run,
    write_m3it,
    write_others,
    write_storyreasoning,
    write_storystream,
)
from tests.support.hub_server import Hub, serving


@pytest.fixture(scope="module")
def hub(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Hub]:
    root = tmp_path_factory.mktemp("hub")
    write_m3it(root / "MMInstruction/M3IT")
    write_m3it(root / "raw/M3IT")
    (root / "raw/M3IT/refs").rename(root / "raw/refs-taken-away")
    write_storyreasoning(root / "daniel3303/StoryReasoning")
    write_storystream(root / "TencentARC/StoryStream")
    write_others(root)
    write_storystream(root / "cut/stream")
    tar = root / "cut/stream/main/The_Land/the_land.tar.gz"
    tar.write_bytes(tar.read_bytes()[:2000])
    with serving(root) as hub:
        yield hub


COMMANDS: dict[str, list[object]] = {
    "m3it": ["--max_stories", 5],
    "m3it raw": ["m3it", "--repo", "raw/M3IT"],
    "storyreasoning": ["storyreasoning"],
    "storystream": ["storystream", "--window", 2],
    "flickr8k": ["flickr8k", "--image_size", 16],
    "coco": ["coco"],
    "pororosv": ["pororosv"],
    "flintstonessv": ["flintstonessv", "--splits", "train"],
    "table": ["hub", "some/table", "--image", "pic", "--text", "says", "--story", "book", "--license_column", "by"],
    "licenses": [
        "hub",
        "some/table",
        "--image",
        "pic",
        "--text",
        "says",
        "--license_column",
        "by",
        "--licenses",
        "CC0",
    ],
    "columns": ["hub", "some/table", "--image", "photo", "--text", "caption"],
    "broken file": ["hub", "half/broken"],
    "no such file": ["hub", "some/table", "--files", "*.arrow"],
    "probe": ["m3it", "--probe"],
    "probe stories": ["storyreasoning", "--probe"],
    **{name: ["m3it", "--repo", name] for name in ("a/gated", "a/gone", "a/busy", "a/down", "a/private")},
    "not an id": ["hub", "no id at all"],
    "cut archive": ["storystream", "--repo", "cut/stream"],
    "no raw lines": ["m3it", "--repo", "some/table"],
}


@pytest.fixture(scope="module")
def told(hub: Hub, tmp_path_factory: pytest.TempPathFactory) -> dict[str, tuple[int, str, str, float, Path]]:
    """Every data set once, and every refusal, by name."""
    base = tmp_path_factory.mktemp("told")
    outputs = {name: base / name.replace("/", "-").replace(" ", "-") for name in COMMANDS}
    answers = run(
        hub.endpoint, base / "home", *([*words, "--output", outputs[name]] for name, words in COMMANDS.items())
    )
    return {name: (*answer, outputs[name]) for name, answer in zip(COMMANDS, answers, strict=True)}


def stories(told: dict, name: str, split: str) -> list:
    assert told[name][0] == 0, told[name][2]
    return list(open_split(told[name][4], split))


def test_m3it_is_the_default_and_comes_by_its_parquet_copy(told):
    train, val = stories(told, "m3it", "train"), stories(told, "m3it", "val")
    assert [story.prompt for story in train[:5]] == [f"Picture {n} shows a dog." for n in range(5)]
    assert [story.steps[0].text for story in val] == [paragraph(10), paragraph(11)]
    assert train[0].steps[0].image_path.read_bytes() == picture(0)  # Byte for byte.
    assert train[0].extra["license"] == "other" and "not to be passed on" in told["m3it"][2]
    assert not list(told["m3it"][4].glob(".*"))


def test_a_story_that_shares_a_picture_with_train_leaves_val(told):
    train = stories(told, "m3it", "train")
    assert [story.steps[0].text for story in train] == [paragraph(n) for n in (0, 1, 2, 3, 4, 3)]
    assert "1 stories moved from val to train" in told["m3it"][2]


def test_m3it_comes_by_its_raw_lines_where_the_copy_is_gone(told):
    train = stories(told, "m3it raw", "train")
    assert [story.steps[0].text for story in train][:6] == [paragraph(n) for n in range(6)]
    assert "no Parquet copy any more" in told["m3it raw"][2]
    about = json.loads((told["m3it raw"][4] / "train" / "source.json").read_text())
    assert about["bad_records"] == 2 and re.search(r"train\.jsonl at byte \d+: not valid JSON", about["problems"][0])
    assert "left out 2 bad; the first: " in told["m3it raw"][2]


def test_storyreasoning_ties_texts_to_frames(told):
    story = next(
        story for split in ("train", "val") for story in stories(told, "storyreasoning", split) if story.id == "s1"
    )
    assert [step.text for step in story.steps] == ["Ann sits down.", "She leaves."]
    assert story.steps[1].image_path.read_bytes() == picture(31) and story.extra["license"] == "CC BY-ND 4.0"
    assert (
        "no derivatives" in told["storyreasoning"][2]
        and "row 4: its text names frames [] of 1" in told["storyreasoning"][2]
    )


def test_storystream_is_cut_into_windows(told):
    found = sorted(
        (story for split in ("train", "val") for story in stories(told, "storystream", split)),
        key=lambda story: story.id,
    )
    assert [story.id for story in found] == [f"The_Land-{story}-{window}" for story in range(2) for window in range(2)]
    assert [step.text for step in found[1].steps] == ["Frame 2.", "Frame 3."]
    assert found[2].steps[0].image_path.read_bytes() == picture(55)
    assert not list(told["storystream"][4].parent.rglob("escape.jpg"))


def test_captions_and_wide_rows(told):
    story = stories(told, "flickr8k", "val")[0]
    assert (
        story.prompt == "Caption 0 of it."
        and len(story.extra["captions"]) == 5
        and max(story.steps[0].image.size) == 16
    )
    assert sum(len(stories(told, "coco", split)) for split in ("train",)) >= 3
    for name in ("pororosv", "flintstonessv"):
        (story,) = stories(told, name, "train")
        assert [step.text for step in story.steps] == [f"Clip {n}." for n in range(5)] and all(
            step.image for step in story.steps
        )
    assert not (told["flintstonessv"][4] / "val").exists()


def test_any_table_with_its_columns_named(told):
    found = [
        story
        for split in ("train", "val")
        if (told["table"][4] / split).exists()
        for story in stories(told, "table", split)
    ]
    assert sorted((story.id, len(story.steps), story.extra["license"]) for story in found) == [
        ("0", 2, "CC BY 4.0"),
        ("1", 2, "CC BY 4.0"),
    ]


def test_a_probe_writes_nothing(told):
    code, out, _, _, folder = told["probe"]
    assert (
        code == 0 and "image_base64_str: list of 1" in out and "Picture 0 shows a dog." in out and not folder.exists()
    )
    assert "frame_count: int '2'" in told["probe stories"][1] and not told["probe stories"][4].exists()


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("a/gated", r"is gated: accept its terms at http\S*/datasets/a/gated, log in"),
        ("a/gone", "does not exist or is not public"),
        ("a/busy", "answers 429, too many requests"),
        ("a/down", "answers 503: try again later"),
        ("a/private", "not exist or is not public"),
        ("no such file", r"has no \*\.arrow: its files have been moved"),
        ("no raw lines", "has no data/captioning.*: its files have been moved"),
        ("broken file", r"b\.parquet is not a whole Parquet file"),
        ("cut archive", r"the_land\.tar\.gz is damaged .*: delete it and run again"),
        ("columns", "no column for --text caption and --image photo; its columns are pic"),
        ("licenses", r"has no usable story \(4 of other licences\)"),
        ("not an id", "'no id at all' is not a valid id on the Hub"),
    ],
)
def test_what_the_hub_refuses_is_one_sentence_within_ten_seconds(told, name, said):
    code, out, err, seconds, _ = told[name]
    lines = [line for line in err.splitlines() if line.startswith("download_data.py:")]
    assert code == 2 and out == "" and seconds < 10
    assert re.search(said, lines[0]) and len(lines) == 1 and "Traceback" not in err


def test_without_a_network_and_in_offline_mode(hub, tmp_path):
    ((code, _, err, seconds),) = run("http://127.0.0.1:9", tmp_path, ["--output", tmp_path / "data"])
    assert (
        code == 2 and re.search(r"at http://127\.0\.0\.1:9 cannot be reached: check the network", err) and seconds < 10
    )
    ((code, _, err, _),) = run(hub.endpoint, tmp_path, ["coco", "--output", tmp_path / "data"], HF_HUB_OFFLINE="1")
    assert code == 2 and "in offline mode: unset HF_HUB_OFFLINE" in err and not (tmp_path / "data").exists()


def test_an_interrupted_run_resumes_without_gap_or_duplicate(hub, told, tmp_path):
    """Once within a file of lines by a kill, and once between two Parquet files by a refusal."""
    command = ["m3it", "--repo", "raw/M3IT", "--output", tmp_path / "lines"]
    assert run(hub.endpoint, tmp_path / "home", ["die", 5], command) == []
    assert (tmp_path / "lines/.download-m3it/records.jsonl").read_bytes().endswith(b"half of a record")
    hub.broken["train/0001.parquet"] = 403
    tables = ["m3it", "--max_stories", 5, "--output", tmp_path / "tables"]
    first, second = run(hub.endpoint, tmp_path / "home", tables, [*tables[:2], 6, *tables[3:]])
    assert first[0] == second[0] == 2 and "refuses access (403)" in first[2] and "max_stories 5, not 6" in second[2]
    hub.broken.clear()
    hub.asked.clear()
    answers = run(
        hub.endpoint,
        tmp_path / "home",
        [*command, "--resume"],
        [*tables, "--resume"],
        [*tables, "--overwrite", "--resume"],
    )
    assert [answer[0] for answer in answers] == [0, 0, 2] and "no stopped run of m3it" in answers[2][2]
    assert files(tmp_path / "lines") == files(told["m3it raw"][4]) and files(tmp_path / "tables") == files(
        told["m3it"][4]
    )
    assert not any(asked.endswith("train/0000.parquet") for asked in hub.asked)


def test_a_run_that_was_cut_off_while_unpacking_goes_on(hub, told, tmp_path):
    """Half a picture is written anew, those before it are not; the archive is not asked for again."""
    command = ["storystream", "--window", 2, "--output", tmp_path / "data"]
    assert run(hub.endpoint, tmp_path / "home", ["die unpacking", 4], command) == []
    unpacked = tmp_path / "data/.download-storystream/unpacked"
    before = {path: path.stat().st_mtime_ns for path in unpacked.glob("*.jpg")}
    assert len(before) == 3 and len(list(unpacked.glob("*.part"))) == 1
    assert run(hub.endpoint, tmp_path / "home", ["die", 2], command) == []
    assert {path: path.stat().st_mtime_ns for path in before} == before and not list(unpacked.glob("*.part"))
    hub.asked.clear()
    ((code, _, err, _),) = run(hub.endpoint, tmp_path / "home", command)
    assert code == 0, err
    assert files(tmp_path / "data") == files(told["storystream"][4])
    assert not any("GET" in asked and asked.endswith(".tar.gz") for asked in hub.asked)


def test_a_hub_that_fails_on_the_way_is_given_up_on(hub, tmp_path):
    hub.broken["train-00000-of-00001.parquet"] = 503
    ((code, _, err, seconds),) = run(
        hub.endpoint, tmp_path, ["patience", 0.5], ["storyreasoning", "--output", tmp_path / "data"]
    )
    hub.broken.clear()
    assert code == 2 and "answers 503: try again later; the same command resumes" in err and seconds < 10
