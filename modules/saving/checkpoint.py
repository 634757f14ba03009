"""Checkpoints that survive a kill, a full disk and a flipped bit: safetensors and JSON, published atomically.

A run's folder holds ``step_00001234/`` folders, each complete in itself:

    <name>.safetensors   one file for each dictionary of tensors (model, optimizer, ...)
    state.json           the rest of the state for resuming
    ...                  files that `extra` wrote, such as a ``model/`` folder to generate from
    manifest.json        the size and SHA-256 of every file above

Nothing is ever unpickled, and only files of the manifest are opened.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import shutil
import warnings
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from modules.common.errors import UserError
from modules.common.files import set_aside
from modules.common.process import is_running
from modules.common.sums import MANIFEST, damage, read_sums, write_sums
from modules.common.tensor_files import save_tensors

STATE = "state.json"
_STEP = re.compile(r"step_([0-9]{8,})(\.old-[0-9]+)?")
_LEFTOVER = re.compile(r"(step_[0-9]{8,})\.(tmp|old)-([0-9]+)")
_GROUP_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]*")


def save_checkpoint(
    run_dir: Path,
    step: int,
    tensors: Mapping[str, Mapping[str, Tensor]],
    metadata: Mapping[str, Any],
    keep_last: int,
    extra: Callable[[Path], None] | None = None,
) -> Path:
    """Write ``run_dir/step_N``, with a complete checkpoint on disk at every instant, then prune older ones.

    Args:
        run_dir: The run folder, created if absent. Take a `FolderLock` on it first: one writer at a time.
        step: The step N that names the folder; an existing folder of the same step is replaced.
        tensors: For each name, a flat dictionary of tensors of any shape, dtype, device or stride.
        metadata: JSON-able state; floats are restored exactly.
        keep_last: How many checkpoints to keep, this one included; 0 or less keeps all. Later steps are never pruned.
        extra: Called with the unpublished folder, to add files, which the manifest then covers.

    Returns:
        The published folder.

    Raises:
        UserError: The disk is full or the folder cannot be written. Earlier checkpoints are intact.
        ValueError: A name of `tensors` cannot be a file name.
        TypeError: `metadata` is not JSON-able.
    """
    for name in tensors:
        if not _GROUP_NAME.fullmatch(name):
            raise ValueError(f"checkpoint tensors named {name!r}: a name may contain letters, digits, '_', '.' and '-'")
    state = json.dumps(metadata, indent=1)
    target = Path(run_dir) / f"step_{step:08d}"
    temporary = target.with_name(f"{target.name}.tmp-{os.getpid()}")
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        _clear_leftovers(target.parent)
        temporary.mkdir()
        for name, group in tensors.items():
            save_tensors(_storable(group), temporary / f"{name}.safetensors")
        (temporary / STATE).write_text(state, encoding="utf-8")
        if extra is not None:
            extra(temporary)
        _seal(temporary)
        _publish(temporary, target)
    except (OSError, SafetensorError) as error:
        reason = getattr(error, "strerror", None) or str(error)
        raise UserError(
            f"Could not write the checkpoint {target} ({reason}): free some space or choose a writable output folder; "
            "the checkpoints before it are intact."
        ) from error
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
    _prune(target, keep_last)
    return target


def latest_checkpoint(run_dir: Path) -> Path | None:
    """Return the newest valid checkpoint of `run_dir`, or None; a warning names each invalid one."""
    for path in _checkpoints(Path(run_dir)):
        problem = verify_checkpoint(path)
        if problem is None:
            return path
        warnings.warn(f"checkpoint {path} is not usable ({problem}); trying the one before it", stacklevel=2)
    return None


def checkpoint_to_resume(run_dir: Path, restart: bool = False) -> Path | None:
    """Return the newest valid checkpoint of `run_dir`, or None where a run begins.

    Where all checkpoints are damaged, or a trained model has none, `restart` sets aside what is there, to begin
    anew. Raises UserError without it.
    """
    found, model = latest_checkpoint(run_dir), Path(run_dir) / "model"
    left = [*_checkpoints(Path(run_dir)), *([model] if model.exists() else [])]
    if found is not None or not left:
        return found
    if not restart:
        problem = f" ({left[0].name}: {verify_checkpoint(left[0])})" if left[0] != model else ", but it has a model"
        raise UserError(
            f"no checkpoint in {run_dir} can be read{problem}: copy one anew, or begin again with --restart, which sets"
            " what is there aside"
        )
    for path in left:
        warnings.warn(f"{path} was moved to {set_aside(path).name}, and the run begins again", stacklevel=2)
    return None


def verify_checkpoint(path: Path) -> str | None:
    """Return the problem of the checkpoint folder `path`, or None if every file matches the manifest."""
    return damage(path, needed=(STATE,))


def load_checkpoint(path: Path) -> tuple[dict[str, dict[str, Tensor]], dict[str, Any]]:
    """Return the tensors (on the CPU) and the metadata that `save_checkpoint` wrote to a folder.

    Raises:
        UserError: `path` is not a checkpoint of this program, or it is damaged.
    """
    path = Path(path)
    problem = verify_checkpoint(path)
    if problem is None:
        try:
            return _read(path)
        except (OSError, TypeError, ValueError, RecursionError, SafetensorError) as error:
            problem = str(error)
    raise UserError(f"Cannot load the checkpoint {path} ({problem}): give a step_N folder that training wrote.")


def _storable(group: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return contiguous tensors that share no storage, as safetensors requires; copies only where needed."""
    storable: dict[str, Tensor] = {}
    seen: set[int] = set()
    for name, tensor in group.items():
        tensor = tensor.detach().cpu().contiguous()
        if tensor.untyped_storage().data_ptr() in seen:
            tensor = tensor.clone()
        seen.add(tensor.untyped_storage().data_ptr())
        storable[name] = tensor
    return storable


def _seal(folder: Path) -> None:
    """Flush every file of `folder` to disk and write the manifest with their sizes and hashes."""
    for file in (path for path in folder.rglob("*") if path.is_file()):
        _sync(file)
    _sync(write_sums(folder))
    for directory in [path for path in folder.rglob("*") if path.is_dir()] + [folder]:
        _sync(directory)


def _publish(temporary: Path, target: Path) -> None:
    """Rename the finished folder to `target`.

    A folder cannot replace a non-empty one: an old `target` is renamed first, and stays readable until then.
    """
    aside = target.with_name(f"{target.name}.old-{os.getpid()}")
    if target.exists():
        os.replace(target, aside)
    os.replace(temporary, target)
    _sync(target.parent)
    shutil.rmtree(aside, ignore_errors=True)


def _clear_leftovers(run_dir: Path) -> None:
    """Remove or restore the leftovers of runs that died during a save."""
    for path in run_dir.iterdir():
        match = _LEFTOVER.fullmatch(path.name)
        if match is None or _is_another_running(int(match[3])):
            continue
        if match[2] == "old" and not (run_dir / match[1]).exists():
            os.replace(path, run_dir / match[1])
        else:
            shutil.rmtree(path, ignore_errors=True)


def _is_another_running(pid: int) -> bool:
    # On Windows all are taken for dead: no other process writes into the folder of a run, which is locked.
    return pid != os.getpid() and os.name != "nt" and is_running(pid)


def _prune(newest: Path, keep_last: int) -> None:
    if keep_last > 0:
        older = [path for path in _checkpoints(newest.parent) if _step_of(path) < _step_of(newest)]
        for path in older[keep_last - 1 :]:
            if foreign := _foreign_file(path):
                warnings.warn(f"{path} is kept, because {foreign} was not written by this program", stacklevel=3)
            else:
                gone = path.with_name(f"{path.name}.tmp-{os.getpid()}")  # Half of a checkpoint is known as a leftover.
                with contextlib.suppress(OSError):
                    os.replace(path, gone)
                    shutil.rmtree(gone, ignore_errors=True)


def _foreign_file(checkpoint: Path) -> str | None:
    """Return the name of a file that a checkpoint's manifest does not list, None if there is none."""
    try:
        known = {*read_sums(checkpoint), MANIFEST}
    except ValueError:
        known = set()
        if (checkpoint / STATE).is_file():  # A damaged one of ours.
            return None
    names = (path.relative_to(checkpoint).as_posix() for path in sorted(checkpoint.rglob("*")) if not path.is_dir())
    return next((name for name in names if name not in known), None)


def _checkpoints(run_dir: Path) -> list[Path]:
    """Return checkpoint folders, newest first; a renamed old folder comes after its replacement."""
    folders: list[Path] = []
    with contextlib.suppress(FileNotFoundError, NotADirectoryError):
        folders = [path for path in run_dir.iterdir() if _STEP.fullmatch(path.name)]
    return sorted(folders, key=lambda path: (_step_of(path), path.suffix == ""), reverse=True)


def _step_of(path: Path) -> int:
    match = _STEP.fullmatch(path.name)
    assert match is not None, f"{path} is not a checkpoint folder"
    return int(match[1])


def _read(path: Path) -> tuple[dict[str, dict[str, Tensor]], dict[str, Any]]:
    state = json.loads((path / STATE).read_text(encoding="utf-8"))
    if not isinstance(state, dict):
        raise TypeError(f"{STATE} contains no object")
    files = [path / name for name in read_sums(path) if "/" not in name and name.endswith(".safetensors")]
    return {file.stem: load_file(file, device="cpu") for file in files}, state


def _sync(path: Path) -> None:
    if os.name == "nt" and path.is_dir():  # Windows cannot open a folder; its file system journals the names itself.
        return
    descriptor = os.open(path, os.O_RDWR if os.name == "nt" else os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
