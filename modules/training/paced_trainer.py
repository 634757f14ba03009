"""A run that has a number of minutes: it measures its speed and fits the phases into the time."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

from torch.nn.utils import clip_grad_norm_
from torch.optim import Optimizer

from modules.common.errors import UserError
from modules.common.progress import duration
from modules.config import StoryConfig
from modules.data.read_ahead import Head
from modules.encoded.codes import cache_codes
from modules.encoded.stories import EncodedStories
from modules.storyworld import StoryWorld
from modules.text_decoder.tokenizers import make_vocabulary
from modules.training.pace import BEFORE_CODES, PLAN_STORIES_SHARE, STORIES_SHARE, Pace
from modules.training.phase import Phase
from modules.training.sharding import full
from modules.training.state import PhaseWeights
from modules.training.trainer import Forward, Trainer

SURVEY_STORIES = 48  # At least: stories that are encoded to measure how long a story takes.
REPEATS = 3  # Updates measured, after one to warm up.
CANDIDATES = 24  # Updates of which those measured are chosen: a short one, a typical one and a long one.
MEASURING_SHARE = 0.1  # Of the time, for measuring updates.
SAMPLES_SHARE = 0.05  # Of the time, for samples: beside a large language model one can take minutes.
CONTINUOUS = ("autoencoder", "opening")  # Phases before there are codes.
T = TypeVar("T")


class PacedTrainer(Trainer):
    """A run of `settings.max_minutes`.

    It times updates of every phase before the first one, and again at the start of each phase, by passes that change no
    weight. A phase's length is decided at its start from the time that is left then, in the proportions of the config.
    What was decided is part of the state, so the run resumes exactly, and of the saved config: a run from that config
    has the same result, if its planning phase reads all stories that the prior has.
    """

    def __init__(self, *parts: Any, started: float) -> None:
        """`parts` are the arguments of `Trainer`; the minutes count from `started`, a time of `time.monotonic`."""
        super().__init__(*parts)
        assert self.settings.max_minutes is not None
        self.state.pace = Pace(self.settings.max_minutes)
        self.started, self._spent_before = started, 0.0
        self._sampled, self._sampling = started, 0.0  # When samples were logged, and the seconds that it took.
        self._phase_started: float | None = None
        self._phase_ended: float | None = None

    @property
    def pace(self) -> Pace:
        """What has been measured and decided so far."""
        assert self.state.pace is not None
        return self.state.pace

    @property
    def saved_config(self) -> StoryConfig:
        return self.pace.resolved(self.config)

    def _elapsed(self) -> float:
        """Return the seconds that the run has taken, up to the resumed checkpoint and since this process started."""
        return self._spent_before + time.monotonic() - self.started

    def _save(self) -> Path | None:
        self.pace.spent = self._elapsed()
        return super()._save()

    def _sample(self, phase: Phase, weights: PhaseWeights) -> None:
        """Log samples if the last ones took a small share of the time since at most; the first time always."""
        started = time.monotonic()
        if self._agree(self._sampling <= SAMPLES_SHARE * (started - self._sampled)):
            super()._sample(phase, weights)
            self._sampled = time.monotonic()
            self._sampling = self._sampled - started

    # -- before the first phase

    def _choose_stories(self) -> None:
        pace, whole, more = self.pace, self.dataset, self.plan_dataset
        self._spent_before = pace.spent
        self.ends = self.started + 60 * pace.minutes - pace.spent
        if missing := [name for name in self.phases if pace.seconds_per_update and name not in pace.seconds_per_update]:
            raise UserError(
                f"--phases: no time was set aside for {', '.join(missing)} when this run of {pace.minutes:g} minutes"
                " began: leave it out, or go on from this model (--init_from) in another --output_dir"
            )
        if not pace.seconds_per_update:
            self.dataset = Head(whole, max(self.global_batch, SURVEY_STORIES))
            latents, codes = self._survey(pace, sum(whole.lengths))
            count = len(whole)
            if self.settings.cache is not None:
                latents = 0.0
            elif isinstance(whole, StoryWorld):
                fitting = pace.stories_within(STORIES_SHARE, latents + codes)
                count = pace.num_stories = min(count, max(fitting, 2 * self.global_batch))
            if more is not None:
                fitting = min(len(more), pace.stories_within(PLAN_STORIES_SHARE, latents))
                pace.num_plan_stories = fitting if fitting > count else None
            pace.note_encoding(self.phases, latents * count, codes * count, latents * (pace.num_plan_stories or 0))
            self._check_encoding(count)
            pace.fit_batch(self.phases, self.config.training, 60 * pace.minutes - self._elapsed())
            self.state.pace = pace = self._agree(pace)
        if pace.batch_size is not None:
            self._shrink_batch(pace.batch_size)
        self.dataset = whole.first(pace.num_stories) if isinstance(whole, StoryWorld) and pace.num_stories else whole
        if isinstance(more, StoryWorld):
            self.plan_dataset = more.first(pace.num_plan_stories) if pace.num_plan_stories else None

    def _check_encoding(self, count: int) -> None:
        """Raise UserError if encoding the stories takes more than all the time."""
        pace = self.pace
        seconds = sum(pace.seconds_before.values())
        if seconds > 60 * pace.minutes:
            raise UserError(
                f"--max_minutes {pace.minutes:g}: encoding {count:,} stories takes about {duration(seconds)} on this"
                " machine: allow more, or encode them once with precompute and give --cache"
            )

    def _shrink_batch(self, size: int) -> None:
        self.global_batch = size * self.num_parts
        if self._is_first:
            whole, minutes = self.config.training.batch_size, self.pace.minutes
            print(f"training.batch_size: {size}, not {whole}: more updates in {minutes:g} minutes", file=sys.stderr)

    def _survey(self, pace: Pace, num_pages: int) -> tuple[float, float]:
        """Measure on a few stories how long an update of each phase takes, and the latents and codes of a story; and
        how long it will take a language model to read the texts of `num_pages` pages, if it reads them once.
        """
        latents, stories = seconds_of(self._encode)
        seconds, codes = 0.0, None
        if self.model.has_codes:
            with self._codes_assumed(), self.accelerator.autocast():
                seconds, codes = seconds_of(lambda: cache_codes(self.model.eval(), stories, visible=False))
        for name in self.phases:
            stories.codes = None if name in BEFORE_CODES else codes
            phase = self._make_phase(name, lambda: stories)
            phase.start()
            phase.set_modes()
            self.weights = PhaseWeights(phase, self.copies, self.config.training)
            forward, optimizer = self.copies.prepare(self.weights.optimizer)
            pace.seconds_per_update[name], reading = self._measure(phase, forward, optimizer, num_pages)
            if reading and not pace.seconds_within:  # What one phase has read the next one knows.
                pace.seconds_within = {name: reading}
            self.copies.finish()
        return latents / len(stories), seconds / len(stories)

    def _encode(self) -> EncodedStories:
        """Return the stories, encoded by untrained weights, in a vocabulary of their own."""
        config, source = self.config, self.model.sources.get("text_decoder")
        vocabulary = make_vocabulary(config.text_decoder, config.vocab_size, self.dataset.texts(), source)
        return EncodedStories(self.dataset, self.model, vocabulary)

    # -- at the start and end of a phase

    def _choose_length(self, phase: Phase, forward: Forward, optimizer: Optimizer) -> None:
        pace, name = self.pace, phase.name
        self._phase_started = None
        if name not in pace.updates:
            if pace.seconds_per_update[name] < self._patience:
                num_pages = sum(self.dataset.lengths)
                pace.seconds_per_update[name], reading = self._measure(phase, forward, optimizer, num_pages)
                if reading:
                    pace.seconds_within = {name: reading}
            if self._phase_ended is not None:
                pace.observe_pause(name, time.monotonic() - self._phase_ended)
            left = 60 * pace.minutes - self._elapsed()
            pace.updates[name] = pace.fit(self.phases[self.phases.index(name) :], self.config.training, left)
            self.state.pace = pace = self._agree(pace)
            self._phase_started = time.monotonic()
        phase.num_steps = pace.updates[name]

    def _note_duration(self, phase: Phase) -> None:
        if self._phase_started is not None:  # A resumed phase was not timed from its start.
            self._phase_ended = time.monotonic()
            self.pace.observe(phase.name, phase.num_steps, self._phase_ended - self._phase_started)

    @property
    def _patience(self) -> float:
        """Seconds for one measurement: every phase is measured twice."""
        return MEASURING_SHARE * 60 * self.pace.minutes / (2 * len(self.phases))

    def _measure(self, phase: Phase, forward: Forward, optimizer: Optimizer, num_pages: int) -> tuple[float, float]:
        """Return the seconds of an average update of `phase`, measured without changing a weight; and of those in which
        a language model will read the texts of `num_pages` pages, if it reads them once: these are not in the former.
        """
        by_size = sorted(range(CANDIDATES), key=phase.relative_size)
        steps = [by_size[CANDIDATES * (2 * number + 1) // (2 * REPEATS)] for number in range(REPEATS)]
        kept = self.model.text_decoder.kept_states

        def seconds_of_updates(steps: Sequence[int]) -> tuple[float, float]:
            before, started = kept.seconds, time.monotonic()
            for step in steps:
                self._pass(phase, forward, optimizer, step)
            reading = kept.seconds - before if kept.keeps(num_pages) else 0.0
            return time.monotonic() - started - reading, reading

        with self._codes_assumed(phase.name not in CONTINUOUS):
            seconds, reading = self._agree(seconds_of_updates(steps[-1:]))
            if (seconds + reading) * (1 + REPEATS) > self._patience:
                steps = steps[-1:]
            else:
                seconds, _ = seconds_of_updates(steps)
        once = kept.seconds_to_read(num_pages) if reading else 0.0
        return seconds / sum(map(phase.relative_size, steps)), once

    def _pass(self, phase: Phase, forward: Forward, optimizer: Optimizer, step: int) -> None:
        """Make the passes of update `step`, and forget the gradients."""
        outputs = self._accumulate_gradients(phase, forward, step)
        norm = clip_grad_norm_(self.weights.parameters, self.config.training.max_grad_norm)
        self._read(outputs, {"total": full(norm)})  # Waits for the device.
        optimizer.zero_grad(set_to_none=True)

    @contextmanager
    def _codes_assumed(self, assumed: bool = True) -> Iterator[None]:
        """Inside, the quantiser works, although its codebook may not have been fitted yet."""
        was_ready = self.model.is_ready
        if assumed and not was_ready:
            self.model.assume_ready()
        try:
            yield
        finally:
            if self.model.is_ready != was_ready:
                self.model.storyboard.quantizer.is_active = False


def seconds_of(call: Callable[[], T]) -> tuple[float, T]:
    """Return how long a call took, and its result."""
    started = time.monotonic()
    result = call()
    return time.monotonic() - started, result
