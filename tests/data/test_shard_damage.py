"""Shards that were changed after they were packed, or that another program wrote."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from modules.common.errors import UserError
from modules.data.pack import pack
from modules.data.records import MANIFEST
from modules.data.shards import open_stories
from modules.data.writing import write_stories
from modules.storyworld import StoryWorld


@pytest.fixture(scope="module")
def packed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("shards")
    for split in ("train", "val"):
        write_stories(folder / "data" / split, StoryWorld(3, split=split, image_size=16))
    pack(folder / "data", folder / "packed", 1 << 20)
    return folder / "packed"


def rewritten(packed: Path, target: Path, change, keep_sums: bool = False) -> Path:
    """A copy of the shards in which `change` was made to the rows of one of them."""
    shutil.copytree(packed, target)
    manifest = json.loads((target / MANIFEST).read_text())
    shard = manifest["splits"]["val"][0]
    rows = pq.read_table(target / shard["name"])
    changed = rows.to_pylist()
    change(changed[1])
    pq.write_table(pa.Table.from_pylist(changed, schema=rows.schema), target / shard["name"])
    shard["bytes"] = (target / shard["name"]).stat().st_size
    if not keep_sums:
        for shards in manifest["splits"].values():
            for each in shards:
                each.pop("sha256")
    (target / MANIFEST).write_text(json.dumps(manifest))
    return target


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda row: row.update(prompt=None), '"prompt" must be a text'),
        (lambda row: row.update(texts=None), "not what pack writes"),
        (lambda row: row.update(texts=row["texts"][:-1]), "not what pack writes"),
        (lambda row: row["attributes"].__setitem__(0, "{no"), "not what pack writes"),
        (lambda row: row.update(extra="[" * 100_000), "not what pack writes"),
    ],
)
def test_wrong_rows_of_shards_without_sums_are_named(packed, tmp_path, change, message):
    with pytest.raises(UserError, match=message) as caught:
        open_stories(str(rewritten(packed, tmp_path / "bad", change)), "val")
    assert "row 2" in str(caught.value) and "\n" not in str(caught.value)


def test_what_was_changed_after_packing_is_found(packed, tmp_path):
    def retold(row):
        row["texts"][0] = "Another story."

    with pytest.raises(UserError, match="is damaged"):
        open_stories(str(rewritten(packed, tmp_path / "text", retold, keep_sums=True)), "val")

    def repainted(row):
        row["images"][0]["bytes"] = row["images"][1]["bytes"]

    with pytest.raises(UserError, match="row 2: a picture is not what was packed"):
        open_stories(str(rewritten(packed, tmp_path / "picture", repainted)), "val")


@pytest.mark.parametrize("change", [lambda row: row.update(prompt=None), lambda row: row["images"].reverse()])
def test_wrong_rows_are_skipped_if_they_are_few(packed, tmp_path, change):
    """What is left is what a folder without these records would be."""
    for name, kept in (("all", range(12)), ("kept", (0, *range(2, 12)))):
        stories = StoryWorld(12, split="val", image_size=16)
        write_stories(tmp_path / name / "val", [stories[index] for index in kept])
        pack(tmp_path / name, tmp_path / f"{name}-packed", 20_000)
    bad = str(rewritten(tmp_path / "all-packed", tmp_path / "bad", change))
    with pytest.raises(UserError, match="1 of 12 records cannot be used: .*row 2: "):
        open_stories(bad, "val")
    found, expected = (open_stories(folder, "val", "skip", 3) for folder in (bad, str(tmp_path / "kept-packed")))
    assert [found[index].id for index in range(len(found))] == [
        story.id for story in map(expected.outline, range(len(expected)))
    ]
    assert len(found.shards) > 1 and found.lengths == expected.lengths
    assert list(found.texts()) == list(expected.texts())
    assert "1 skipped, the first: " in found.report() and "row 2: " in found.report()


@pytest.mark.parametrize("name", ["../x.parquet", "/etc/x.parquet", "a/b.parquet", "\ud800", "", 3])
def test_shards_lie_beside_their_list(packed, tmp_path, name):
    shutil.copytree(packed, tmp_path / "bad")
    manifest = json.loads((tmp_path / "bad" / MANIFEST).read_text())
    manifest["splits"]["val"][0]["name"] = name
    (tmp_path / "bad" / MANIFEST).write_text(json.dumps(manifest))
    with pytest.raises(UserError, match="no file beside it"):
        open_stories(str(tmp_path / "bad"), "val")
