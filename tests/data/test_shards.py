"""Parquet shards: read by the datasets library, locally and remotely; packing that is stopped and resumed."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import fsspec
import numpy as np
import pytest
from PIL import Image

import download_data
from modules.common.errors import UserError
from modules.data import pack as packing
from modules.data import remote
from modules.data.folder import StoryFolder, open_split
from modules.data.pack import pack, runs_of
from modules.data.records import MANIFEST
from modules.data.shards import StoryShards, open_stories
from modules.story import Story
from tests.support.hub_server import Hub, serving

ROW_GROUP = 3_000  # Bytes: several groups a shard, several stories a group.


def write_split(folder: Path, count: int, seed: int) -> None:
    """Write stories of 1 to 5 steps with pictures of noise, some of them incomplete, and keys of all kinds."""
    rng = np.random.default_rng(seed)
    (folder / "images").mkdir(parents=True)
    lines = []
    for number in range(count):
        steps = []
        for page in range(number % 5 + 1):
            name, kind = f"images/{number}-{page}", (".png", ".jpg")[page % 2]
            Image.fromarray(rng.integers(0, 255, (14, 10 + page, 3), dtype=np.uint8)).save(folder / (name + kind))
            steps.append(
                {
                    "text": f"Page {page} of {number} ☂",
                    "image_path": name + kind,
                    "attributes": {"place": "hill", "n": page},
                }
            )
        lines.append({"id": f"s/{seed}/{number}", "prompt": f"About {number}", "license": "CC BY", "steps": steps})
    lines[3]["steps"][1]["text"] = None
    lines[4]["steps"][2] = {"text": "No picture", "image_path": None}
    lines[5] |= {"year": 1999, "texts": "a clash", "source": None, "tags": ["a", {"b": 1}], "credit": "Ada"}
    (folder / "stories.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines), encoding="utf-8")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    data = tmp_path_factory.mktemp("stories") / "data"
    write_split(data / "train", 23, 1)
    write_split(data / "val", 6, 2)
    return data


@pytest.fixture(scope="module")
def packed(folder: Path) -> Path:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(packing, "ROW_GROUP_BYTES", ROW_GROUP)
        pack(folder, folder.with_name("packed"), 12_000)
    return folder.with_name("packed")


def told(story: Story) -> tuple:
    """All of a story but where its pictures were, in values that compare."""
    steps = [
        (step.text, step.attributes, None if step.image is None else (step.image.size, step.image.tobytes()))
        for step in story.steps
    ]
    return story.id, story.prompt, dict(story.extra), steps


def test_the_datasets_library_reads_texts_and_decoded_pictures(folder, packed, tmp_path):
    """The real client, which finds the splits by the names of the files."""
    from datasets import Image as ImageFeature
    from datasets import List, load_dataset

    files = {split: sorted(str(path) for path in packed.glob(f"{split}-*.parquet")) for split in ("train", "val")}
    assert len(files["train"]) > 3
    found = load_dataset("parquet", data_files=files, cache_dir=str(tmp_path))
    assert {name: len(rows) for name, rows in found.items()} == {"train": 23, "val": 6}
    assert found["train"].features["images"] == List(ImageFeature())
    for split, rows in found.items():
        for row, story in zip(rows, open_split(folder, split), strict=True):
            assert (row["id"], row["prompt"], row["texts"]) == (
                story.id,
                story.prompt,
                [step.text for step in story.steps],
            )
            for picture, step in zip(row["images"], story.steps, strict=True):
                assert (picture is None) == (step.image is None)
                assert picture is None or picture.convert("RGB").tobytes() == step.image.tobytes()
    assert [(row["license"], row["credit"]) for row in found["train"].select([0, 5])] == [
        ("CC BY", None),
        ("CC BY", "Ada"),
    ]


@pytest.mark.parametrize("max_steps", [None, 2])
def test_shards_are_the_folder(folder, packed, max_steps):
    for split in ("train", "val"):
        stories, shards = open_split(folder, split, max_steps=max_steps), StoryShards(packed, split, max_steps)
        assert shards.lengths == stories.lengths and shards.fingerprint() == stories.fingerprint()
        assert list(shards.texts()) == list(stories.texts())
        order = np.random.default_rng(0).permutation(len(stories)).tolist()
        for index in order:
            assert told(shards[index]) == told(stories[index])
            assert told(shards.outline(index))[:3] == told(stories[index])[:3]
        assert told(shards[-1]) == told(stories[-1])


def test_threads_that_read_at_once_get_their_own_stories(packed, folder, monkeypatch):
    monkeypatch.setattr("modules.data.shards.KEPT_GROUPS", 1)
    shards, stories = StoryShards(packed, "train"), StoryFolder(folder / "train")
    order = np.random.default_rng(1).integers(0, len(stories), 200).tolist()
    with ThreadPoolExecutor(8) as pool:
        assert [told(story) for story in pool.map(shards.__getitem__, order)] == [
            told(stories[index]) for index in order
        ]


# Far away


@pytest.fixture(scope="module")
def server(packed: Path) -> Iterator[Hub]:
    """The stand-in Hub with the shards as data set o/n; its plain addresses work as on any web server."""
    root = packed.with_name("hub")
    (root / "o/n").mkdir(parents=True)
    (root / "o/n/main").symlink_to(packed)
    with serving(root) as hub:
        yield hub


def test_a_web_server_is_asked_for_what_is_needed_alone(server, folder):
    where = f"{server.endpoint}/datasets/o/n/resolve/main"
    shards = open_stories(where, "train")
    assert shards.fingerprint() == StoryFolder(folder / "train").fingerprint()
    opening = len(server.sent)
    stories = StoryFolder(folder / "train")
    for index in (20, 3, 20, 3):
        assert told(shards[index]) == told(stories[index])
    sent = server.sent[opening:]
    assert len(sent) == 2 and max(sent) < 1.2 * ROW_GROUP  # One range for each of two row groups, which are kept.


def test_memory_and_the_local_protocol_hold_the_same(packed, folder):
    files = fsspec.filesystem("memory")
    for path in packed.iterdir():
        files.pipe_file(f"/stories/{path.name}", path.read_bytes())
    for where in ("memory://stories", f"file://{packed}"):
        shards, stories = open_stories(where, "val"), StoryFolder(folder / "val")
        assert [told(shards[index]) for index in range(6)] == [told(stories[index]) for index in range(6)]


def test_a_network_that_fails_for_a_moment_is_waited_for(monkeypatch):
    files = fsspec.filesystem("memory")
    files.pipe_file("/x/part", b"0123456789")
    calls, cat = [], type(files).cat_file

    def failing(self, *args, **options):
        calls.append(args)
        if len(calls) < 3:
            raise ConnectionError("reset")
        return cat(self, *args, **options)

    monkeypatch.setattr(type(files), "cat_file", failing)
    monkeypatch.setattr(remote.time, "sleep", lambda _: None)
    with remote.open_ranges("memory://x/part", 10) as file:
        file.seek(-4, 2)
        assert file.read(3) == b"678" and len(calls) == 3
        calls.clear()
        monkeypatch.setattr(remote, "WAITS", ())
    with pytest.raises(UserError, match="memory://x/part does not give parts"):
        remote.open_ranges("memory://x/part", 12).read(12)


@pytest.mark.parametrize(
    ("where", "message"),
    [
        ("{tmp}", "has neither"),
        ("memory://nowhere", r"has no shards\.json: make shards with download_data\.py pack"),
        ("nothing://x", "nothing://x.* is not an address that can be opened"),
        ("{hub}/datasets/a/private/resolve/main", "cannot be read .*401"),
        ("{hub}/datasets/o/n/resolve/other", r"has no shards\.json"),
    ],
)
def test_what_cannot_be_opened_is_told_in_a_sentence(where, message, tmp_path, server):
    with pytest.raises(UserError, match=message):
        open_stories(where.format(tmp=tmp_path, hub=server.endpoint), "train")


def test_shards_that_are_not_whole_are_refused(packed, tmp_path):
    for path in packed.glob("train-*"):
        (tmp_path / path.name).write_bytes(path.read_bytes())
    manifest = json.loads((packed / MANIFEST).read_bytes())
    for shard in manifest["splits"]["train"]:
        del shard["sha256"]  # As older versions wrote it.
    (tmp_path / MANIFEST).write_text(json.dumps(manifest))
    with pytest.raises(UserError, match=r'no "test"|"train" or "val"'):
        StoryShards(tmp_path, "test")
    first, second = (tmp_path / shard["name"] for shard in manifest["splits"]["train"][:2])
    whole = first.read_bytes()
    first.write_bytes(whole[:-9])
    with pytest.raises(UserError, match=f"{first.name} is missing or not whole"):
        StoryShards(tmp_path, "train")
    first.write_bytes(second.read_bytes())
    with pytest.raises(UserError, match=r"stories, not the|not whole"):
        StoryShards(tmp_path, "train")


# Packing


def test_the_command_packs_and_refuses_to_replace(folder, tmp_path, capsys):
    out = tmp_path / "out"
    assert download_data.main(["pack", str(folder), "--output", str(out), "--shard_size", "1"]) == 0
    assert capsys.readouterr().out.splitlines() == [
        f"{out}: train, 23 stories in 1 shards",
        f"{out}: val, 6 stories in 1 shards",
    ]
    assert sorted(path.name for path in out.iterdir()) == [
        MANIFEST,
        "train-00000-of-00001.parquet",
        "val-00000-of-00001.parquet",
    ]
    assert download_data.main(["pack", str(folder), "--output", str(out)]) == 2
    assert "--overwrite" in capsys.readouterr().err
    assert download_data.main(["pack", str(folder), "--output", str(out), "--overwrite"]) == 0
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


@pytest.mark.parametrize(
    ("stories", "output"),
    [("data", "data"), ("data", "."), ("data/train", "data"), ("data", "data/train/out"), ("data", "kept")],
)
def test_nothing_but_shards_is_ever_replaced(folder, tmp_path, capsys, monkeypatch, stories, output):
    """Not the stories that are packed, nor a folder that they lie in or that lies in them, nor what somebody keeps
    elsewhere.
    """
    shutil.copytree(folder, tmp_path / "data")
    (tmp_path / "kept").mkdir()
    (tmp_path / "kept" / "thesis.txt").write_text("mine")
    before = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
    monkeypatch.chdir(tmp_path)
    assert download_data.main(["pack", stories, "--output", output, "--overwrite"]) == 2
    assert "choose another --output" in capsys.readouterr().err
    assert before == {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}


def test_one_set_of_stories_becomes_its_own_split(folder, tmp_path):
    assert list(pack(folder / "val", tmp_path / "out", 1 << 20)) == ["val"]
    assert len(StoryShards(tmp_path / "out", "val")) == 6
    with pytest.raises(UserError, match='has no "train" shards'):
        StoryShards(tmp_path / "out", "train")


def test_a_stopped_run_goes_on_after_its_last_whole_shard(folder, packed, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(packing, "ROW_GROUP_BYTES", ROW_GROUP)
    row, written = packing._row, []

    def stopped(source, index, named):
        written.append(index)
        if len(written) == 15:
            raise KeyboardInterrupt
        return row(source, index, named)

    out = tmp_path / "out"
    monkeypatch.setattr(packing, "_row", stopped)
    monkeypatch.setattr("modules.commands.pack.MIB", 1)
    command = ["pack", str(folder), "--output", str(out), "--shard_size", "12000"]
    assert download_data.main(command) == 130
    assert f"the finished work stays in {tmp_path / '.out.partial'}" in capsys.readouterr().err and not out.exists()
    whole = {path.name for path in (tmp_path / ".out.partial").glob("*.parquet")}
    assert 0 < len(whole) < len(list(packed.glob("train-*")))
    assert download_data.main(command) == 0
    assert len(written) < 15 + 23 + 6
    assert {path.name: path.read_bytes() for path in out.iterdir()} == {
        path.name: path.read_bytes() for path in packed.iterdir()
    }


def test_runs_are_consecutive_and_as_long_as_fits():
    assert runs_of([3, 3, 3, 9, 1, 1], 6) == [range(0, 2), range(2, 3), range(3, 4), range(4, 6)]
    assert runs_of([1], 6) == [range(0, 1)]
