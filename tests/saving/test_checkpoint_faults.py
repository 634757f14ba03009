"""Checkpoints that are damaged, or that trouble hits while they are written."""

from __future__ import annotations

import errno
import json
import os
from pathlib import Path

import pytest

from modules.common.errors import UserError
from modules.saving.checkpoint import latest_checkpoint, load_checkpoint, save_checkpoint, verify_checkpoint
from tests.support.checkpoints import flip_bit, run_python, save, steps

# Damage


def rewrite_manifest(path: Path, change) -> None:
    manifest = json.loads((path / "manifest.json").read_text())
    change(manifest["files"])
    (path / "manifest.json").write_text(json.dumps(manifest))


DAMAGE = {
    "truncated": (lambda path: os.truncate(path / "model.safetensors", 100), "bytes"),
    "bit flip": (lambda path: flip_bit(path / "model.safetensors"), "SHA-256"),
    "bit flip in state": (lambda path: flip_bit(path / "state.json"), "state.json"),
    "missing file": (lambda path: (path / "model.safetensors").unlink(), "model.safetensors is missing"),
    "missing manifest": (lambda path: (path / "manifest.json").unlink(), "manifest.json is missing"),
    "torn manifest": (lambda path: os.truncate(path / "manifest.json", 40), "line|Unterminated|Expecting"),
    "binary manifest": (lambda path: (path / "manifest.json").write_bytes(b"\xff\xfe"), "codec"),
    "deep manifest": (lambda path: (path / "manifest.json").write_text("[" * 200_000), "recursion"),
    "foreign manifest": (lambda path: (path / "manifest.json").write_text("[]"), "lists no files"),
    "empty folder": (lambda path: [file.unlink() for file in path.iterdir()], "manifest.json is missing"),
    "entry without hash": (
        lambda path: rewrite_manifest(path, lambda files: files["state.json"].pop("sha256")),
        "sha256",
    ),
}


@pytest.mark.parametrize("damage", DAMAGE)
def test_a_damaged_checkpoint_is_named_and_skipped(tmp_path, damage):
    good, bad = save(tmp_path, 1), save(tmp_path, 2)
    do, problem = DAMAGE[damage]
    do(bad)
    with pytest.warns(UserWarning, match=f"step_00000002 is not usable.*({problem})"):
        assert latest_checkpoint(tmp_path) == good
    with pytest.raises(UserError, match="step_00000002"):
        load_checkpoint(bad)


def test_a_foreign_folder_or_file_is_refused(tmp_path):
    (tmp_path / "notes.txt").write_text("hello")
    for path in (tmp_path, tmp_path / "notes.txt", tmp_path / "absent"):
        with pytest.raises(UserError, match="Cannot load the checkpoint"):
            load_checkpoint(path)


@pytest.mark.parametrize("name", ["../secret", "/etc/hostname", "link"])
def test_a_manifest_cannot_reach_outside_its_folder(tmp_path, name):
    good, bad = save(tmp_path, 1), save(tmp_path, 2)
    (tmp_path / "secret").write_text("secret")
    (bad / "link").symlink_to(tmp_path / "secret")
    rewrite_manifest(bad, lambda files: files.update({name: {"size": 6, "sha256": "0"}}))
    with pytest.warns(UserWarning, match="outside the folder"):
        assert latest_checkpoint(tmp_path) == good


@pytest.mark.parametrize("name", ["../up", "a/b", "", ".hidden"])
def test_tensor_names_that_are_no_file_names_are_refused(tmp_path, name):
    with pytest.raises(ValueError, match="letters"):
        save_checkpoint(tmp_path / "run", 1, {name: {}}, {}, 1)
    assert not (tmp_path / "run").exists()


def test_a_valid_hash_does_not_make_a_file_safetensors(tmp_path):
    path = save(tmp_path, 1, extra=lambda folder: (folder / "more.safetensors").write_bytes(b"not tensors"))
    assert verify_checkpoint(path) is None
    with pytest.raises(UserError, match="Cannot load"):
        load_checkpoint(path)


def test_pickles_are_never_opened(tmp_path):
    trap = b"cbuiltins\nexec\n(S'raise SystemExit(99)'\ntR."
    path = save(tmp_path, 1, extra=lambda folder: (folder / "listed.pt").write_bytes(trap))
    (path / "stray.pkl").write_bytes(trap)
    (path / "stray.safetensors").write_bytes(trap)
    assert list(load_checkpoint(path)[0]) == ["model"]


# Trouble while writing


def test_kill_in_the_middle_of_a_save_leaves_the_previous_one(tmp_path):
    save(tmp_path, 1)
    code = (
        "import os, signal, sys, torch; from pathlib import Path\n"
        "from modules.saving.checkpoint import save_checkpoint\n"
        "kill = lambda folder: os.kill(os.getpid(), signal.SIGKILL)\n"
        "save_checkpoint(Path(sys.argv[1]), 2, {'model': {'w': torch.zeros(9)}}, {}, 1, kill)"
    )
    assert run_python(code, tmp_path).returncode == -9
    assert len(steps(tmp_path)) == 2  # The torn folder has no final name, so nobody takes it for a checkpoint.
    assert latest_checkpoint(tmp_path).name == "step_00000001"
    save(tmp_path, 2)
    assert steps(tmp_path) == ["step_00000001", "step_00000002"]


@pytest.mark.parametrize("allowed", range(7))
def test_disk_full_at_any_sync_leaves_the_previous_one(tmp_path, monkeypatch, allowed):
    save(tmp_path, 1)
    real, left = os.fsync, [allowed]

    def fsync(descriptor: int) -> None:
        left[0] -= 1
        if left[0] < 0:
            raise OSError(errno.ENOSPC, "No space left on device")
        real(descriptor)

    monkeypatch.setattr(os, "fsync", fsync)
    if allowed < 5:  # Two files, the manifest, the folder, its parent.
        with pytest.raises(UserError, match=r"step_00000002 .No space left on device"):
            save(tmp_path, 2, keep_last=1)
        assert "step_00000001" in steps(tmp_path)
    else:
        save(tmp_path, 2, keep_last=1)
    assert latest_checkpoint(tmp_path) is not None
    assert not [name for name in steps(tmp_path) if ".tmp-" in name]


def test_disk_full_while_tensors_are_written(tmp_path):
    save(tmp_path, 1)
    code = (
        "import resource, sys, torch; from pathlib import Path\n"
        "from modules.saving.checkpoint import save_checkpoint; from modules.common.errors import UserError\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 20, 1 << 20))\n"
        "try: save_checkpoint(Path(sys.argv[1]), 2, {'model': {'w': torch.zeros(1 << 20)}}, {}, 1)\n"
        "except UserError as error: print(error)"
    )
    result = run_python(code, tmp_path)
    assert "Could not write the checkpoint" in result.stdout, result.stderr
    assert steps(tmp_path) == ["step_00000001"]


def test_errors_of_extra_pass_through_and_leave_nothing(tmp_path):
    def extra(_: Path) -> None:
        raise KeyError("config")

    with pytest.raises(KeyError, match="config"):
        save(tmp_path, 1, extra=extra)
    assert steps(tmp_path) == []


def test_an_unwritable_folder_is_a_user_error(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="Could not write the checkpoint"):
        save(tmp_path / "file", 1)


def test_metadata_that_is_not_json_is_refused_before_writing(tmp_path):
    with pytest.raises(TypeError):
        save_checkpoint(tmp_path / "run", 1, {}, {"path": tmp_path}, 1)
    assert not (tmp_path / "run").exists()
