"""What this program may overwrite: only files that it wrote, and never the files that it reads.

The manifest of a folder (`sums.py`) tells which files these are. A file that was changed since counts as the user's.
"""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path

from modules.common.errors import UserError
from modules.common.files import STAGING, check_writable, is_leftover
from modules.common.sums import MANIFEST, Sums, read_sums, store_sums, sum_of

MARK = "story-generative-model"  # In the first bytes of every report that is a single file.
MARKED_BYTES = 4096
UNFINISHED = {"size": None, "sha256": None}  # The entry of a file that is being written.


def refuse_overlap(output: Path, sources: Iterable[Path], what: str = "what is read") -> None:
    """Raise UserError if `output` is one of the sources, or one of them lies inside the other; links are followed."""
    written = output.resolve()
    for source in sources:
        read = source.resolve()
        if written == read:
            raise UserError(f"{output} is {what}, which is never overwritten: choose another --output")
        if written.is_relative_to(read):
            raise UserError(f"{output} is inside {source}, {what}: choose another --output")
        if read.is_relative_to(written):
            raise UserError(f"{output} contains {source}, {what}: choose another --output")


def refuse_foreign(folder: Path, sums: Sums | None = None, listed_in: str = MANIFEST) -> None:
    """Raise UserError if a folder that is to be replaced has any file that this program did not write.

    `sums` are those of its files, by default of its manifest; the file `listed_in`, where they are stored, has none.
    """
    sums = _known(folder) if sums is None else sums
    for path in sorted(folder.rglob("*")):
        name = path.relative_to(folder).as_posix()
        is_folder = path.is_dir() and not path.is_symlink()
        is_ours = name in (listed_in, STAGING) or is_leftover(path.name)
        if not is_ours and not is_folder and not _is_ours(path, sums.get(name)):
            raise _foreign(path)


def check_report(path: Path, overwrite: bool = False) -> None:
    """Raise UserError if a report cannot be written to `path`, or if a file that is there is not a report.

    A report is known by the `MARK` near its beginning. With `overwrite` any file is replaced; never a folder.
    """
    if os.path.lexists(path) and not path.is_dir() and not overwrite and not _is_marked(path):
        raise UserError(
            f"{path} exists and is not a report of this program: choose another file, or replace it with --overwrite"
        )
    check_writable(path)


def _is_marked(path: Path) -> bool:
    if path.is_symlink() or not path.is_file():
        return False
    try:
        with open(path, "rb") as file:
            return MARK.encode() in file.read(MARKED_BYTES)
    except OSError:
        return False


class OwnFiles:
    """The files of a folder that this program writes; the user's files beside them stay as they are."""

    def __init__(self, folder: Path) -> None:
        self.folder, self._sums = folder, _known(folder)

    @property
    def names(self) -> set[str]:
        """The files that an earlier call wrote, by their paths within the folder."""
        return set(self._sums)

    def check(self, names: Iterable[str]) -> None:
        """Raise UserError if one of these files exists and is not ours."""
        for name in names:
            path = self.folder / name
            if os.path.lexists(path) and not _is_ours(path, self._sums.get(name)):
                raise _foreign(path)
        if os.path.lexists(self.folder / MANIFEST) and not self._sums and _has_no_list(self.folder):
            raise _foreign(self.folder / MANIFEST)

    def start(self, names: Iterable[str]) -> None:
        """As `check`, then note that these files are being written: a run that is killed leaves no foreign files."""
        names = list(names)
        self.check(names)
        self._sums |= {name: dict(UNFINISHED) for name in names}
        store_sums(self.folder, self._sums)

    def finish(self, names: Iterable[str], removed: Iterable[str] = ()) -> None:
        """Write the sums of these files, and forget those that were removed."""
        self._sums |= {name: sum_of(self.folder / name) for name in names}
        gone = set(removed)
        store_sums(self.folder, {name: self._sums[name] for name in sorted(self._sums) if name not in gone})


def _known(folder: Path) -> Sums:
    try:
        return read_sums(folder)
    except ValueError:
        return {}


def _has_no_list(folder: Path) -> bool:
    try:
        read_sums(folder)
    except ValueError:
        return True
    return False


def _is_ours(path: Path, entry: dict | None) -> bool:
    if entry is None or path.is_symlink() or not path.is_file():
        return False
    return entry == UNFINISHED or (path.stat().st_size == entry["size"] and sum_of(path) == entry)


def _foreign(path: Path) -> UserError:
    return UserError(
        f"{path} was not written by this program, or was changed since, and is never overwritten: move it away or"
        " choose another --output"
    )
