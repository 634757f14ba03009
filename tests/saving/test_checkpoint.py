"""A checkpoint either comes back bit for bit or is passed over with a warning; nothing in between."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest
import torch
from torch import nn

from modules.common.errors import UserError
from modules.common.folder_lock import FolderLock
from modules.saving.checkpoint import latest_checkpoint, load_checkpoint, save_checkpoint, verify_checkpoint
from modules.saving.optimizer_state import flatten_optimizer, restore_optimizer
from tests.support.checkpoints import flip_bit, raw, run_python, save, steps

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


def test_files_of_a_user_in_old_checkpoints_are_kept(tmp_path):
    for step in (1, 2, 3):
        save(tmp_path, step)
    (tmp_path / "step_00000001/notes.txt").write_text("mine")
    (tmp_path / "step_00000000").mkdir()
    (tmp_path / "step_00000000/mine.txt").write_text("mine")
    with pytest.warns(UserWarning, match="is kept, because (notes|mine).txt was not written by this program"):
        save(tmp_path, 4, keep_last=1)
    assert steps(tmp_path) == ["step_00000000", "step_00000001", "step_00000004"]
    assert latest_checkpoint(tmp_path) == tmp_path / "step_00000004"


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
