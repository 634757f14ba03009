"""Arithmetic of a run that has a number of minutes: how many stories and updates fit. Imports no torch."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from modules.config import StoryConfig, TrainingConfig

STORIES_SHARE = 0.08  # Of the time, for encoding stories of the story world.
PLAN_STORIES_SHARE = 0.08  # Of the time, for encoding more of them for the prior, at most.
RESERVE = 0.01  # Of the time, for what follows the last update.
FEW_UPDATES = 100  # Of the joint phase: rather than fewer, batches are smaller.
SMALLEST_BATCH = 2  # Stories.
LONGEST = 1.5  # Times a phase's length beside the joint one: minutes left over would be hundreds of cheap updates.
SLOWDOWNS = (1.0, 1.25)  # Limits: one phase, which may have become faster, must not distort the others.

BEFORE_CODES = ("autoencoder", "opening", "joint")  # Phases that read no cached codes.

# Of an update of the preset storyworld on a CPU, see README.md.
RELATIVE_SECONDS = {
    "autoencoder": 1.2,
    "opening": 1.5,
    "joint": 2.0,
    "consolidation": 2.9,
    "writing": 0.9,
    "illustration": 0.9,
    "planning": 0.6,
}


@dataclass
class Pace:
    """What a run has measured and decided; part of its state.

    Seconds are those of one process. `updates` are the lengths of the phases that have begun.
    """

    minutes: float
    spent: float = 0.0  # Seconds up to the checkpoint that was resumed.
    num_stories: int | None = None  # Of the story world.
    num_plan_stories: int | None = None
    batch_size: int | None = None  # Stories in a batch of one process; None: as the config has it.
    seconds_per_update: dict[str, float] = field(default_factory=dict)  # Of all phases, measured before the first.
    seconds_before: dict[str, float] = field(default_factory=dict)  # A phase's work before its first update.
    seconds_within: dict[str, float] = field(default_factory=dict)  # A phase's work among its updates, done once.
    updates: dict[str, int] = field(default_factory=dict)
    slowdown: float = 1.05  # Time of a phase's updates, checkpoints and samples included, over what was measured.
    between: float = 0.0  # Seconds from the last update of a phase to the first of the next, encoding aside.

    def stories_within(self, share: float, seconds_per_story: float) -> int:
        """Return how many stories can be encoded in a share of the time."""
        return int(share * 60 * self.minutes / max(seconds_per_story, 1e-9))

    def note_encoding(self, phases: Sequence[str], latents: float, codes: float, plan_latents: float) -> None:
        """Note the seconds that encoding takes before the phase that first needs the latents of the stories, their
        codes, and the latents of the prior's own stories.
        """
        stories = [name for name in phases if name != "autoencoder"]
        on_codes = [name for name in stories if name not in BEFORE_CODES]
        planning = [name for name in stories if name == "planning"]
        for names, seconds in ((stories, latents), (on_codes, codes), (planning, plan_latents)):
            for name in names[:1]:
                self.seconds_before[name] = self.seconds_before.get(name, 0.0) + seconds

    def fit(self, phases: Sequence[str], training: TrainingConfig, left: float) -> int:
        """Return the updates of the first of `phases`, if these fill `left` seconds in the config's proportions.

        After the joint phase none becomes much longer beside that one than in the config, whatever time is left: on a
        few hundred stories a prior of many updates learns these by heart.
        """
        once = sum(self.between + self.seconds_before.get(name, 0.0) for name in phases[1:])
        once += sum(self.seconds_within.get(name, 0.0) for name in phases)
        weights = {name: training.num_updates(name) for name in phases}
        cost = self.slowdown * sum(self.seconds_per_update[name] * weight for name, weight in weights.items())
        usable = max(0.0, left - once - RESERVE * 60 * self.minutes)
        updates, joint = int(weights[phases[0]] * usable / cost), self.updates.get("joint")
        if joint is not None:
            updates = min(updates, round(LONGEST * joint * weights[phases[0]] / training.max_steps))
        return max(1, updates)

    def fit_batch(self, phases: Sequence[str], training: TrainingConfig, left: float) -> None:
        """Choose smaller batches where there is time, in `left` seconds, for few updates of the joint phase only: at
        the start of a training, many small updates are worth more than few large ones.
        """
        if "joint" not in phases:
            return
        first = self.fit(phases, training, left - self.seconds_before.get(phases[0], 0.0))
        joint = first * training.max_steps / training.num_updates(phases[0])
        size = max(SMALLEST_BATCH, math.ceil(training.batch_size * joint / FEW_UPDATES))
        if size < training.batch_size:
            share, self.batch_size = size / training.batch_size, size
            self.seconds_per_update = {name: share * value for name, value in self.seconds_per_update.items()}

    def observe(self, phase: str, num_updates: int, seconds: float) -> None:
        """Note how long a phase's updates took, from its first one to its last."""
        seconds -= self.seconds_within.get(phase, 0.0)
        slowdown = seconds / (num_updates * self.seconds_per_update[phase])
        self.slowdown = min(max(slowdown, SLOWDOWNS[0]), SLOWDOWNS[1])

    def observe_pause(self, phase: str, seconds: float) -> None:
        """Note how long it took from the last update before `phase` to its first one."""
        self.between = max(0.0, seconds - self.seconds_before.get(phase, 0.0))

    def resolved(self, config: StoryConfig) -> StoryConfig:
        """Return the config in which the stories and updates decided so far are written down: it repeats the run."""
        training, joint = config.training, self.updates.get("joint", config.training.max_steps)
        values: dict[str, Any] = {"max_steps": joint}
        values |= {f"{name}_ratio": count / joint for name, count in self.updates.items() if name != "joint"}
        if self.batch_size is not None:
            values["batch_size"] = self.batch_size
        if self.num_stories is not None:
            plan = self.num_plan_stories or self.num_stories
            values |= {"num_stories": self.num_stories, "plan_stories_ratio": plan / self.num_stories}
        return dataclasses.replace(config, training=dataclasses.replace(training, **values))


def later_work(
    phase: str, num_updates: int, later: Sequence[str], training: TrainingConfig, seconds: Mapping[str, float]
) -> float:
    """Return the work of the phases `later`, in updates of `phase`, given the seconds of an update of each.

    They are as much longer or shorter than in the config as `phase` is with `num_updates`.
    """
    work = sum(training.num_updates(name) * seconds[name] for name in later)
    return work / seconds[phase] * num_updates / training.num_updates(phase)
