"""What happens while pictures are denoised: the callback of the caller, and a progress bar."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from modules.common.errors import UserError
from modules.common.progress import progress_line

# callback(pipeline, step, timestep, {"latents": (N,c,h,w)}) -> the same dictionary, with latents to go on from, or None
StepCallback = Callable[[Any, int, Tensor, dict[str, Any]], dict[str, Any] | None]
# Called with the number of the denoising step, its timestep and the latents (N,c,h,w); returns those to go on from.
OnStep = Callable[[int, Tensor, Tensor], Tensor]


@dataclass(frozen=True)
class ProgressBar:
    """Whether and under what name progress is shown; `disable` None: on terminals only."""

    disable: bool | None = None
    desc: str = "drawing"

    def __post_init__(self) -> None:
        if not (self.disable is None or isinstance(self.disable, bool)):
            raise UserError(f"disable must be True, False or None (shown on terminals only), got {self.disable!r:.80}")
        if not isinstance(self.desc, str):
            raise UserError(f"desc must be a text, got {self.desc!r:.80}")

    @property
    def is_shown(self) -> bool:
        """Whether to show it now."""
        return sys.stderr.isatty() if self.disable is None else not self.disable


@contextmanager
def watch(pipeline: Any, callback: StepCallback | None, bar: ProgressBar, num_updates: int) -> Iterator[OnStep | None]:
    """Show progress over `num_updates` denoising steps; yield what is to be called after each one, None for nothing.

    Raises UserError on a callback that cannot be called, or that returns other things than it may.
    """
    if callback is not None and not callable(callback):
        raise UserError(f"callback_on_step_end must be a function, got {type(callback).__name__}")
    if callback is None and not bar.is_shown:
        yield None
        return
    with progress_line(bar.desc, num_updates, visible=bar.is_shown) as line:

        def on_step(step: int, timestep: Tensor, latents: Tensor) -> Tensor:
            line.update(min(line.done + 1, num_updates))
            return latents if callback is None else call_back(callback, pipeline, step, timestep, latents)

        yield on_step


def call_back(callback: StepCallback, pipeline: Any, step: int, timestep: Tensor, latents: Tensor) -> Tensor:
    """Call `callback` and return the latents that it returns, or those that it was given if it returns nothing."""
    returned = callback(pipeline, step, timestep, {"latents": latents})
    if returned is None:
        return latents
    if not isinstance(returned, dict):
        raise UserError(f"callback_on_step_end must return a dictionary or nothing, got {type(returned).__name__}")
    changed = returned.get("latents", latents)
    if not isinstance(changed, Tensor) or changed.shape != latents.shape:
        raise UserError(f"callback_on_step_end must return latents of the shape {tuple(latents.shape)}")
    return changed.to(latents)
