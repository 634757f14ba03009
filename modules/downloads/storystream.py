"""StoryStream: long cartoons, with captions in a zip file and frames in a tar file on the Hub."""

from __future__ import annotations

import argparse
import hashlib
import json
import tarfile
import zipfile
import zlib
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from modules.common.errors import UserError
from modules.data.records import RecordError
from modules.downloads.record import Row, Source, SourceStep, SourceStory, counted, first_sentence, require

SUBSETS = {"George": "george", "Rabbids": "rabbids", "The_Land": "the_land"}
FRAMES = 30


class StoryStream(Source):
    """Cartoons of 30 captioned frames, cut into windows (StoryStream).

    8,595 stories of 30 frames; the archive has 8.4 GB (The_Land), 12.2 GB (Rabbids) or 27.8 GB (George).
    Source: TencentARC/StoryStream on the Hub. The archive of frames must be downloaded completely into the Hub's cache,
    because it cannot be read from the middle; a stopped download is resumed.
    Licence: Apache 2.0 for the captions; the frames belong to the studios.
    Citation: Yang et al. 2024 (SEED-Story), arXiv 2407.08683.

        python download_data.py storystream --subset The_Land --window 10
    """

    name, parts = "storystream", ("all",)
    license, terms = (
        "Apache 2.0 (captions)",
        "frames of cartoons belong to their studios: for research, do not pass them on",
    )

    def __init__(self, args: argparse.Namespace) -> None:
        self.repo, self.subset, self.window, self.limit = args.repo, args.subset, args.window, args.max_stories
        self.unpacked, self.probe = args.staging / "unpacked", args.probe

    @classmethod
    def add_flags(cls, parser: argparse.ArgumentParser) -> None:
        parser.add_argument("--repo", default="TencentARC/StoryStream", metavar="ID", help="another copy on the Hub")
        parser.add_argument(
            "--subset", choices=tuple(SUBSETS), default="The_Land", help="which cartoon (The_Land, the smallest)"
        )
        parser.add_argument(
            "--window",
            type=int,
            choices=range(1, FRAMES + 1),
            default=10,
            metavar="STEPS",
            help="steps of a story (10)",
        )

    def rows(self, _part: str, place: Any) -> Iterator[Row]:
        from modules.downloads.hub_files import HubDataset

        dataset, stem = HubDataset(self.repo), SUBSETS[self.subset]
        dataset.check()
        lines = list(_zipped_lines(dataset.fetch(f"{self.subset}/{stem}_story.zip")))
        if self.limit is not None:  # Each line gives at least one window, so further frames need not be unpacked.
            lines = lines[: self.limit]
        wanted = {
            _key(image)
            for _, line in lines
            if isinstance(line, dict)
            for image in line.get("images") or ()
            if isinstance(image, str)
        }
        missing = {key for key in wanted if not self._path(key).is_file()}
        if missing and not self.probe:
            self._unpack(dataset.fetch(f"{self.subset}/{stem}.tar.gz"), missing)
        yield from counted(lines, place)

    def stories(self, row: Row) -> Iterable[SourceStory]:
        name, images, captions = require(row.value, "id", "images", "captions")
        if not isinstance(images, list) or not isinstance(captions, list) or not images or len(images) != len(captions):
            raise RecordError("its numbers of images and captions differ")
        pages = [SourceStep(caption, self._path(_key(image))) for image, caption in zip(images, captions, strict=True)]
        for start in range(0, len(pages), self.window):
            window = tuple(pages[start : start + self.window])
            if start == 0 or len(window) == self.window:  # A shorter rest is left out.
                yield SourceStory(
                    f"{self.subset}-{name}-{start // self.window}", first_sentence(str(window[0].text)), window
                )

    def _unpack(self, archive: Path, missing: set[str]) -> None:
        """Extract the missing frames, reading the archive once and no further than needed."""
        self.unpacked.mkdir(parents=True, exist_ok=True)
        try:
            with tarfile.open(archive, "r|gz") as tar:
                for member in tar:
                    key = _key(member.name)
                    content = tar.extractfile(member) if key in missing and member.isfile() else None
                    if content is not None:
                        partial = self._path(key).with_suffix(".part")
                        partial.write_bytes(content.read())
                        partial.rename(self._path(key))
                        missing.discard(key)
                        if not missing:
                            return
        except (tarfile.TarError, EOFError, zlib.error) as error:
            raise UserError(
                f"{archive} is damaged ({error or type(error).__name__}): delete it and run again"
            ) from None

    @property
    def roots(self) -> tuple[Path, ...]:
        return (self.unpacked,)

    def _path(self, key: str) -> Path:
        """Return the path of a frame: a hash, so that no name in the archive can lead out of the folder."""
        return self.unpacked / f"{hashlib.sha256(key.encode()).hexdigest()[:24]}.jpg"


def _key(name: str) -> str:
    """Return the common part of a frame's name in captions and archive: its folder and file."""
    return "/".join(name.replace("\\", "/").split("/")[-2:])


def _zipped_lines(path: Path) -> Iterator[tuple[str, Any]]:
    try:
        with zipfile.ZipFile(path) as archive:
            for name in sorted(name for name in archive.namelist() if name.endswith(".jsonl")):
                for number, line in enumerate(archive.read(name).splitlines(), start=1):
                    try:
                        yield f"{name} line {number}", json.loads(line)
                    except ValueError:
                        yield f"{name} line {number}", RecordError("it is not JSON")
    except (zipfile.BadZipFile, zlib.error) as error:
        raise UserError(f"{path} is damaged ({error}): delete it and run again") from None
