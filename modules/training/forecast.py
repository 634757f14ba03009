"""How long trainings will take, as measured on a few updates before the first of them begins."""

from __future__ import annotations

import dataclasses
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

import torch

from modules.common.interrupts import StopSignals
from modules.config import StoryConfig
from modules.data.read_ahead import Head
from modules.layers.seeding import derive_seed
from modules.story import StoryDataset
from modules.story_model.story_model import build_model
from modules.training.codebook_size import with_codebook_size
from modules.training.pace import RELATIVE_SECONDS
from modules.training.paced_trainer import SURVEY_STORIES, PacedTrainer
from modules.training.plan import plan_phases
from modules.training.processes import forgotten_precision, make_accelerator
from modules.training.settings import TrainSettings
from modules.training.sharding import Replicated


def forecast_trainings(
    configs: Sequence[StoryConfig], settings: TrainSettings, dataset: StoryDataset, held_out: StoryDataset
) -> float:
    """Return about how many seconds it takes to train all configs one after the other; the first is measured."""
    with tempfile.TemporaryDirectory() as folder, forgotten_precision():
        settings = dataclasses.replace(settings, output_dir=Path(folder), max_minutes=1.0)
        config = with_codebook_size(configs[0], settings, dataset, False)
        parts = (config, settings, dataset, held_out, make_accelerator(settings), StopSignals())
        surveyor = _Surveyor(*parts, started=time.monotonic())
        return sum(surveyor.seconds(config) for config in configs)


class _Surveyor(PacedTrainer):
    """A training that only measures its speed."""

    def seconds(self, config: StoryConfig) -> float:
        """Return the seconds of a training of `config`, if its updates are those of this one."""
        if not self.pace.seconds_per_update:
            self._measure_all()
        updates = self.pace.seconds_per_update
        longest = max(updates, key=updates.__getitem__)
        unit = updates[longest] / RELATIVE_SECONDS[longest]
        once = self._encoding * len(self._whole) + sum(self.pace.seconds_within.values())
        return once + self.pace.slowdown * sum(
            config.training.num_updates(name) * updates.get(name, unit * RELATIVE_SECONDS[name])
            for name in plan_phases(config, self.settings, self.state.done)
        )

    def _measure_all(self) -> None:
        self._whole, self.dataset = self.dataset, Head(self.dataset, max(self.global_batch, SURVEY_STORIES))
        self.phases = plan_phases(self.config, self.settings, self.state.done)
        torch.manual_seed(derive_seed(self.settings.seed, "weights"))
        self.model = build_model(self.config, "this config", offline=self.settings.offline)
        self.model.to(self.accelerator.device)
        self.copies = Replicated(self.model, self.accelerator)
        self._encoding = sum(self._survey(self.pace, sum(self._whole.lengths)))
