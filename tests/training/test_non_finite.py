"""Updates with a non-finite loss or gradient are skipped; ten in a row end the run."""

from __future__ import annotations

import hashlib
import math
import shutil
from pathlib import Path

import pytest

from modules.saving.optimizer_state import flatten_optimizer
from modules.training.phases import JointPhase
from modules.training.trainer import Trainer
from tests.support.runs import JOINT_START, LENGTHS, QUANTIZE_STEP, all_finite, events, fails, state_of, trace, train


def digest(trainer: Trainer) -> str:
    """Everything that an update may change."""
    state = hashlib.sha256()
    for tensors in (
        trainer.model.state_dict(),
        trainer.weights.average.state_dict(),
        flatten_optimizer(trainer.weights.optimizer)[0],
    ):
        for value in tensors.values():
            state.update(value.detach().numpy().tobytes())
    return state.hexdigest()


def poison(monkeypatch: pytest.MonkeyPatch, kind: str, steps: range | set[int]) -> dict[int, bool]:
    """Make the joint phase's loss or its gradients non-finite at some steps; returns whether anything moved at each
    step.
    """
    loss, update, changed = JointPhase.loss, Trainer._update, {}

    def poisoned(self, module, step, part, num_parts):
        output = loss(self, module, step, part, num_parts)
        if step in steps and part == 1:
            if kind == "loss":
                output.loss = output.loss * math.nan
            else:
                output.loss.register_hook(lambda gradient: gradient * math.inf)
        return output

    def recorded(self, *args):
        before, step = digest(self), self.state.step
        update(self, *args)
        changed[step] = digest(self) != before

    monkeypatch.setattr(JointPhase, "loss", poisoned)
    monkeypatch.setattr(Trainer, "_update", recorded)
    return changed


@pytest.fixture
def joint(reference: Path, tmp_path: Path) -> Path:
    """A run that has come to the joint phase."""
    name = f"step_{JOINT_START:08d}"
    shutil.copytree(reference / name, tmp_path / name)
    return tmp_path


@pytest.mark.parametrize("kind", ["loss", "gradient"])
def test_non_finite_update_changes_nothing_and_training_goes_on(joint, monkeypatch, kind):
    bad = {1, QUANTIZE_STEP + 1, QUANTIZE_STEP + 2}
    changed = poison(monkeypatch, kind, bad)
    assert train(joint, "--phases", "joint", "--keep_last", 0) == 0
    assert {step for step, has_changed in changed.items() if not has_changed} == bad
    lines = trace(joint)
    assert len(lines) == LENGTHS["joint"]
    for name in ("loss", "gradient_norm"):
        expected = bad if (name, kind) != ("loss", "gradient") else set()
        assert {line["step"] for line in lines if line[name] is None} == expected
    state = state_of(joint)
    assert (state["skipped"], state["skipped_in_a_row"]) == (3, 0)
    assert [int(event.value) for event in events(joint).Scalars("skipped_updates")] == [0, 1, 1, 1, 1, 2, 3, 3, 3]
    assert len(list(joint.glob("step_*"))) == 1 + LENGTHS["joint"] // 3
    assert all_finite(joint)


def test_ten_non_finite_updates_in_a_row_end_the_run(reference, tmp_path, monkeypatch, capsys):
    changed = poison(monkeypatch, "loss", range(2, 100))
    flags = ("--autoencoder", reference, "--phases", "opening,joint", "--max_steps", 12)
    line = fails(capsys, tmp_path, *flags)
    assert line.startswith(
        "error: 10 updates in a row gave a non-finite loss or gradient (last: loss nan, gradient norm nan) at step 11"
    )
    assert "lower --learning_rate" in line
    assert [step for step, has_changed in changed.items() if has_changed] == [0, 1, 6]  # At step 6 codes are placed.
    assert state_of(tmp_path)["skipped"] == 7
    assert all_finite(tmp_path)
