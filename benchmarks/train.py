"""Pages a second of the joint phase's real loop, and an update's time beside the sum of its parts."""

from __future__ import annotations

import argparse
import dataclasses
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from common import Goal, make_parser, print_table, rss_mib, start, summary
from torch import Tensor, nn

from modules.batch import StepNoise, StoryBatch
from modules.common.arguments import positive_int
from modules.common.interrupts import StopSignals
from modules.common.precision import resolve_precision
from modules.config import StoryConfig
from modules.layers.losses import masked_mean
from modules.presets import PRESETS
from modules.story_model.story_model import StoryModel
from modules.storyworld import StoryWorld
from modules.training.phase import Phase
from modules.training.phases import JointPhase
from modules.training.processes import attention, make_accelerator
from modules.training.settings import PHASE_NAMES, TrainSettings
from modules.training.trainer import Trainer

STATES = ("continuous", "quantised")
PARTS = ("storyboard", "text_decoder", "image_decoder", "aids", "prior", "optimizer")
MEMORY_EVERY = 50


@dataclass(frozen=True)
class Update:
    """One update of the real loop, and its parts timed alone on the same batch.

    `data`, the time to make the batch, is included in the update but is no part.
    """

    seconds: float
    pages: int
    parts: dict[str, float]
    data: float


class TimedTrainer(Trainer):
    """The real loop, with every update timed; the first half of `num_timed` is continuous, the second quantised.

    An update counts after `warmups` updates of its state and an earlier batch of its shape. Memory is read during the
    updates after `num_timed`.
    """

    def watch(self, num_timed: int, warmups: int) -> TimedTrainer:
        """Set which updates count; return self."""
        self.num_timed, self.warmups = num_timed, warmups
        self.updates: dict[str, list[Update]] = {state: [] for state in STATES}
        self.memory: dict[int, float] = {}
        self._shapes: set[tuple[str, torch.Size]] = set()
        return self

    def _update(self, phase: Phase, module: nn.Module, optimizer: torch.optim.Optimizer) -> None:
        pages, started = phase.images_seen, time.perf_counter()
        super()._update(phase, module, optimizer)
        seconds, pages = time.perf_counter() - started, phase.images_seen - pages
        if not isinstance(phase, JointPhase):
            return
        if self.state.step < self.num_timed:
            self._time_parts(phase, optimizer, seconds, pages)
        elif (done := self.state.step + 1 - self.num_timed) % MEMORY_EVERY == 0:
            self.memory[done] = rss_mib()

    def _time_parts(self, phase: JointPhase, optimizer: torch.optim.Optimizer, seconds: float, pages: int) -> None:
        """Time the parts of the update just made, and keep both unless it was a warm-up."""
        state = STATES[self.model.storyboard.quantizer.is_active]
        started = time.perf_counter()
        batch, noise = draw_batch(phase, self.state.step)
        data = time.perf_counter() - started
        parts = {name: self._time_pass(forward) for name, forward in make_forwards(self.model, batch, noise).items()}
        parts["optimizer"] = time_optimizer(optimizer)
        warm = self.state.step % (self.num_timed // 2) >= self.warmups and (state, batch.latents.shape) in self._shapes
        self._shapes.add((state, batch.latents.shape))
        if warm:
            self.updates[state].append(Update(seconds, pages, parts, data))

    def _time_pass(self, forward: Callable[[], Tensor]) -> float:
        """Return the seconds of a forward pass and its backward pass, in the run's precision and attention."""
        started = time.perf_counter()
        with attention(self.accelerator.device):
            with self.accelerator.autocast():
                loss = forward()
            loss.backward()
        return time.perf_counter() - started


def draw_batch(phase: JointPhase, step: int) -> tuple[StoryBatch, StepNoise]:
    """Return the batch and the noise of an update."""
    batch = phase.stories.batch(phase.order[step])
    return batch.to(phase.device), phase._noise(step, batch.step_mask.numel()).to(phase.device)


def make_forwards(model: StoryModel, batch: StoryBatch, noise: StepNoise) -> dict[str, Callable[[], Tensor]]:
    """Return each factor's part of an update alone; its input from another factor is given and gets a gradient."""
    with torch.no_grad():
        board = model.encode(batch, noise)
    code_embeds = board.code_embeds.clone().requires_grad_()
    board = dataclasses.replace(board, code_embeds=code_embeds)

    def storyboard() -> Tensor:
        out = model.encode(batch, noise)
        loss = out.code_embeds.sum() + model.disagreement(out.slots, batch).mean()
        return loss if out.commitment_loss is None else loss + out.commitment_loss.mean()

    def text_decoder() -> Tensor:
        return model.text_nll(board, batch, noise, model.batch_window(board, batch, noise))

    def image_decoder() -> Tensor:
        return model.diffusion_loss(board, batch, noise, model.batch_window(board, batch, noise))

    def prior() -> Tensor:
        codes = board.codes.unflatten(0, batch.step_mask.shape)
        out = model.prior(codes, batch.prompt_ids, batch.prompt_mask, batch.step_mask)
        return masked_mean(out.nll.mean(-1), batch.step_mask, batch.num_steps)

    def aids() -> Tensor:
        return torch.stack([values.mean() for values in model.aids(code_embeds, batch).values()]).sum()

    forwards = {"storyboard": storyboard, "text_decoder": text_decoder, "image_decoder": image_decoder, "aids": aids}
    return forwards if board.codes is None else forwards | {"prior": prior}


def time_optimizer(optimizer: torch.optim.Optimizer) -> float:
    """Return the seconds of an optimizer step on the current gradients, at learning rate 0."""
    for group in optimizer.param_groups:
        group["lr"] = 0.0
    started = time.perf_counter()
    optimizer.step()
    seconds = time.perf_counter() - started
    optimizer.zero_grad(set_to_none=True)
    return seconds


def make_config(args: argparse.Namespace, num_timed: int) -> StoryConfig:
    """Return the preset with one update of each earlier phase and a short joint phase, quantised half-way."""
    config = PRESETS[args.preset]
    total = num_timed + args.memory_steps
    schedule = {
        "max_steps": total,
        "autoencoder_ratio": 1 / total,
        "opening_ratio": 1 / total,
        "quantize_at": (num_timed // 2 + 0.5) / total,
        "num_stories": args.num_stories,
        "batch_size": args.batch_size or config.training.batch_size,
    }
    return dataclasses.replace(config, training=dataclasses.replace(config.training, **schedule))


def train_for_a_while(args: argparse.Namespace) -> TimedTrainer:
    """Run the real loop on the story world in a temporary folder."""
    num_timed = 2 * (args.warmups + args.repeats)
    config = make_config(args, num_timed)
    size = config.autoencoder.image_size
    dataset, held_out = StoryWorld(args.num_stories, image_size=size), StoryWorld(4, split="val", image_size=size)
    with tempfile.TemporaryDirectory() as folder:
        never = 10**9
        settings = TrainSettings(
            Path(folder),
            args.mixed_precision,
            save_every=never,
            sample_every=never,
            phases=PHASE_NAMES[:3],
            keep_last=1,
        )
        trainer = TimedTrainer(config, settings, dataset, held_out, make_accelerator(settings), StopSignals())
        trainer.watch(num_timed, args.warmups).run()
    return trainer


def summarise(updates: list[Update]) -> dict[str, Any]:
    """Return the measurements of one state."""
    parts = {name: summary([update.parts[name] for update in updates]) for name in PARTS if name in updates[0].parts}
    return {
        "pages_a_second": summary([update.pages / update.seconds for update in updates]),
        "seconds_an_update": summary([update.seconds for update in updates]),
        "seconds_of_parts_alone": parts,
        "seconds_of_data_alone": summary([update.data for update in updates]),
        "ratio_to_parts": summary([update.seconds / sum(update.parts.values()) for update in updates]),
    }


def memory_growth(memory: dict[int, float]) -> float:
    """Return MiB per 100 updates, by a straight line through the readings.

    The first one is left out if there are others: caches still fill.
    """
    readings = sorted(memory.items())[1 if len(memory) > 2 else 0 :]
    updates, mib = np.array(readings).T
    return float(np.polyfit(updates, mib, 1)[0] * 100)


def milliseconds(seconds: dict[str, float]) -> str:
    return f"{1000 * seconds['median']:,.1f}"


def measure(args: argparse.Namespace) -> tuple[dict[str, Any], list[Goal]]:
    """Measure both states, and memory growth if asked for."""
    trainer = train_for_a_while(args)
    results: dict[str, Any] = {state: summarise(updates) for state, updates in trainer.updates.items() if updates}
    rows, goals = [], []
    for state, numbers in results.items():
        rows += [
            [
                f"{state}: update",
                milliseconds(numbers["seconds_an_update"]),
                f"{numbers['pages_a_second']['median']:,.1f}",
            ]
        ]
        rows += [
            [f"  {name} alone", milliseconds(part), ""] for name, part in numbers["seconds_of_parts_alone"].items()
        ]
        rows += [["  (data alone)", milliseconds(numbers["seconds_of_data_alone"]), ""]]
        goals.append(Goal(f"update to the sum of its parts, {state}", numbers["ratio_to_parts"]["median"], 1.1))
    print_table(("milliseconds", "median", "pages a second"), rows)
    if trainer.memory:
        print("memory after updates, MiB:", ", ".join(f"{done}: {mib:,.0f}" for done, mib in trainer.memory.items()))
        results["rss_mib_after_updates"] = trainer.memory
    if len(trainer.memory) > 1:
        results["rss_mib_growth_a_100_updates"] = memory_growth(trainer.memory)
        goals.append(Goal("memory growth a 100 updates, MiB", results["rss_mib_growth_a_100_updates"], 2.0))
    return results, goals


def make_flags() -> argparse.ArgumentParser:
    parser = make_parser(__doc__, repeats=24, warmups=8)
    parser.add_argument("--preset", choices=sorted(PRESETS), default="storyworld")
    parser.add_argument(
        "--mixed_precision", type=resolve_precision, choices=("no", "bf16"), default="auto", help="default auto"
    )
    parser.add_argument("--batch_size", type=positive_int, help="stories (default: the preset's)")
    parser.add_argument("--num_stories", type=positive_int, default=240, help="stories drawn (default 240)")
    parser.add_argument(
        "--memory_steps",
        type=int,
        default=0,
        help=f"further updates, with memory read every {MEMORY_EVERY} (default 0)",
    )
    return parser


if __name__ == "__main__":
    start(measure, make_flags())
