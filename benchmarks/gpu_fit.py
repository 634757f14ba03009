"""The updates of `gpu_weights.py`: for a number of seconds, or of updates."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from modules.training.optimizer import WeightAverage, cosine_with_warmup

WARM_UP, SURVEY = 10, 20  # Updates before the seconds of one are measured, and updates measured.
LOG_EVERY = 100
EMA_DECAY = 0.998
MIN_WARM_UP, RATE_FLOOR = 200, 0.02
started = time.perf_counter()


def say(text: str) -> None:
    print(f"== {time.perf_counter() - started:.0f} s: {text}", flush=True)


@dataclass(frozen=True)
class Length:
    """How long to train: a number of updates, or of seconds, from which that number is found by timing a few."""

    amount: float
    in_seconds: bool = False

    @classmethod
    def parse(cls, text: str) -> Length:
        """Return "90s" as seconds and "1349" as updates."""
        return cls(float(text.removesuffix("s")), text.endswith("s"))

    def updates(self, done: int, elapsed: float, seconds_each: float) -> int:
        """Return the number of updates in all, of which `done` took `elapsed` seconds."""
        if not self.in_seconds:
            return int(self.amount)
        return done + int(0.98 * (self.amount - elapsed) / seconds_each)


class Fit:
    """Updates of some parameters: AdamW, a cosine that begins slowly, and weight averages, which are kept at the end.

    Nothing waits for the device but once in `LOG_EVERY` updates.
    """

    def __init__(self, groups: list[dict[str, Any]], peak: float, betas: tuple[float, float], length: Length) -> None:
        self.parameters = [parameter for group in groups for parameter in group["params"]]
        self.device, self.peak, self.length = self.parameters[0].device, peak, length
        self.optimizer = torch.optim.AdamW(groups, lr=peak, betas=betas, fused=self.device.type == "cuda")
        self.average = WeightAverage(self.parameters, EMA_DECAY)
        self.step, self.num_updates = 0, 0
        self.trace: list[float] = []

    def run(self, loss: Callable[[], Tensor]) -> dict[str, Any]:
        """Train on the losses () that `loss` returns; return the number of updates, seconds and mean losses."""
        began, timed, total = time.perf_counter(), 0.0, torch.zeros((), device=self.device)
        self.sound = self._averages()
        while not self.num_updates or self.step < self.num_updates:
            total += self._update(loss())
            if self.step == WARM_UP:
                timed = self._now()
            elif self.step == WARM_UP + SURVEY:
                each = (self._now() - timed) / SURVEY
                self.num_updates = max(self.step, self.length.updates(self.step, self._now() - began, each))
                say(f"{each * 1000:.1f} ms an update, {self.num_updates} updates")
            if self.step % LOG_EVERY == 0 and not self._log(total.item() / LOG_EVERY, began):
                break
            if self.step % LOG_EVERY == 0:
                total.zero_()
        self.average.copy_to_parameters()
        return {"updates": self.step, "seconds": self._now() - began, "losses": self.trace}

    def _update(self, loss: Tensor) -> Tensor:
        """Make one update and return the loss () without its graph."""
        # As slow as the warm-up of a useful run, before the number of updates is known too.
        factor = min(1.0, (self.step + 1) / MIN_WARM_UP)
        if self.num_updates:
            warmup = max(WARM_UP + SURVEY, round(0.05 * self.num_updates))
            factor = min(factor, cosine_with_warmup(self.step, self.num_updates, warmup, RATE_FLOOR))
        for group in self.optimizer.param_groups:
            group["lr"] = self.peak * factor * group["share"]
        loss.backward()
        nn.utils.clip_grad_norm_(self.parameters, 1.0, foreach=True)
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        self.average.update(self.step)
        self.step += 1
        return loss.detach()

    def _log(self, mean: float, began: float) -> bool:
        """Note a mean loss; where it is not finite, go back to the last sound averages and return False."""
        self.trace.append(mean)
        if not np.isfinite(mean):
            self.average.load_state_dict(self.sound)
            say(f"the loss is {mean} after {self.step} updates: back to the last sound averages")
            return False
        self.sound = self._averages()
        if self.step % (10 * LOG_EVERY) == 0:
            each = (time.perf_counter() - began) / self.step
            left = each * (self.num_updates - self.step)
            say(f"update {self.step} of {self.num_updates}, loss {mean:.4f}, {left:.0f} s left")
        return True

    def _averages(self) -> dict[str, Tensor]:
        return {name: value.clone() for name, value in self.average.state_dict().items()}

    def _now(self) -> float:
        if self.device.type == "cuda":
            torch.cuda.synchronize()
        return time.perf_counter()


def autocast(device: torch.device) -> torch.autocast:
    """Return a context that computes in bf16 on a GPU."""
    return torch.autocast(device.type, torch.bfloat16, enabled=device.type == "cuda")
