"""Training data that the `datasets` library loads: folders written by `save_to_disk`, and the Hub."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import datasets
import pytest

from modules.common.errors import UserError
from modules.data.folder import MissingSplit
from modules.data.shards import open_stories
from tests.support.hub_data import picture
from tests.support.hub_server import serving

ROOT = Path(__file__).parents[2]
IMAGES = datasets.List(datasets.Image())
TEXTS = datasets.List(datasets.Value("string"))


def rows(count: int = 3, seed: int = 0) -> list[dict]:
    """Stories of three steps; the second lacks its text, the third its picture."""
    return [
        {
            "id": f"s{number}",
            "prompt": f"About {number}",
            "texts": [f"One of {number}.", None, "Three."],
            "images": [*({"bytes": picture(seed + 2 * number + n, "PNG"), "path": None} for n in range(2)), None],
        }
        for number in range(count)
    ]


def table(records: list[dict]) -> datasets.Dataset:
    text = datasets.Value("string")
    features = datasets.Features({"id": text, "prompt": text, "texts": TEXTS, "images": IMAGES})
    return datasets.Dataset.from_list(records, features=features)


@pytest.mark.parametrize("max_steps", [None, 2])
def test_a_saved_data_set_is_read_at_random(tmp_path, max_steps):
    datasets.DatasetDict(train=table(rows()), validation=table(rows(1))).save_to_disk(tmp_path / "saved")
    stories = open_stories(str(tmp_path / "saved"), "train", max_steps=max_steps)
    assert stories.lengths == ([3] * 3 if max_steps is None else [1, 2] * 3)
    last = stories[len(stories) - 1]
    assert [step.text for step in last.steps] == ["One of 2.", None, "Three."][-len(last.steps) :]
    assert (last.id, last.prompt) == ("s2" if max_steps is None else "s2#1", "About 2")
    assert last.steps[-1].image is None and last.steps[-2].image.size == (24, 16)
    assert stories.outline(0).steps[0].image is None and list(stories.texts())[:2] == ["About 0", "One of 0."]
    assert len(open_stories(str(tmp_path / "saved"), "val")) == 1


def test_the_fingerprint_follows_the_content(tmp_path):
    for name, records in (("a", rows()), ("b", rows()), ("c", rows(seed=9))):
        table(records).save_to_disk(tmp_path / name)
    one, same, other = (open_stories(str(tmp_path / name), "train").fingerprint() for name in "abc")
    assert one == same != other
    assert open_stories(str(tmp_path / "a"), "train", max_steps=2).fingerprint() != one


def test_one_text_and_one_picture_a_row(tmp_path):
    features = datasets.Features({"text": datasets.Value("string"), "image": datasets.Image()})
    record = {"text": "A dog.", "image": {"bytes": picture(1), "path": None}}
    datasets.Dataset.from_list([record], features=features).save_to_disk(tmp_path / "saved")
    story = open_stories(str(tmp_path / "saved"), "train")[0]
    assert (story.id, story.prompt, story.steps[0].text) == ("0", "A dog.", "A dog.")
    assert story.steps[0].image.size == (24, 16)


def test_what_is_no_story_is_named(tmp_path):
    datasets.Dataset.from_list([{"label": 1}]).save_to_disk(tmp_path / "labels")
    with pytest.raises(UserError, match="none of the columns texts, text, images, image: convert it by"):
        open_stories(str(tmp_path / "labels"), "train")
    table([*rows(1), {**rows(1)[0], "texts": ["One."]}]).save_to_disk(tmp_path / "uneven")
    with pytest.raises(UserError, match="row 1: it has 1 texts and 3 pictures"):
        open_stories(str(tmp_path / "uneven"), "train")
    with pytest.raises(MissingSplit, match='has no "val" split; it has train'):
        open_stories(str(tmp_path / "uneven"), "val")


def test_the_hub_through_the_real_client(tmp_path):
    """A repository without shards.json: an image folder, as most data sets of pictures and texts are."""
    folder = tmp_path / "hub/some/images/main/train"
    folder.mkdir(parents=True)
    for number in range(3):
        (folder / f"{number}.png").write_bytes(picture(number, "PNG"))
    lines = [json.dumps({"file_name": f"{number}.png", "text": f"Number {number}."}) for number in range(3)]
    (folder / "metadata.jsonl").write_text("\n".join(lines))
    code = (
        "import sys; from modules.data.shards import open_stories\n"
        "stories = open_stories('hf://datasets/some/images', 'train')\n"
        "print(stories.report()); print([story.steps[0].text for story in stories], stories[2].steps[0].image.size)\n"
        "from modules.common.errors import UserError\n"
        "for address, split in (('some/images', 'val'), ('a/gone', 'train')):\n"
        "    try: open_stories('hf://datasets/' + address, split)\n"
        "    except UserError as error: print(type(error).__name__, error)\n"
    )
    kept = {name: value for name, value in os.environ.items() if not name.startswith("HF_")}
    with serving(tmp_path / "hub") as hub:
        settings = {"HF_ENDPOINT": hub.endpoint, "HF_HOME": str(tmp_path / "home"), "HF_HUB_DISABLE_XET": "1"}
        environment = kept | settings | {"NO_PROXY": "127.0.0.1"}
        result = subprocess.run(
            [sys.executable, "-c", code], cwd=ROOT, env=environment, capture_output=True, text=True, timeout=120
        )
    assert result.returncode == 0, result.stderr
    report, stories, no_split, gone = result.stdout.splitlines()
    assert report.endswith("3 stories of 3 steps, loaded by the datasets library")
    assert stories == "['Number 0.', 'Number 1.', 'Number 2.'] (24, 16)"
    assert no_split.startswith("MissingSplit") and 'no "val" split' in no_split
    assert gone.startswith("UserError hf://datasets/a/gone cannot be loaded by the datasets library")
