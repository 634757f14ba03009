"""Writers of curves, pictures and texts: TensorBoard, Weights & Biases, or both.

accelerate's trackers would lose three things: in W&B a text would replace the picture of the same name, its step cannot
go back as it does in a resumed run, and neither tracker can be flushed at a checkpoint alone.
"""

from __future__ import annotations

import secrets
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from torch.utils.tensorboard import SummaryWriter

from modules.common.errors import UserError
from modules.training.settings import LOG_WITH

PROJECT = "story-generative-model"


class Writer(Protocol):
    """The part of TensorBoard's writer that is used. An image is (3,H,W), from 0 to 255."""

    def add_scalar(self, tag: str, value: float, global_step: int, /) -> None: ...

    def add_image(self, tag: str, image: np.ndarray, global_step: int, /) -> None: ...

    def add_text(self, tag: str, text: str, global_step: int, /) -> None: ...

    def flush(self) -> None: ...

    def close(self) -> None: ...


class WandbWriter:
    """A run of Weights & Biases, stored in the run's folder; a resumed training continues the same W&B run.

    W&B's own step never goes back, but a resumed training does: curves are drawn over `global_step` instead. Raises
    UserError if W&B does not start.
    """

    def __init__(self, run_dir: Path) -> None:
        wandb = import_wandb()
        self._to_image, self._step = wandb.Image, 0
        self._values: dict[str, Any] = {}
        run_id = run_dir / "wandb_run_id"
        if not run_id.exists():
            run_id.write_text(secrets.token_hex(4))
        try:
            self.run = wandb.init(
                project=PROJECT,
                name=run_dir.resolve().name,
                dir=run_dir,
                id=run_id.read_text(),
                resume="allow",
                settings=wandb.Settings(console="off", silent=True),
            )
        except wandb.errors.Error as error:
            raise UserError(
                f"wandb does not start ({error}): log in by `wandb login`, or set WANDB_MODE=offline"
            ) from error
        self.run.define_metric("*", step_metric="global_step")

    def add_scalar(self, tag: str, value: float, global_step: int) -> None:
        self._add(tag, value, global_step)

    def add_image(self, tag: str, image: np.ndarray, global_step: int) -> None:
        self._add(tag, self._to_image(image.transpose(1, 2, 0)), global_step)

    def add_text(self, tag: str, text: str, global_step: int) -> None:
        self._add(f"{tag}/text", text, global_step)  # Unlike in TensorBoard, a picture and a text cannot share a name.

    def flush(self) -> None:
        """Send the values collected for the current step."""
        if self._values:
            self.run.log({**self._values, "global_step": self._step})
            self._values = {}

    def close(self) -> None:
        self.flush()
        self.run.finish()

    def _add(self, tag: str, value: Any, global_step: int) -> None:
        if global_step != self._step:
            self.flush()
            self._step = global_step
        self._values[tag] = value


class Writers:
    """Broadcasts to several writers."""

    def __init__(self, *writers: Writer) -> None:
        self.writers = writers

    def add_scalar(self, tag: str, value: float, global_step: int) -> None:
        for writer in self.writers:
            writer.add_scalar(tag, value, global_step)

    def add_image(self, tag: str, image: np.ndarray, global_step: int) -> None:
        for writer in self.writers:
            writer.add_image(tag, image, global_step)

    def add_text(self, tag: str, text: str, global_step: int) -> None:
        for writer in self.writers:
            writer.add_text(tag, text, global_step)

    def flush(self) -> None:
        for writer in self.writers:
            writer.flush()

    def close(self) -> None:
        for writer in self.writers:
            writer.close()


def open_writers(log_with: str, run_dir: Path, global_step: int) -> Writers:
    """Return writers into `run_dir`; TensorBoard drops events of `global_step` and later, which are made again."""
    writers: list[Writer] = []
    if log_with in ("tensorboard", "all"):
        writers.append(SummaryWriter(run_dir / "tensorboard", purge_step=global_step))
    if log_with in ("wandb", "all"):
        writers.append(WandbWriter(run_dir))
    return Writers(*writers)


def check_log_with(log_with: str) -> None:
    """Raise UserError if `log_with` is unknown or needs a package that is not installed."""
    if log_with not in LOG_WITH:
        raise UserError(f"log_with must be one of {', '.join(LOG_WITH)}, got {log_with!r}")
    if log_with in ("wandb", "all"):
        import_wandb()


def import_wandb() -> Any:
    """Return the optional package wandb. Raises UserError if it is not installed."""
    try:
        import wandb
    except ImportError:
        wandb = None
    if not hasattr(wandb, "init"):  # A folder named wandb, such as one with its runs, can be imported too.
        raise UserError("--log_with wandb needs the package wandb: pip install wandb, or use --log_with tensorboard")
    return wandb
