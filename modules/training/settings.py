"""Settings of a training run. Imports no torch."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from modules.common.arguments import setting
from modules.common.errors import UserError
from modules.common.limits import check_settings

PHASE_NAMES = ("autoencoder", "opening", "joint", "consolidation", "writing", "illustration", "planning")
LOG_WITH = ("tensorboard", "wandb", "all")
PRECISIONS = ("auto", "no", "bf16", "fp16")  # "auto" is resolved when a run starts.


def parse_phases(text: str) -> tuple[str, ...]:
    """Split "opening,joint" at the commas."""
    return tuple(name.strip() for name in text.split(",") if name.strip())


@dataclass(frozen=True)
class TrainSettings:
    """Settings of a training run that are no part of the model's config.

    Raises UserError on a value out of range.
    """

    output_dir: Path = setting(help="the run's folder; the same command resumes it")
    mixed_precision: str = setting(
        "no",
        "bf16 or fp16 computes faster on most GPUs; auto: bf16 where this machine computes it fast, else no "
        "(default no, or the setting of accelerate launch)",
        choices=PRECISIONS,
    )
    max_minutes: float | None = setting(
        None,
        "minutes that the whole run may take at most: its speed is measured, and the lengths of all phases are chosen"
        " to fit",
        low=0.1,
        high=100_000,
    )
    gradient_accumulation_steps: int = setting(1, "micro-batches in one update", low=1, high=65536)
    save_every: int = setting(200, "updates between checkpoints", low=1, high=10**9)
    log_every: int = setting(10, "updates between points of a curve", low=1, high=10**9)
    sample_every: int = setting(200, "updates between sample pictures and stories in the log", low=1, high=10**9)
    keep_last: int = setting(2, "checkpoints to keep, 0 for all", low=0, high=10**9)
    seed: int = setting(0, "random seed; the same seed gives the same model", low=0, high=2**63 - 1)
    phases: tuple[str, ...] = setting(
        PHASE_NAMES,
        f"training phases to run, in order, separated by commas (default {','.join(PHASE_NAMES)})",
        type=parse_phases,
        metavar="PHASES",
        alias="stages",
    )
    init_from: Path | None = setting(
        None,
        "trained model to start from: its weights are used where they fit, and the phases before the first of --phases"
        " count as finished",
    )
    autoencoder: Path | None = setting(None, "checkpoint whose trained autoencoder is used instead of training one")
    log_with: str = setting("tensorboard", "where to write curves and samples", choices=LOG_WITH)
    cache: Path | None = setting(
        None, "folder written by the precompute command for these stories, this preset and this autoencoder"
    )
    num_workers: int = setting(2, "threads that read pictures ahead", low=0, high=1024)
    restart: bool = setting(
        False, "begin anew where all checkpoints in the folder are damaged; they are set aside, and nothing is deleted"
    )
    offline: bool = setting(False, "load Hub ids from the local cache only")

    def __post_init__(self) -> None:
        check_settings(self)
        if not self.phases or [name for name in PHASE_NAMES if name in self.phases] != list(self.phases):
            raise UserError(
                f"--phases must be some of {','.join(PHASE_NAMES)}, in this order, got {','.join(self.phases)!r}"
            )
