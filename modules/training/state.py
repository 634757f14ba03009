"""The state of a run: its identity, its position, and the weights, averages and moments that updates change."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from modules.common.errors import UserError
from modules.config import StoryConfig, TrainingConfig, changes, parse_config
from modules.saving.optimizer_state import flatten_optimizer, restore_optimizer
from modules.story import StoryDataset
from modules.training.optimizer import WeightAverage, learning_rate_at, parameter_groups
from modules.training.pace import Pace
from modules.training.phase import Phase
from modules.training.settings import TrainSettings
from modules.training.sharding import Replicated, cut_like, cut_moments

MAX_SKIPPED_IN_A_ROW = 10


def run_identity(
    config: StoryConfig, settings: TrainSettings, dataset: StoryDataset, global_batch: int
) -> dict[str, Any]:
    """Return everything that must stay the same when a run is resumed."""
    identity = {
        "config": config.to_json(),
        "seed": settings.seed,
        "data": dataset.fingerprint(),
        "global_batch": global_batch,
        "mixed_precision": settings.mixed_precision,
    }
    return identity if settings.max_minutes is None else {**identity, "max_minutes": settings.max_minutes}


def check_same_run(checkpoint: Path, before: Mapping[str, Any], now: Mapping[str, Any]) -> None:
    """Raise UserError if the run that wrote `checkpoint` had another identity.

    A setting that did not exist then counts as its default.
    """
    config = json.loads(parse_config(json.loads(before["config"]), str(checkpoint)).to_json())
    for change in changes({**before, "config": config}, {**now, "config": json.loads(now["config"])}):
        raise UserError(
            f"{checkpoint} was trained with another {change}: "
            "give the same flags and data to resume it, or another --output_dir to start anew"
        )


@dataclass
class RunState:
    """The position of a run: what `state.json` stores of it, optimizer and loss scaler aside.

    `step` counts the updates of `phase`, `global_step` those of all phases.
    """

    identity: dict[str, Any]
    phase: str = ""
    step: int = 0
    global_step: int = 0
    done: list[str] = field(default_factory=list)
    skipped: int = 0
    skipped_in_a_row: int = 0
    pace: Pace | None = None  # Of a run with --max_minutes.

    @classmethod
    def resume(cls, checkpoint: Path, saved: Mapping[str, Any], identity: dict[str, Any]) -> RunState:
        """Return the state that `checkpoint` stores as `saved`. Raises UserError if it is of another run."""
        names = ("phase", "step", "global_step", "skipped", "skipped_in_a_row")
        try:
            check_same_run(checkpoint, saved["identity"], identity)
            values = {name: saved[name] for name in names}
            pace = Pace(**saved["pace"]) if saved.get("pace") else None
            return cls(identity, done=list(saved["done"]), pace=pace, **values)
        except (KeyError, TypeError, ValueError) as error:
            raise UserError(
                f"{checkpoint} has no state of a run that this program resumes ({type(error).__name__}: {error}): it"
                " is of another version or was changed; give another --output_dir to start anew"
            ) from error

    def as_dict(self) -> dict[str, Any]:
        return asdict(self)

    def enter(self, phase: str) -> None:
        """Go to a phase: on to the next one, or back into the one that was interrupted."""
        if phase != self.phase:
            self.phase, self.step = phase, 0

    def advance(self) -> None:
        """Count one update."""
        self.step += 1
        self.global_step += 1

    def count_skipped(self, is_finite: bool, loss: float, gradient_norm: float) -> None:
        """Count an update that was skipped unless `is_finite`. Raises UserError after too many in a row."""
        self.skipped_in_a_row = 0 if is_finite else self.skipped_in_a_row + 1
        self.skipped += not is_finite
        if self.skipped_in_a_row >= MAX_SKIPPED_IN_A_ROW:
            raise UserError(
                f"{MAX_SKIPPED_IN_A_ROW} updates in a row gave a non-finite loss or gradient (last: loss {loss}, "
                f"gradient norm {gradient_norm}) at step {self.step} of {self.phase}: "
                "lower --learning_rate or use --mixed_precision no; the last checkpoint is sound"
            )


class PhaseWeights:
    """State that the updates of one phase change: trained parameters, their averages and the optimizer's moments.

    `module` holds the parameters, which may be pieces of those of the phase's module.
    """

    def __init__(self, phase: Phase, copies: Replicated, training: TrainingConfig) -> None:
        trained = [parameter for parameter in phase.module.parameters() if parameter.requires_grad]
        index_of = {id(parameter): str(index) for index, parameter in enumerate(trained)}
        names = phase.model.named_parameters(remove_duplicate=False)
        self._average_of = {name: index_of[id(value)] for name, value in names if id(value) in index_of}
        self._phase, self._copies, self._training = phase, copies, training
        self.module = copies.start(phase.module)
        self.parameters = [parameter for parameter in self.module.parameters() if parameter.requires_grad]
        self.average = WeightAverage(self.parameters, training.ema_decay)
        groups = parameter_groups(self.module.named_parameters(), phase.model.pretrained, phase.model.gates, training)
        self.optimizer = torch.optim.AdamW(groups, lr=phase.learning_rate, betas=training.adam_betas, fused=True)

    def set_learning_rate(self, step: int) -> float:
        """Set the learning rate of update `step` in all groups and return it."""
        rate = learning_rate_at(step, self._phase.num_steps, self._phase.learning_rate, self._training)
        for group in self.optimizer.param_groups:
            group["lr"] = rate * group.get("share", 1.0)  # Checkpoints older than pretrained weights have no share.
        return rate

    def gather(self) -> tuple[dict[str, dict[str, Tensor]], dict[str, Any]]:
        """Return all tensors of a checkpoint, whole, and the optimizer's other state; every process must call this."""
        tensors, optimizer = flatten_optimizer(self.optimizer)
        groups = {
            "model": self._copies.own_state(),
            "optimizer": self._copies.gather(tensors),
            "averages": self._copies.gather(self.average.state_dict()),
        }
        return groups, optimizer

    def restore(self, tensors: Mapping[str, Mapping[str, Tensor]], optimizer: Mapping[str, Any]) -> None:
        """Set averages and optimizer to what `gather` returned; the model is loaded already."""
        averages = tensors["averages"].items()
        self.average.load_state_dict({key: cut_like(value, self.parameters[int(key)]) for key, value in averages})
        restore_optimizer(self.optimizer, cut_moments(tensors["optimizer"], self.optimizer), optimizer)

    def averaged_model(self, tensors: Mapping[str, Mapping[str, Tensor]]) -> dict[str, Tensor]:
        """Return the model's state of `gather` with the averages in place of the trained weights."""
        averages = {name: tensors["averages"][index] for name, index in self._average_of.items()}
        return {**tensors["model"], **averages}
