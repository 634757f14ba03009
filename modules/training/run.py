"""`train`: one run from start to end, or resumed."""

from __future__ import annotations

import dataclasses
import time
from contextlib import nullcontext
from pathlib import Path

from modules.common.folder_lock import FolderLock
from modules.common.interrupts import stop_on_signals
from modules.common.precision import resolve_precision
from modules.config import StoryConfig
from modules.story import StoryDataset
from modules.training.codebook_size import with_codebook_size
from modules.training.paced_trainer import PacedTrainer
from modules.training.processes import forgotten_precision, make_accelerator
from modules.training.settings import TrainSettings
from modules.training.trainer import Trainer
from modules.training.writers import check_log_with


def train(
    config: StoryConfig,
    settings: TrainSettings,
    dataset: StoryDataset,
    held_out: StoryDataset,
    plan_dataset: StoryDataset | None = None,
    started: float | None = None,
) -> Path:
    """Train a model on `dataset` and return the folder to generate from; the same call resumes a run.

    The prior's planning phase reads `plan_dataset`, stories of the story world, if given. The minutes of
    `settings.max_minutes` count from `started`, a time of `time.monotonic`, by default now.

    Raises UserError on settings that do not fit the folder and on several non-finite updates in a row; Interrupted on
    a signal.
    """
    started = time.monotonic() if started is None else started
    check_log_with(settings.log_with)
    settings = dataclasses.replace(settings, mixed_precision=resolve_precision(settings.mixed_precision))
    with forgotten_precision():
        accelerator = make_accelerator(settings)
        lock = FolderLock(settings.output_dir) if accelerator.is_main_process else nullcontext()
        with lock, stop_on_signals() as signals:
            config = with_codebook_size(config, settings, dataset, accelerator.is_main_process)
            parts = (config, settings, dataset, held_out, accelerator, signals, plan_dataset)
            trainer = Trainer(*parts) if settings.max_minutes is None else PacedTrainer(*parts, started=started)
            return trainer.run()
