"""Checkpoints that survive a kill, a full disk and a flipped bit: safetensors and JSON, published atomically.

A run's folder holds ``step_00001234/`` folders, each complete in itself:

    <name>.safetensors   one file for each dictionary of tensors (model, optimizer, ...)
    state.json           everything else that a resume needs
    ...                  whatever `extra` wrote, e.g. a ``model/`` folder to generate from
    manifest.json        the size and SHA-256 of every file above

Nothing is ever unpickled, and only what the manifest vouches for is opened.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import re
import shutil
import warnings
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, ClassVar, Self

from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor
from torch.optim import Optimizer

from modules.story import UserError

MANIFEST = "manifest.json"
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
    """Write ``run_dir/step_N`` so that at every instant a complete checkpoint exists, then prune older ones.

    Args:
        run_dir: The run's folder, created if absent. Hold a `RunLock` on it: one writer at a time.
        step: The step N that names the folder; an existing folder of the same step is replaced.
        tensors: For each name, a flat dictionary of tensors of any shape, dtype, device or stride.
        metadata: JSON-able state; floats come back exactly.
        keep_last: How many checkpoints to keep, this one included; 0 or less keeps all. Later steps are never pruned.
        extra: Called with the unpublished folder to add files of its own, which the manifest then covers.

    Returns:
        The published folder.

    Raises:
        UserError: The disk is full or the folder cannot be written. Earlier checkpoints are intact.
        ValueError: A name of `tensors` cannot be a file name.
        TypeError: `metadata` is not JSON-able.
    """
    for name in tensors:
        if not _GROUP_NAME.fullmatch(name):
            raise ValueError(f"checkpoint tensors named {name!r}: a name may hold letters, digits, '_', '.' and '-'")
    state = json.dumps(metadata, indent=1)
    target = Path(run_dir) / f"step_{step:08d}"
    temporary = target.with_name(f"{target.name}.tmp-{os.getpid()}")
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        _clear_leftovers(target.parent)
        temporary.mkdir()
        for name, group in tensors.items():
            save_file(_storable(group), temporary / f"{name}.safetensors")
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
    """Return the newest checkpoint of `run_dir` that verifies, or None; each one passed over is named in a warning."""
    for path in _checkpoints(Path(run_dir)):
        problem = verify_checkpoint(path)
        if problem is None:
            return path
        warnings.warn(f"checkpoint {path} is not usable ({problem}); trying the one before it", stacklevel=2)
    return None


def verify_checkpoint(path: Path) -> str | None:
    """Return what is wrong with the checkpoint folder `path`, or None if every file is as its manifest says."""
    try:
        for name, entry in _read_manifest(path).items():
            file = path / name
            if not file.resolve().is_relative_to(path.resolve()):
                return f"{MANIFEST} names {name!r}, which is outside the checkpoint"
            if not file.is_file():
                return f"{name} is missing"
            if file.stat().st_size != entry["size"]:
                return f"{name} has {file.stat().st_size} bytes, {entry['size']} expected"
            if _sha256(file) != entry["sha256"]:
                return f"{name} is corrupt: its SHA-256 differs"
    except (OSError, ValueError, RecursionError) as error:
        return str(error)
    return None


def load_checkpoint(path: Path) -> tuple[dict[str, dict[str, Tensor]], dict[str, Any]]:
    """Return the tensors (on the CPU) and the metadata of a checkpoint folder, as they were given to `save_checkpoint`.

    Raises:
        UserError: `path` is no checkpoint of this program, or it is damaged.
    """
    path = Path(path)
    problem = verify_checkpoint(path)
    if problem is None:
        try:
            return _read(path)
        except (OSError, TypeError, ValueError, RecursionError, SafetensorError) as error:
            problem = str(error)
    raise UserError(f"Cannot load the checkpoint {path} ({problem}): give a step_N folder that training wrote.")


def flatten_optimizer(optimizer: Optimizer) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Split an optimizer's state into flat tensors (``state.12.exp_avg``, the live ones) and JSON-able hyper-parameters.

    Raises:
        TypeError: The optimizer keeps something that is neither a tensor nor plain data.
    """
    snapshot = optimizer.state_dict()
    tensors: dict[str, Tensor] = {}
    metadata: dict[str, Any] = {"state": {}, "param_groups": []}
    for index, entries in snapshot["state"].items():
        tensors |= {f"state.{index}.{key}": value for key, value in entries.items() if isinstance(value, Tensor)}
        plain = {key: _encode(value) for key, value in entries.items() if not isinstance(value, Tensor)}
        metadata["state"][str(index)] = plain
    for index, group in enumerate(snapshot["param_groups"]):
        tensors |= {f"group.{index}.{key}": value for key, value in group.items() if isinstance(value, Tensor)}
        metadata["param_groups"].append({key: _encode(value) for key, value in group.items() if not isinstance(value, Tensor)})
    return tensors, metadata


def restore_optimizer(optimizer: Optimizer, tensors: Mapping[str, Tensor], metadata: Mapping[str, Any]) -> None:
    """Put what `flatten_optimizer` returned into `optimizer`, bit for bit, on the devices of its parameters.

    Raises:
        UserError: The optimizer that was saved has other parameter groups.
    """
    state = {int(index): {key: _decode(value) for key, value in entries.items()} for index, entries in metadata["state"].items()}
    groups = [{key: _decode(value) for key, value in group.items()} for group in metadata["param_groups"]]
    for name, value in tensors.items():
        kind, index, key = name.split(".", 2)
        owner = state.setdefault(int(index), {}) if kind == "state" else groups[int(index)]
        owner[key] = value.clone()
    try:
        optimizer.load_state_dict({"state": state, "param_groups": groups})
    except ValueError as error:
        raise UserError(f"The checkpoint's optimizer does not fit this model ({error}): resume with the same configuration.") from error
    _restore_dtypes(optimizer, state, groups)


class RunLock:
    """Context manager that holds a run's folder for one process; the system lets go of it however the process ends.

    Raises:
        UserError: Another process holds the folder, or it cannot be written.
    """

    _held: ClassVar[set[int]] = set()

    def __init__(self, run_dir: Path) -> None:
        self.path = Path(run_dir) / ".lock"

    def __enter__(self) -> Self:
        import fcntl  # Here, because Windows lacks it: there one can still read checkpoints.

        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            self._descriptor = os.open(self.path, os.O_RDWR | os.O_CREAT, 0o644)
        except OSError as error:
            raise UserError(f"Cannot write into {self.path.parent} ({error.strerror}): choose a writable output folder.") from error
        try:
            fcntl.flock(self._descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            os.close(self._descriptor)
            raise UserError(f"Another process is training into {self.path.parent}: stop it or choose another output folder.") from error
        except OSError as error:  # Some cluster file systems have no locks; that alone should not forbid training on them.
            warnings.warn(f"{self.path.parent} cannot be locked ({error.strerror}): take care to start one training only", stacklevel=2)
        RunLock._held.add(self._descriptor)
        return self

    def __exit__(self, *_: object) -> None:
        if self._descriptor in RunLock._held:
            RunLock._held.discard(self._descriptor)
            os.close(self._descriptor)

    @classmethod
    def _forget(cls) -> None:
        """Close a forked child's copies: an orphaned data worker would otherwise keep a dead run's folder locked."""
        while cls._held:
            os.close(cls._held.pop())


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=RunLock._forget)


def _storable(group: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Tensors as safetensors wants them: contiguous, no two in one storage. Copies only where it must."""
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
    """Bring every file of `folder` to the disk and write the manifest that vouches for them."""
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    for file in files:
        _sync(file)
    entries = {file.relative_to(folder).as_posix(): {"size": file.stat().st_size, "sha256": _sha256(file)} for file in files}
    (folder / MANIFEST).write_text(json.dumps({"version": 1, "files": entries}, indent=1), encoding="utf-8")
    _sync(folder / MANIFEST)
    for directory in [path for path in folder.rglob("*") if path.is_dir()] + [folder]:
        _sync(directory)


def _publish(temporary: Path, target: Path) -> None:
    """Give the finished folder its name. A folder cannot replace a full one: the old steps aside, still readable, till then."""
    aside = target.with_name(f"{target.name}.old-{os.getpid()}")
    if target.exists():
        os.replace(target, aside)
    os.replace(temporary, target)
    _sync(target.parent)
    shutil.rmtree(aside, ignore_errors=True)


def _clear_leftovers(run_dir: Path) -> None:
    """Undo what runs that died in the middle of a save left behind."""
    for path in run_dir.iterdir():
        match = _LEFTOVER.fullmatch(path.name)
        if match is None or _is_another_running(int(match[3])):
            continue
        if match[2] == "old" and not (run_dir / match[1]).exists():
            os.replace(path, run_dir / match[1])
        else:
            shutil.rmtree(path, ignore_errors=True)


def _is_another_running(pid: int) -> bool:
    if pid == os.getpid() or os.name == "nt":  # On Windows os.kill would end the process instead of asking for it.
        return False
    try:
        os.kill(pid, 0)
    except (ProcessLookupError, OverflowError):
        return False
    except PermissionError:
        return True
    return True


def _prune(newest: Path, keep_last: int) -> None:
    if keep_last > 0:
        older = [path for path in _checkpoints(newest.parent) if _step_of(path) < _step_of(newest)]
        for path in older[keep_last - 1 :]:
            shutil.rmtree(path, ignore_errors=True)


def _checkpoints(run_dir: Path) -> list[Path]:
    """Checkpoint folders, newest first; one that had stepped aside when its run died comes after its replacement."""
    folders: list[Path] = []
    with contextlib.suppress(FileNotFoundError, NotADirectoryError):
        folders = [path for path in run_dir.iterdir() if _STEP.fullmatch(path.name)]
    return sorted(folders, key=lambda path: (_step_of(path), path.suffix == ""), reverse=True)


def _step_of(path: Path) -> int:
    return int(_STEP.fullmatch(path.name)[1])


def _read(path: Path) -> tuple[dict[str, dict[str, Tensor]], dict[str, Any]]:
    state = json.loads((path / STATE).read_text(encoding="utf-8"))
    if not isinstance(state, dict):
        raise TypeError(f"{STATE} holds no object")
    files = [path / name for name in _read_manifest(path) if "/" not in name and name.endswith(".safetensors")]
    return {file.stem: load_file(file, device="cpu") for file in files}, state


def _read_manifest(path: Path) -> dict[str, dict[str, Any]]:
    """The manifest's entries by relative path; ValueError says what is wrong with it."""
    if not (path / MANIFEST).is_file():
        raise ValueError(f"{MANIFEST} is missing")
    manifest = json.loads((path / MANIFEST).read_text(encoding="utf-8"))
    files = manifest.get("files") if isinstance(manifest, dict) else None
    if not isinstance(files, dict) or STATE not in files:
        raise ValueError(f"{MANIFEST} does not list {STATE}")
    if not all(isinstance(entry, dict) and {"size", "sha256"} <= entry.keys() for entry in files.values()):
        raise ValueError(f"{MANIFEST} has an entry without size and sha256")
    return files


def _sha256(file: Path) -> str:
    with open(file, "rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def _sync(path: Path) -> None:
    if os.name == "nt" and path.is_dir():  # Windows cannot open a folder; its file system journals the names itself.
        return
    descriptor = os.open(path, os.O_RDWR if os.name == "nt" else os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _encode(value: Any) -> Any:
    """Plain data as JSON keeps it; tuples are marked, because betas must come back as one."""
    if isinstance(value, tuple):
        return {"tuple": [_encode(item) for item in value]}
    if isinstance(value, list):
        return [_encode(item) for item in value]
    if value is None or isinstance(value, bool | int | float | str):
        return value
    raise TypeError(f"optimizer state of type {type(value).__name__} cannot be stored as JSON")


def _decode(value: Any) -> Any:
    if isinstance(value, dict):
        return tuple(_decode(item) for item in value["tuple"])
    return [_decode(item) for item in value] if isinstance(value, list) else value


def _restore_dtypes(optimizer: Optimizer, state: Mapping[int, Mapping[str, Any]], groups: list[dict[str, Any]]) -> None:
    """torch casts state to its parameter's dtype on loading; fp32 moments of bf16 weights must stay fp32."""
    indices = [index for group in groups for index in group["params"]]
    parameters = [parameter for group in optimizer.param_groups for parameter in group["params"]]
    for index, parameter in zip(indices, parameters, strict=True):
        for key, value in state.get(index, {}).items():
            if isinstance(value, Tensor) and optimizer.state[parameter][key].dtype != value.dtype:
                optimizer.state[parameter][key] = value.to(optimizer.state[parameter][key].device)
