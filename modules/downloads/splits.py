"""Divide collected stories into train and val without common pictures, and move them to their final folders."""

from __future__ import annotations

import hashlib
import inspect
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from modules.common.files import disk_errors, replace_folder
from modules.common.sums import write_sums
from modules.downloads.collect import COUNTS, Staging, read_records
from modules.downloads.record import Source

VAL_SHARE = 0.1
HALVES = {"without a text": "text", "without a picture": "image_path"}


def assign_splits(stories: Sequence[tuple[str, str, Sequence[str]]], val_share: float = VAL_SHARE) -> list[str]:
    """Return the split of each story, given (id, part of its source, its pictures); a pure function of its arguments.

    Stories connected by shared pictures (transitively) stay in one split. The splits of a source are kept, except that
    stories connected to a training story go to train. A source without splits ("all") gives about `val_share` of its
    stories to val, chosen by a hash of their ids, so that adding stories later moves few of them.
    """
    groups: dict[int, list[int]] = {}
    for index, root in enumerate(_components([pictures for _, _, pictures in stories])):
        groups.setdefault(root, []).append(index)
    chosen, held_out = ["train"] * len(stories), 0
    wanted = max(1, round(val_share * len(stories))) if len(groups) > 1 else 0
    order = sorted(groups.values(), key=lambda group: min(_rank(stories[index][0]) for index in group))
    for group in order:
        parts = {stories[index][1] for index in group}
        if parts == {"val"} or (
            parts == {"all"} and held_out < wanted and held_out + len(group) <= wanted + wanted // 4
        ):
            for index in group:
                chosen[index] = "val"
            held_out += len(group) if parts == {"all"} else 0
    return chosen


def _rank(story_id: str) -> bytes:
    return hashlib.sha256(story_id.encode()).digest()


def _components(pictures: Sequence[Iterable[str]]) -> list[int]:
    """Return for each set of pictures the smallest number of a set that it is connected to (union-find)."""
    parent = list(range(len(pictures)))
    owner: dict[str, int] = {}

    def root(index: int) -> int:
        while parent[index] != index:
            parent[index] = parent[parent[index]]
            index = parent[index]
        return index

    for index, names in enumerate(pictures):
        for name in names:
            first, second = sorted((root(owner.setdefault(name, index)), root(index)))
            parent[second] = first
    return [root(index) for index in range(len(pictures))]


def place_splits(staging: Staging, source: Source, output: Path, splits: Sequence[str]) -> dict[str, int]:
    """Write the splits and move them into `output`.

    If the run is killed during this, the next one completes it.

    Returns:
        The number of stories of each split, under "moved" the number that went from val to train, and of "pages" those
        "without a text" and "without a picture".

    Raises:
        UserError: `output` cannot be written.
    """
    folder = staging.folder
    with disk_errors(output):
        if not staging.progress.moving:
            stories = [(record["id"], part, _pictures(record)) for part, record in read_records(folder)]
            chosen = assign_splits(stories)
            counts = {split: chosen.count(split) for split in splits}
            counts |= _halves(staging)
            counts["moved"] = sum(part == "val" != split for (_, part, _), split in zip(stories, chosen, strict=True))
            for split in splits:
                if counts[split]:
                    _write_split(staging, source, split, chosen, counts)
            (folder / COUNTS).write_text(json.dumps(counts))
            staging.progress = replace(staging.progress, moving=True)
            staging.save()
        counts = json.loads((folder / COUNTS).read_text())
        for split in splits:
            if (folder / split).exists():
                replace_folder(output / split, folder / split)
        staging.remove()
    return counts


def _halves(staging: Staging) -> dict[str, int]:
    """Return the number of pages kept, and of those without a text or a picture."""
    steps = [step for _, record in read_records(staging.folder) for step in record["steps"]]
    without = {name: sum(not step[key] for step in steps) for name, key in HALVES.items()}
    return {"pages": len(steps)} | without


def _pictures(record: Mapping[str, Any]) -> list[str]:
    return [step["image_path"] for step in record["steps"] if step["image_path"]]


def _write_split(
    staging: Staging, source: Source, split: str, chosen: Sequence[str], counts: Mapping[str, int]
) -> None:
    folder = staging.folder / split
    folder.mkdir(exist_ok=True)
    with open(folder / "stories.jsonl", "wb") as file:
        for own, (_, record) in zip(chosen, read_records(staging.folder), strict=True):
            if own == split:
                file.write(json.dumps(record, ensure_ascii=False).encode("utf-8") + b"\n")
                for path in _pictures(record):
                    _move(staging.folder / path, folder / path)
    progress = staging.progress
    about = {
        "source": source.name,
        "about": inspect.getdoc(source),
        "license": source.license,
        "terms": source.terms,
        "stories": counts[split],
        "bad_records": progress.bad,
        "dead_links": progress.dead_links,
        "of_other_licenses": progress.other_licenses,
        "problems": progress.problems,
    }
    (folder / "source.json").write_text(json.dumps(about, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
    write_sums(folder)


def _move(old: Path, new: Path) -> None:
    """Move a picture unless an earlier story or run has moved it."""
    if old.exists():
        new.parent.mkdir(parents=True, exist_ok=True)
        old.rename(new)
