"""Versions that do not fit are reported with the command that mends them, never as a broken config."""

from __future__ import annotations

from argparse import Namespace
from dataclasses import replace
from importlib import metadata
from pathlib import Path

import pytest
from transformers.integrations import peft as integration

from modules.commands.cli import execute
from modules.common import versions
from modules.common.errors import UserError
from modules.common.versions import MEND, check_version, version_problem
from modules.presets import PRESETS
from modules.story_model.story_model import build_model

INSTALLED = {"peft": "0.21.2", "transformers": "5.24.0", "torch": "2.13.0+cpu"}


@pytest.fixture
def installed(monkeypatch: pytest.MonkeyPatch) -> None:
    def version(name: str) -> str:
        if name not in INSTALLED:
            raise metadata.PackageNotFoundError(name)
        return INSTALLED[name]

    monkeypatch.setattr(metadata, "version", version)


@pytest.mark.usefixtures("installed")
@pytest.mark.parametrize(
    ("package", "bounds", "needed_by", "message"),
    [
        ("peft", ">=0.22", "transformers", "peft 0.21.2 is too old for transformers 5.24.0 (which needs >=0.22)"),
        ("transformers", ">=5.17,<5.24", "", "transformers 5.24.0 is too new for this program"),
        ("torch", "==2.12.0", "", "torch 2.13.0+cpu is too new for this program"),
        ("diffusers", ">=0.42", "", "diffusers is not installed, this program needs it"),
    ],
)
def test_unfit_versions_are_named(package, bounds, needed_by, message):
    with pytest.raises(UserError) as caught:
        check_version(package, bounds, needed_by)
    assert str(caught.value).startswith(message) and str(caught.value).endswith(f": {MEND}")


@pytest.mark.usefixtures("installed")
def test_versions_within_their_bounds_pass():
    check_version("peft", ">=0.21,<0.22")
    check_version("torch", "==2.13.0")


@pytest.mark.usefixtures("installed")
def test_errors_about_versions_are_explained(tmp_path: Path, monkeypatch):
    monkeypatch.setattr(versions, "REQUIREMENTS", tmp_path / "requirements.txt")
    (tmp_path / "requirements.txt").write_text("# Ours.\ntorch==2.13.0\ndiffusers>=0.42\npeft>=0.22  # For LoRA.\n")
    refused = ImportError("cannot import name 'x' from 'peft'")
    assert version_problem(refused) == f"peft 0.21.2 is too old for this program (which needs >=0.22): {MEND}"
    (tmp_path / "requirements.txt").write_text("torch==2.13.0\n")
    assert version_problem(refused) == f"the installed packages do not fit together ({refused}): {MEND}"
    assert version_problem(ValueError("dim must be a multiple of 4")) is None


def test_a_refused_peft_is_no_broken_config(monkeypatch):
    monkeypatch.setattr(integration, "MIN_PEFT_VERSION", "99.0")
    tiny = PRESETS["tiny"]
    config = replace(tiny, text_decoder=replace(tiny.text_decoder, tuning="lora"))
    with pytest.raises(UserError, match=r"^peft \S+ is too old for transformers \S+ \(which needs >=99\.0\): pip"):
        build_model(config, "this config")


def test_any_refusal_of_a_library_is_no_broken_config(monkeypatch):
    def refuse(*_args, **_options):
        raise ImportError("peft>=99.0 is required")

    monkeypatch.setattr("modules.story_model.parts.TextDecoder", refuse)
    with pytest.raises(UserError, match="do not fit together") as caught:
        build_model(PRESETS["tiny"], "this config")
    assert "describes no model" not in str(caught.value)


def test_a_command_reports_packages_that_do_not_fit(capsys):
    def refused(_args):
        raise ImportError("huggingface-hub>=99.0 is required", name="huggingface_hub")

    assert execute(refused, Namespace()) == 2
    assert "huggingface-hub>=99.0 is required" in (line := capsys.readouterr().err) and MEND in line


def test_a_broken_import_of_our_own_is_not_hidden():
    def broken(_args):
        raise ImportError("cannot import name 'x'", name="modules.story")

    with pytest.raises(ImportError, match="cannot import name"):
        execute(broken, Namespace())
