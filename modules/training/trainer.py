"""The training loop over phases and updates: resumed exactly, safe to kill at any time."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from accelerate.utils import broadcast_object_list
from torch import Tensor, nn
from torch.optim import Optimizer

from modules.common.errors import UserError
from modules.common.interrupts import Interrupted, StopSignals
from modules.config import StoryConfig
from modules.encoded.stories import EncodedStories
from modules.layers.seeding import derive_seed
from modules.saving.checkpoint import checkpoint_to_resume, load_checkpoint, save_checkpoint
from modules.saving.model_folder import architectures_of, copy_model, load_autoencoder, save_model
from modules.saving.warm_start import donor_config, start_from
from modules.story import StoryDataset
from modules.story_model.story_model import build_model
from modules.text_decoder.tokenizers import Vocabulary, load_vocabulary, make_vocabulary
from modules.training.autoencoder_phase import AutoencoderPhase
from modules.training.monitor import Monitor
from modules.training.pace import RELATIVE_SECONDS, later_work
from modules.training.phase import Loss, Phase
from modules.training.phases import story_phase
from modules.training.plan import inherited_phases, plan_phases
from modules.training.processes import attention, is_sharded
from modules.training.settings import TrainSettings
from modules.training.sharding import Replicated, Sharded, full
from modules.training.state import PhaseWeights, RunState, run_identity
from modules.training.stories import TrainingStories

Forward = Callable[..., Any]


class Trainer:
    """One run: the model, the position (`state`), the weights that the current phase updates, and the loop."""

    ends: float | None = None  # Of a run of some minutes: when it is to be done, as `time.monotonic` counts.

    def __init__(
        self,
        config: StoryConfig,
        settings: TrainSettings,
        dataset: StoryDataset,
        held_out: StoryDataset,
        accelerator: Accelerator,
        signals: StopSignals,
        plan_dataset: StoryDataset | None = None,
    ) -> None:
        """`signals` stop the run: after an update, which is saved, or at once while stories are encoded."""
        self.config, self.settings, self.dataset, self.held_out = config, settings, dataset, held_out
        self.accelerator, self.signals = accelerator, signals
        self.num_parts = settings.gradient_accumulation_steps * accelerator.num_processes
        self.global_batch = config.training.batch_size * self.num_parts
        self.state = RunState(run_identity(config, settings, dataset, self.global_batch))
        self.plan_dataset = plan_dataset

    def run(self) -> Path:
        """Run the phases that are left and return the folder of the trained model."""
        folder, restart = self.settings.output_dir, self.settings.restart
        checkpoint = self._agree(checkpoint_to_resume(folder, restart) if self._is_first else None)
        tensors, saved = load_checkpoint(checkpoint) if checkpoint else ({}, {})
        if checkpoint:
            self.state = RunState.resume(checkpoint, saved, self.state.identity)
        elif self.settings.init_from is not None:
            donor = donor_config(self.settings.init_from, offline=self.settings.offline)
            self.state.done = inherited_phases(self.config, self.settings, donor)
        self.phases = plan_phases(self.config, self.settings, self.state.done)
        with self.signals.at_once(checkpoint):
            self._build(checkpoint, tensors)
        try:
            for name in self.phases:
                self.state.enter(name)
                self._run_phase(self._make_phase(name), tensors, saved)
                tensors = {}
        finally:
            self.monitor.close()
            self.stories.close()
        if self._newest is not None and self._is_first:
            copy_model(self._newest / "model", self.settings.output_dir / "model")
        self.accelerator.wait_for_everyone()
        return self.settings.output_dir / "model"

    # -- set-up

    def _build(self, checkpoint: Path | None, tensors: Mapping[str, dict[str, Tensor]]) -> None:
        """Make or load the tokenizer and the model, and what reads and distributes them."""
        self._newest = checkpoint
        torch.manual_seed(derive_seed(self.settings.seed, "weights"))
        self.model = build_model(self.config, "this config", offline=self.settings.offline)
        if checkpoint is not None:
            self.model.load_own_state(tensors["model"])
        self.model.to(self.accelerator.device)
        self.copies = (Sharded if is_sharded(self.accelerator) else Replicated)(self.model, self.accelerator)
        self._choose_stories()
        self.tokenizer = self._make_vocabulary(checkpoint)
        if self.settings.autoencoder is not None:
            self._reuse_autoencoder(self.settings.autoencoder, is_resumed=checkpoint is not None)
        self.stories = TrainingStories(
            self.model, self.tokenizer, self.dataset, self.plan_dataset, self.settings, self.accelerator
        )
        self.monitor = Monitor(
            self.settings, self.model, self.tokenizer, self.held_out, self.state.global_step, self._is_first
        )

    def _choose_stories(self) -> None:
        """Set the data sets; called before the vocabulary is made from them."""

    def _make_vocabulary(self, checkpoint: Path | None) -> Vocabulary:
        """Return the vocabulary of `checkpoint`, or a new one; that of --init_from comes with its weights."""
        config, trained = self.config.text_decoder, self.settings.init_from
        if checkpoint is not None:
            return load_vocabulary(checkpoint / "model", config)
        source = self.model.sources.get("text_decoder")
        vocabulary = make_vocabulary(config, self.config.vocab_size, self.dataset.texts(), source)
        if trained is None:
            return vocabulary
        return start_from(self.model, vocabulary, trained, offline=self.settings.offline, visible=self._is_first)

    def _reuse_autoencoder(self, path: Path, is_resumed: bool) -> None:
        weights = load_autoencoder(path, self.model, offline=self.settings.offline)
        current = self.model.autoencoder.state_dict()
        if is_resumed and any(not torch.equal(weights[name], value.cpu()) for name, value in current.items()):
            raise UserError(
                f"{self.settings.output_dir} has another autoencoder than {path}: leave --autoencoder out to resume it"
            )
        self.model.autoencoder.load_state_dict(weights)
        if "autoencoder" not in self.state.done:
            self.state.done.append("autoencoder")

    def _make_phase(self, name: str, encoded: Callable[[], EncodedStories] | None = None) -> Phase:
        """Return a phase on the run's stories, or on those that `encoded` returns."""
        training = self.config.training
        options = {
            "num_steps": training.num_updates(name),
            "learning_rate": training.learning_rate_of(name),
            "global_batch": self.global_batch,
            "seed": self.settings.seed,
            "autocast": self.accelerator.autocast,
            "visible": self._is_first,
            "whole": self.copies.whole,
        }
        if name == "autoencoder":
            return AutoencoderPhase(self.model, self.dataset, self.settings.num_workers, **options)
        if encoded is None:
            self.stories.encode_ahead()
        phase = story_phase(name, self.config)
        return phase(self.model, encoded or (lambda: self.stories.encoded(name)), **options)

    # -- the loop

    def _run_phase(self, phase: Phase, tensors: Mapping[str, dict[str, Tensor]], saved: Mapping[str, Any]) -> None:
        state = self.state
        with self.signals.at_once(self._newest):
            phase.start()
            phase.set_modes()
            if state.step == 0:
                phase.begin()
        self.weights = PhaseWeights(phase, self.copies, self.config.training)
        if tensors and state.step > 0:
            self._restore(tensors, saved)
        forward, optimizer = self.copies.prepare(self.weights.optimizer)
        self._choose_length(phase, forward, optimizer)
        self.monitor.start_phase(phase.name, state.step, phase.num_steps, self._later_work(phase), self.ends)
        while state.step < phase.num_steps:
            self._update(phase, forward, optimizer)
            state.advance()
            if self._is_stopped():  # No process leaves before the first one has saved.
                raise Interrupted(self.signals[0], self._agree(self._save()))
            if state.step % self.settings.save_every == 0 and state.step < phase.num_steps:
                self._save()
        self._note_duration(phase)
        self.weights.average.copy_to_parameters()
        self.copies.finish()
        phase.finish()
        state.done.append(phase.name)
        self._save()

    def _later_work(self, phase: Phase) -> float:
        """Return the work of the phases after this one, in updates of this one."""
        later = self.phases[self.phases.index(phase.name) + 1 :]
        return later_work(phase.name, phase.num_steps, later, self.config.training, RELATIVE_SECONDS)

    def _choose_length(self, phase: Phase, forward: Forward, optimizer: Optimizer) -> None:
        """Set the number of updates of a phase that differs from the config's."""

    def _note_duration(self, phase: Phase) -> None:
        """Called after the last update of a phase."""

    def _update(self, phase: Phase, forward: Forward, optimizer: Optimizer) -> None:
        """Make one update: the gradients of all parts, the checks, then weights, averages and codebook."""
        step, weights = self.state.step, self.weights
        rate = weights.set_learning_rate(step)
        phase.before_update(step)
        outputs = self._accumulate_gradients(phase, forward, step)
        self.accelerator.unscale_gradients(optimizer)
        norms = self.monitor.gradient_norms(phase, weights.module, step)
        norms["total"] = full(nn.utils.clip_grad_norm_(weights.parameters, self.config.training.max_grad_norm))
        losses, norm_values = self._read(outputs, norms)
        is_finite = math.isfinite(losses["loss"]) and math.isfinite(norm_values["total"])
        if is_finite or self.accelerator.scaler is not None:  # A loss scaler skips the update and lowers its scale.
            optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        self.state.count_skipped(is_finite, losses["loss"], norm_values["total"])
        if is_finite:
            weights.average.update(step)
            phase.after_update(step, outputs, self.accelerator.gather)
        self.monitor.update(phase, self.state, losses, norm_values, rate)
        if (step + 1) % self.settings.sample_every == 0:
            self._sample(phase, weights)

    def _sample(self, phase: Phase, weights: PhaseWeights) -> None:
        with weights.average.applied(), self.copies.whole():
            self.monitor.sample(phase, self.state.global_step)

    def _accumulate_gradients(self, phase: Phase, forward: Forward, step: int) -> list[Loss]:
        """Run this process's parts of the global batch of update `step` forward and backward; return their outputs."""
        count = self.settings.gradient_accumulation_steps
        outputs: list[Loss] = []
        parts = range(self.accelerator.process_index * count, (self.accelerator.process_index + 1) * count)
        phase.expect(step, parts, self.num_parts)
        for part in parts:
            torch.manual_seed(derive_seed(self.settings.seed, "dropout", phase.name, step, part))
            sync = nullcontext() if part == parts[-1] else self.copies.no_sync()
            with sync, attention(self.accelerator.device):
                output = phase.loss(forward, step, part, self.num_parts)
                self.accelerator.backward(output.loss / count)
            outputs.append(output)
        return outputs

    def _read(self, outputs: list[Loss], norms: Mapping[str, Tensor]) -> tuple[dict[str, float], dict[str, float]]:
        """Return the losses of the global batch (means over its parts) and the gradient norms as numbers.

        This is the only place where an update waits for the device.
        """
        names = ["loss", *outputs[0].losses]
        parts = [torch.stack([output.loss, *output.losses.values()]).detach().float() for output in outputs]
        losses = self.accelerator.reduce(torch.stack(parts).mean(0), "mean")
        numbers = torch.cat([losses, torch.stack([norm.float() for norm in norms.values()])]).tolist()
        return (
            dict(zip(names, numbers[: len(names)], strict=True)),
            dict(zip(norms, numbers[len(names) :], strict=True)),
        )

    def _is_stopped(self) -> bool:
        """Return whether any process received a signal; all processes return the same."""
        if self.accelerator.num_processes > 1:
            own = torch.tensor([self.signals[0] if self.signals else 0], device=self.accelerator.device)
            newest = int(self.accelerator.gather(own).max())
            if newest and not self.signals:
                self.signals.append(newest)
        return bool(self.signals)

    # -- processes, saving

    @property
    def _is_first(self) -> bool:
        return self.accelerator.is_main_process

    @property
    def saved_config(self) -> StoryConfig:
        """The config that a checkpoint contains."""
        return self.config

    def _agree(self, value: Any) -> Any:
        """Return the first process's value on all processes."""
        return broadcast_object_list([value])[0]

    def _save(self) -> Path | None:
        """Write a checkpoint; every process takes part, and the first one returns its folder."""
        tensors, optimizer = self.weights.gather()
        if not self._is_first:
            return None
        self.monitor.flush()
        scaler = self.accelerator.scaler
        saved = {"optimizer": optimizer, "scaler": scaler.state_dict() if scaler is not None else None}
        averaged = self.weights.averaged_model(tensors)

        def write_model(folder: Path) -> None:
            save_model(folder / "model", self.saved_config, averaged, self.tokenizer, architectures_of(self.model))

        folder, keep = self.settings.output_dir, self.settings.keep_last
        state = self.state.as_dict() | saved
        self._newest = save_checkpoint(folder, self.state.global_step, tensors, state, keep, write_model)
        return self._newest

    def _restore(self, tensors: Mapping[str, dict[str, Tensor]], saved: Mapping[str, Any]) -> None:
        self.weights.restore(tensors, saved["optimizer"])
        if self.accelerator.scaler is not None and saved["scaler"]:
            self.accelerator.scaler.load_state_dict(saved["scaler"])
