"""The layouts of folders of pictures: where the splits are, and what is no part of them."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from modules.common.files import visible

PICTURES = (".jpg", ".jpeg", ".png", ".webp", ".gif", ".bmp", ".tif", ".tiff")
SPLIT_NAMES = {
    "train": ("train", "training"),
    "val": ("val", "validation", "valid", "dev", "eval", "test", "testing"),  # The first that exists.
}
STORIES, METADATA = "stories.jsonl", ("metadata.jsonl", "metadata.csv", "metadata.parquet")
TITLES = ("prompt.txt", "title.txt")


@dataclass(frozen=True)
class Layout:
    """Where the stories of a folder are: in the folders of its splits, or all in `root`; and what is ignored."""

    root: Path
    splits: dict[str, Path] = field(default_factory=dict)
    passed_over: tuple[Path, ...] = ()

    @property
    def parts(self) -> tuple[str, ...]:
        return tuple(self.splits) or ("all",)


def find_layout(root: Path) -> Layout:
    """Return the layout of a folder, which may be a clone of a data set's repository."""
    inside = visible(root)
    splits = _splits(root, inside)
    if len(splits) == 2:
        beside = (path for path in inside if path not in splits.values())
        return Layout(root, splits, (*beside, *(path for split in splits.values() for path in _unused(split))))
    if splits:  # Some of its stories are held out for validation.
        (only,) = splits.values()
        return Layout(only, {}, (*(path for path in inside if path != only), *_unused(only)))
    data = root / "data"
    if data in inside and data.is_dir() and not has_list(root) and not pictures_in(root) and _is_data(data):
        inner = find_layout(data)
        return Layout(inner.root, inner.splits, (*(path for path in inside if path != data), *inner.passed_over))
    return Layout(root, {}, _unused(root))


def _splits(root: Path, inside: list[Path]) -> dict[str, Path]:
    """Return the folders that are splits; a story may be called "train" or "test" as well."""
    folders = {path.name.lower(): path for path in inside if path.is_dir()}
    found = {
        part: next((folders[name] for name in names if name in folders), None) for part, names in SPLIT_NAMES.items()
    }
    splits = {part: path for part, path in found.items() if path is not None}
    if len(splits) == 2:
        return splits
    others = [path for path in folders.values() if path not in splits.values() and _has_pictures(path)]
    if has_list(root) or pictures_in(root) or any(not _is_data(path) and others for path in splits.values()):
        return {}
    return splits


def _is_data(folder: Path) -> bool:
    """Return whether a folder contains stories, rather than being one."""
    return has_list(folder) or any(_has_pictures(path) for path in visible(folder) if path.is_dir())


def _has_pictures(folder: Path) -> bool:
    return (
        has_list(folder)
        or bool(pictures_in(folder))
        or any(pictures_in(path) for path in visible(folder) if path.is_dir())
    )


def has_list(folder: Path) -> bool:
    """Return whether a folder has a file that lists its stories."""
    return any((folder / name).is_file() for name in (STORIES, *METADATA))


def _unused(root: Path) -> tuple[Path, ...]:
    """Return what is neither a story, nor a picture, nor a text of one."""
    inside = visible(root)
    if (root / STORIES).is_file():
        return ()
    files = [path for path in inside if path.is_file() and path.suffix.lower() not in PICTURES]
    lists = [root / name for name in METADATA if (root / name).is_file()]
    if lists:
        return tuple(path for path in files if path != lists[0])
    texts = texts_in(root)
    told = {texts.get(path.stem) for path in pictures_in(root)}
    unused = [path for path in files if path not in told]
    for folder in (path for path in inside if path.is_dir()):
        unused += _unused_of_story(folder) if pictures_in(folder) else [folder]
    return tuple(unused)


def _unused_of_story(folder: Path) -> list[Path]:
    """Return what is neither a page of a story's folder nor its title."""
    texts = texts_in(folder)
    used = {*pages_in(folder), *(texts.get(path.stem) for path in pictures_in(folder))}
    return [path for path in visible(folder) if path not in used and path.name.lower() not in TITLES]


def natural(path: Path) -> list[Any]:
    """Return a sort key that puts page 2 before page 10."""
    return [(0, int(part), "") if part.isdecimal() else (1, 0, part) for part in re.split(r"(\d+)", path.name.lower())]


def pictures_in(folder: Path) -> list[Path]:
    """Return the pictures of a folder in the order of their numbers."""
    return sorted((path for path in visible(folder) if path.suffix.lower() in PICTURES and path.is_file()), key=natural)


def texts_in(folder: Path) -> dict[str, Path]:
    """Return the .txt files of a folder by their names without the ending, which may be in capitals."""
    files = [path for path in visible(folder) if path.suffix.lower() == ".txt" and path.is_file()]
    return {path.stem: path for path in sorted(files, key=lambda path: path.suffix == ".txt")}


def pages_in(folder: Path) -> list[Path]:
    """Return the pages of a story's folder in the order of their numbers: its pictures, and the .txt files that are
    named like these and have no picture.
    """
    pictures = pictures_in(folder)
    stems, names = {path.stem for path in pictures}, {_numbered(path) for path in pictures}
    alone = [path for stem, path in texts_in(folder).items() if stem not in stems and _numbered(path) in names]
    return sorted([*pictures, *alone], key=natural)


def _numbered(path: Path) -> str:
    """Return a name without its ending, with a sign in the place of every number."""
    return re.sub(r"[0-9]+", "#", path.stem)
