"""Where a training's curves, pictures and stories go: TensorBoard, Weights & Biases, or both."""

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
    """What TensorBoard's writer does, as far as it is used."""

    def add_scalar(self, tag: str, value: float, global_step: int) -> None: ...

    def add_image(self, tag: str, image: np.ndarray, global_step: int, dataformats: str) -> None: ...

    def add_text(self, tag: str, text: str, global_step: int) -> None: ...

    def flush(self) -> None: ...

    def close(self) -> None: ...


class WandbWriter:
    """A run of Weights & Biases in the run's folder; a resumed training goes on in the same one.

    Its own count of steps never goes back, as a training that is resumed does: curves are drawn over `global_step`
    instead.
    """

    def __init__(self, run_dir: Path) -> None:
        wandb = import_wandb()
        self._to_image, self._values, self._step = wandb.Image, {}, 0
        memory = run_dir / "wandb_run_id"
        if not memory.exists():
            memory.write_text(secrets.token_hex(4))
        try:
            self.run = wandb.init(
                project=PROJECT,
                name=run_dir.resolve().name,
                dir=run_dir,
                id=memory.read_text(),
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

    def add_image(self, tag: str, image: np.ndarray, global_step: int, dataformats: str) -> None:
        """An image (H,W,3), as `dataformats` HWC says."""
        self._add(tag, self._to_image(image), global_step)

    def add_text(self, tag: str, text: str, global_step: int) -> None:
        self._add(
            f"{tag}/text", text, global_step
        )  # Here, other than in TensorBoard, a picture and a text cannot share a name.

    def flush(self) -> None:
        """Send what was gathered of one step."""
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
    """Several writers that are told the same."""

    def __init__(self, *writers: Writer) -> None:
        self.writers = writers

    def add_scalar(self, tag: str, value: float, global_step: int) -> None:
        for writer in self.writers:
            writer.add_scalar(tag, value, global_step)

    def add_image(self, tag: str, image: np.ndarray, global_step: int, dataformats: str) -> None:
        for writer in self.writers:
            writer.add_image(tag, image, global_step, dataformats=dataformats)

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
    """Writers into `run_dir`; TensorBoard's events of `global_step` and later, of updates that will be made again, do
    not count.
    """
    writers: list[Writer] = []
    if log_with in ("tensorboard", "all"):
        writers.append(SummaryWriter(run_dir / "tensorboard", purge_step=global_step))
    if log_with in ("wandb", "all"):
        writers.append(WandbWriter(run_dir))
    return Writers(*writers)


def check_log_with(log_with: str) -> None:
    """Raise UserError where curves cannot be written as `log_with` says."""
    if log_with not in LOG_WITH:
        raise UserError(f"log_with must be one of {', '.join(LOG_WITH)}, got {log_with!r}")
    if log_with in ("wandb", "all"):
        import_wandb()


def import_wandb() -> Any:
    """The package wandb, which is optional."""
    try:
        import wandb
    except ImportError:
        wandb = None
    if not hasattr(wandb, "init"):  # A folder of that name, such as its runs lie in, is imported just as well.
        raise UserError("--log_with wandb needs the package wandb: pip install wandb, or use --log_with tensorboard")
    return wandb
