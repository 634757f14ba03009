"""A checkpoint either comes back bit for bit or is passed over with a warning; nothing in between."""

import errno
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch import nn

from modules.common.errors import UserError
from modules.common.folder_lock import FolderLock
from modules.saving.checkpoint import latest_checkpoint, load_checkpoint, save_checkpoint, verify_checkpoint
from modules.saving.optimizer_state import flatten_optimizer, restore_optimizer

ROOT = Path(__file__).resolve().parents[2]


def save(run_dir: Path, step: int, keep_last: int = 0, **kwargs) -> Path:
    tensors = {"model": {"weight": torch.full((64,), float(step))}}
    return save_checkpoint(run_dir, step, tensors, {"step": step, "loss": 0.1}, keep_last, **kwargs)


def steps(run_dir: Path) -> list[str]:
    return sorted(path.name for path in run_dir.iterdir())


def raw(tensor: torch.Tensor) -> bytes:
    return bytes(tensor.detach().clone(memory_format=torch.contiguous_format).untyped_storage())


def flip_bit(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)


def run_python(code: str, *arguments: Path) -> subprocess.CompletedProcess:
    return subprocess.run(
        [sys.executable, "-c", code, *map(str, arguments)], cwd=ROOT, capture_output=True, text=True, check=False
    )


# Coming back


def test_every_kind_of_tensor_comes_back_bit_for_bit(tmp_path):
    base = torch.randn(3, 4)
    tensors = {
        "model": {
            "plain": base,
            "shared": base,
            "view": base[1],
            "transposed": base.t(),
            "expanded": torch.ones(1).expand(5),
            "bf16": torch.randn(7).bfloat16(),
            "parameter": nn.Parameter(torch.randn(2)),
            "scalar": torch.tensor(3),
            "flags": torch.tensor([True, False]),
            "nan": torch.tensor([float("nan"), -0.0]),
            "empty": torch.empty(0, 2),
            "empty too": torch.empty(0, 2),
        },
        "ema.fast": {"codes": torch.arange(5)},
        "nothing": {},
    }
    metadata = {"lr": 0.1 + 0.2, "best": float("inf"), "text": "ü", "list": [1, None, True]}
    loaded, state = load_checkpoint(save_checkpoint(tmp_path, 12, tensors, metadata, 3))
    assert state == metadata
    assert {name: sorted(group) for name, group in loaded.items()} == {
        name: sorted(group) for name, group in tensors.items()
    }
    for name, group in tensors.items():
        for key, tensor in group.items():
            assert loaded[name][key].dtype == tensor.dtype
            assert loaded[name][key].shape == tensor.shape
            assert raw(loaded[name][key]) == raw(tensor)


def build(dtype: torch.dtype = torch.float32, fused: bool = True) -> tuple[nn.Module, torch.optim.Optimizer]:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(8, 16), nn.GELU(), nn.Linear(16, 1)).to(dtype)
    groups = [
        {"params": [model[0].weight, model[2].weight], "weight_decay": 0.03},
        {"params": [model[0].bias, model[2].bias], "lr": 7e-3},
    ]
    return model, torch.optim.AdamW(groups, lr=1e-2, betas=(0.9, 0.98), fused=fused)


def train(model: nn.Module, optimizer: torch.optim.Optimizer, first: int, last: int) -> None:
    for step in range(first, last):
        generator = torch.Generator().manual_seed(step)
        batch = torch.randn(4, 8, generator=generator).to(next(model.parameters()).dtype)
        model(batch).square().mean().backward()
        optimizer.step()
        optimizer.zero_grad()
        optimizer.param_groups[0]["lr"] *= 0.9


@pytest.mark.parametrize("fused", [True, False])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_three_steps_and_three_after_a_resume_equal_six(tmp_path, dtype, fused):
    straight = build(dtype, fused)
    train(*straight, 0, 6)

    model, optimizer = build(dtype, fused)
    train(model, optimizer, 0, 3)
    tensors, hyper = flatten_optimizer(optimizer)
    assert tensors["state.0.step"].ndim == 0
    path = save_checkpoint(tmp_path, 3, {"model": model.state_dict(), "optimizer": tensors}, {"optimizer": hyper}, 1)

    resumed, optimizer = build(dtype, fused)
    loaded, state = load_checkpoint(path)
    resumed.load_state_dict(loaded["model"])
    restore_optimizer(optimizer, loaded["optimizer"], state["optimizer"])
    assert optimizer.param_groups[0]["betas"] == (0.9, 0.98)
    train(resumed, optimizer, 3, 6)

    for key, value in straight[0].state_dict().items():
        assert torch.equal(value, resumed.state_dict()[key]), key
    expected, resulting = flatten_optimizer(straight[1]), flatten_optimizer(optimizer)
    assert expected[1] == resulting[1]
    assert expected[0].keys() == resulting[0].keys()
    assert all(
        torch.equal(value, resulting[0][key]) and value.dtype == resulting[0][key].dtype
        for key, value in expected[0].items()
    )


def test_restored_state_is_a_copy_with_its_own_dtypes():
    model, optimizer = build(torch.bfloat16)
    train(model, optimizer, 0, 1)
    for state in optimizer.state.values():
        state["exp_avg"] = state["exp_avg"].float() + 1e-4  # As an optimizer with fp32 moments keeps it.
    tensors, hyper = flatten_optimizer(optimizer)
    _, other = build(torch.bfloat16)
    restore_optimizer(other, tensors, json.loads(json.dumps(hyper)))
    restored, _ = flatten_optimizer(other)
    for key, value in tensors.items():
        assert restored[key].dtype == value.dtype
        assert torch.equal(restored[key], value)
        assert restored[key].data_ptr() != value.data_ptr()


def test_learning_rate_tensors_survive():
    weight = nn.Parameter(torch.ones(2))
    optimizer = torch.optim.AdamW([weight], lr=torch.tensor(0.1, dtype=torch.float64), fused=True)
    tensors, hyper = flatten_optimizer(optimizer)
    other = torch.optim.AdamW([weight], lr=torch.tensor(0.5, dtype=torch.float64), fused=True)
    restore_optimizer(other, tensors, hyper)
    assert torch.equal(other.param_groups[0]["lr"], torch.tensor(0.1, dtype=torch.float64))


def test_optimizer_of_another_model_is_refused():
    tensors, hyper = flatten_optimizer(build()[1])
    with pytest.raises(UserError, match="same configuration"):
        restore_optimizer(torch.optim.AdamW(nn.Linear(2, 2).parameters()), tensors, hyper)


def test_extra_files_are_covered_by_the_manifest(tmp_path):
    def extra(folder: Path) -> None:
        (folder / "model").mkdir()
        (folder / "model" / "config.json").write_text("{}")

    path = save(tmp_path, 1, extra=extra)
    assert verify_checkpoint(path) is None
    assert list(load_checkpoint(path)[0]) == ["model"]
    flip_bit(path / "model" / "config.json")
    assert "model/config.json" in verify_checkpoint(path)


# Keeping and pruning


def test_only_the_last_ones_are_kept(tmp_path):
    for step in range(1, 6):
        save(tmp_path, step, keep_last=2)
    assert steps(tmp_path) == ["step_00000004", "step_00000005"]


def test_zero_keeps_all_and_the_one_just_written_is_never_pruned(tmp_path):
    for step in (1, 2, 30):
        save(tmp_path, step)
    save(tmp_path, 5, keep_last=1)  # A run resumed from before step 30.
    assert steps(tmp_path) == ["step_00000005", "step_00000030"]


def test_the_same_step_is_replaced(tmp_path):
    save(tmp_path, 4)
    save_checkpoint(tmp_path, 4, {"model": {"weight": torch.zeros(1)}}, {"again": True}, 3)
    assert steps(tmp_path) == ["step_00000004"]
    assert load_checkpoint(latest_checkpoint(tmp_path))[1] == {"again": True}


def test_death_between_the_renames_of_a_replacement(tmp_path):
    path = save(tmp_path, 4)
    path.rename(tmp_path / "step_00000004.old-999999999")
    assert load_checkpoint(latest_checkpoint(tmp_path))[1]["step"] == 4
    save(tmp_path, 5)
    assert steps(tmp_path) == ["step_00000004", "step_00000005"]


def test_only_leftovers_of_dead_runs_are_removed(tmp_path):
    (tmp_path / "step_00000001.tmp-999999999").mkdir()
    (tmp_path / f"step_00000001.tmp-{os.getppid()}").mkdir()
    (tmp_path / "step_notes").mkdir()
    save(tmp_path, 2)
    assert steps(tmp_path) == [f"step_00000001.tmp-{os.getppid()}", "step_00000002", "step_notes"]


def test_nothing_to_resume(tmp_path):
    assert latest_checkpoint(tmp_path) is None
    assert latest_checkpoint(tmp_path / "absent") is None


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


# One writer at a time


def test_a_run_is_locked_for_others_until_its_end(tmp_path):
    run_dir = tmp_path / "run"
    with FolderLock(run_dir), pytest.raises(UserError, match=str(run_dir)), FolderLock(run_dir):
        pass
    with FolderLock(run_dir):
        pass


def test_a_killed_run_lets_go_even_if_its_data_worker_lives_on(tmp_path):
    code = (
        "import os, signal, sys, time; from modules.common.folder_lock import FolderLock\n"
        "with FolderLock(sys.argv[1]):\n"
        "    (ready, started), worker = os.pipe(), os.fork()\n"
        "    if worker == 0: os.write(started, b'!'); os.close(1); os.close(2); time.sleep(60); os._exit(0)\n"
        "    os.read(ready, 1); print(worker, flush=True); os.kill(os.getpid(), signal.SIGKILL)"
    )
    result = run_python(code, tmp_path)
    assert result.returncode == -9
    worker = int(result.stdout)
    try:
        os.kill(worker, 0)
        with FolderLock(tmp_path):
            pass
    finally:
        os.kill(worker, 9)


def test_a_lock_in_an_unwritable_place_is_a_user_error(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="writable"), FolderLock(tmp_path / "file"):
        pass
