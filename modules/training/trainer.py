"""train(): four phases, one loop; exact to resume, safe to kill."""

from __future__ import annotations

import math
import shutil
from collections.abc import Iterator, Mapping
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from accelerate.utils import broadcast_object_list
from torch import Tensor, nn

from modules.common.errors import UserError
from modules.common.interrupts import Interrupted, stop_on_signals
from modules.common.progress import progress_line
from modules.config import StoryConfig
from modules.encoded.cache import EncodedCache
from modules.encoded.rows import ShardedRows
from modules.encoded.stories import EncodedStories
from modules.layers.seeding import derive_seed
from modules.saving.checkpoint import latest_checkpoint, load_checkpoint, save_checkpoint
from modules.saving.model_folder import architectures_of, load_autoencoder, save_model
from modules.saving.optimizer_state import flatten_optimizer, restore_optimizer
from modules.saving.run_lock import RunLock
from modules.story import StoryDataset
from modules.story_model import build_model
from modules.text_decoder.tokenizers import load_vocabulary, make_vocabulary
from modules.training.autoencoder_phase import AutoencoderPhase
from modules.training.monitor import Monitor
from modules.training.optimizer import WeightAverage, cosine_with_warmup, parameter_groups
from modules.training.phases import PHASES, PHASES_WITHOUT_CODES, Phase, StoryPhase
from modules.training.processes import forgotten_precision, is_sharded, make_accelerator
from modules.training.settings import PHASE_NAMES, TrainSettings, check_same_run, run_identity
from modules.training.sharding import Replicated, Sharded, cut_like, cut_moments, full
from modules.training.writers import check_log_with

MAX_SKIPPED_IN_A_ROW = 10


def train(config: StoryConfig, args: TrainSettings, source: StoryDataset, held_out: StoryDataset) -> Path:
    """Train a model on `source` and return the folder to generate from; the same call resumes.

    Raises UserError on settings that do not fit the folder, and on several non-finite updates in a row; Interrupted on
    a signal.
    """
    check_log_with(args.log_with)
    with forgotten_precision():
        accelerator = make_accelerator(args)
        with RunLock(args.output_dir) if accelerator.is_main_process else nullcontext(), stop_on_signals() as stop:
            return Trainer(config, args, source, held_out, accelerator, stop).run()


class Trainer:
    """The state of a run: model, averaged weights, optimizer, phase and step."""

    def __init__(
        self,
        config: StoryConfig,
        args: TrainSettings,
        source: StoryDataset,
        held_out: StoryDataset,
        accelerator: Accelerator,
        stop: list[int],
    ) -> None:
        self.config, self.args, self.source, self.held_out = config, args, source, held_out
        self.accelerator, self.stop = accelerator, stop
        self.lengths = source.lengths
        self.global_batch = config.training.batch_size * args.gradient_accumulation_steps * accelerator.num_processes
        self.identity = run_identity(config, args, source, self.global_batch)
        self.phase_name, self.step, self.global_step = args.stages[0], 0, 0
        self.skipped = self.skipped_in_a_row = 0
        self._encoded: EncodedStories | None = None
        self._state: dict[str, Any] | None = None

    def run(self) -> Path:
        checkpoint = self._agree(latest_checkpoint(self.args.output_dir) if self.accelerator.is_main_process else None)
        tensors, self._state = load_checkpoint(checkpoint) if checkpoint else ({}, None)
        self._saved = checkpoint
        self._build(checkpoint, tensors, self._state)
        try:
            for phase in self._phases(self._state):
                self._run_phase(phase, tensors)
                tensors = {}
        finally:
            self.monitor.close()
        if self.accelerator.is_main_process:
            shutil.copytree(self._saved / "model", self.args.output_dir / "model", dirs_exist_ok=True)
        self.accelerator.wait_for_everyone()
        return self.args.output_dir / "model"

    # -- set-up
    # ---------------------------------------------------------------------------------------------------------

    def _build(
        self, checkpoint: Path | None, tensors: dict[str, dict[str, Tensor]], state: dict[str, Any] | None
    ) -> None:
        """Make or load tokenizer and model, and check that a resumed run is the same run."""
        torch.manual_seed(derive_seed(self.args.seed, "weights"))
        self.model = build_model(self.config, "this config", offline=self.args.offline)
        if state is None:
            self.tokenizer = make_vocabulary(
                self.config.text_decoder,
                self.config.vocab_size,
                self.source.texts(),
                self.model.sources.get("text_decoder"),
            )
        else:
            check_same_run(checkpoint, state["identity"], self.identity)
            self.tokenizer = load_vocabulary(checkpoint / "model", self.config.text_decoder)
            self.model.load_own_state(tensors["model"])
            self.phase_name, self.step, self.global_step = state["phase"], state["step"], state["global_step"]
            self.skipped, self.skipped_in_a_row = state["skipped"], state["skipped_in_a_row"]
        if self.args.autoencoder is not None:
            self._reuse_autoencoder(self.args.autoencoder, resumed=state is not None)
        self._cached = None if self.args.cache is None else self._open_cache(self.args.cache, state)
        self.model.to(self.accelerator.device)
        self.copies = (Sharded if is_sharded(self.accelerator) else Replicated)(self.model, self.accelerator)
        self.monitor = Monitor(
            self.args.output_dir,
            self.args.log_every,
            self.model,
            self.tokenizer,
            self.held_out,
            self.global_step,
            self.accelerator.is_main_process,
            self.args.log_with,
        )

    def _reuse_autoencoder(self, path: Path, resumed: bool) -> None:
        weights = load_autoencoder(path, self.config, offline=self.args.offline)
        if resumed and any(
            not torch.equal(weights[name], value) for name, value in self.model.autoencoder.state_dict().items()
        ):
            raise UserError(
                f"{self.args.output_dir} has another autoencoder than {path}: leave --autoencoder out to go on with it"
            )
        self.model.autoencoder.load_state_dict(weights)

    def _open_cache(self, path: Path, state: dict[str, Any] | None) -> Mapping[str, ShardedRows]:
        trained = (
            self.config.autoencoder.source
            or self.args.autoencoder
            or (state is not None and "autoencoder" in state["done"])
        )
        if not trained:
            raise UserError("--cache goes with the autoencoder that it was made with: give that one by --autoencoder")
        return EncodedCache(path, self.model, self.source).rows

    def _phases(self, state: dict[str, Any] | None) -> Iterator[Phase]:
        """The phases still to be run, each made when its turn comes."""
        known = self.known_phases
        if not ("autoencoder" in known or self.config.autoencoder.source or self.args.autoencoder):
            raise UserError("training.autoencoder_ratio is 0: give a trained autoencoder by --autoencoder")
        if not set(known) & set(self.args.stages):
            raise UserError(
                f"this config trains nothing in {','.join(self.args.stages)}: name some of {','.join(known)} by --stages"
            )
        done = [] if state is None else state["done"]
        self.done = list(done)
        if self.args.autoencoder is not None and "autoencoder" not in self.done:
            self.done.append("autoencoder")
            if self.args.stages == ("autoencoder",):
                raise UserError(
                    "--autoencoder takes the place of the only stage that --stages asks for: leave one of them out"
                )
        for name in self.args.stages:
            if name not in known:
                continue
            needs = [stage for stage in PHASE_NAMES[: PHASE_NAMES.index(name)] if stage in known]
            missing = [stage for stage in needs if stage not in self.done]
            if missing:
                raise UserError(
                    f"--stages {name} needs a finished {missing[0]} stage in {self.args.output_dir}: run that first"
                )
            if name in self.done:
                continue
            if name != self.phase_name:
                self.phase_name, self.step = name, 0
            yield self._make_phase(name)

    @property
    def story_phases(self) -> dict[str, type[StoryPhase]]:
        return PHASES if self.config.plan == "codes" else PHASES_WITHOUT_CODES

    @property
    def known_phases(self) -> list[str]:
        """What this config has to train, in order: no phase of no updates, and no autoencoder that is pretrained."""
        names = self.story_phases if self.config.autoencoder.source else ("autoencoder", *self.story_phases)
        return [name for name in names if self.config.training.num_updates(name)]

    def _make_phase(self, name: str) -> Phase:
        training = self.config.training
        options = {
            "num_steps": training.num_updates(name),
            "learning_rate": training.learning_rate_of(name),
            "global_batch": self.global_batch,
            "seed": self.args.seed,
            "autocast": self.accelerator.autocast,
            "visible": self.accelerator.is_main_process,
            "whole": self.copies.whole,
        }
        if name == "autoencoder":
            return AutoencoderPhase(self.model, self.source, self.lengths, self.args.num_workers, **options)
        return self.story_phases[name](self.model, self._encode_stories, **options)

    def _encode_stories(self) -> EncodedStories:
        if self._encoded is None:
            with progress_line("encoding stories", len(self.source), self.accelerator.is_main_process) as progress:
                self._encoded = EncodedStories(
                    self.source, self.model, self.tokenizer, progress.update, self.args.num_workers, self._cached
                )
        return self._encoded

    def _agree(self, value: Any) -> Any:
        return broadcast_object_list([value])[0]

    # -- the loop
    # -------------------------------------------------------------------------------------------------------

    def _run_phase(self, phase: Phase, tensors: dict[str, dict[str, Tensor]]) -> None:
        phase.start()
        phase.set_modes()
        if self.step == 0:
            phase.begin()
        self._make_updated(phase)
        if tensors and self.step > 0:
            self._restore(tensors)
        module, optimizer = self.copies.prepare(self.optimizer)
        self.monitor.start_phase(phase.name, self.step, phase.num_steps)
        while self.step < phase.num_steps:
            self._update(phase, module, optimizer)
            self.step += 1
            self.global_step += 1
            if self._asked_to_stop():
                raise Interrupted(
                    self.stop[0], self._agree(self._save(phase))
                )  # No rank leaves before the first has saved.
            if self.step % self.args.save_every == 0 and self.step < phase.num_steps:
                self._save(phase)
        self._finish(phase)

    def _make_updated(self, phase: Phase) -> None:
        """What an update changes: the phase's parameters, their averages and the optimizer."""
        places = {
            id(value): str(index) for index, value in enumerate(p for p in phase.module.parameters() if p.requires_grad)
        }
        names = self.model.named_parameters(remove_duplicate=False)
        self.average_of = {name: places[id(value)] for name, value in names if id(value) in places}
        self.trained = self.copies.start(phase.module)
        self.parameters = [parameter for parameter in self.trained.parameters() if parameter.requires_grad]
        self.average = WeightAverage(self.parameters, self.config.training.ema_decay)
        self.optimizer = self._make_optimizer(phase)

    def _make_optimizer(self, phase: Phase) -> torch.optim.Optimizer:
        training = self.config.training
        groups = parameter_groups(self.trained.named_parameters(), self.model.pretrained, self.model.gates, training)
        return torch.optim.AdamW(groups, lr=phase.learning_rate, betas=training.adam_betas, fused=True)

    def _update(self, phase: Phase, module: nn.Module, optimizer: torch.optim.Optimizer) -> None:
        """One optimizer update: the parts' gradients, the checks, then weights, averages and codebook."""
        parts, ranks = self.args.gradient_accumulation_steps, self.accelerator.num_processes
        phase.expect(
            self.step,
            range(self.accelerator.process_index * parts, (self.accelerator.process_index + 1) * parts),
            parts * ranks,
        )
        phase.before_update(self.step)
        rate = self._set_learning_rate(phase)
        outputs = []
        for index in range(parts):
            part = self.accelerator.process_index * parts + index
            torch.manual_seed(derive_seed(self.args.seed, "dropout", phase.name, self.step, part))
            with self.copies.no_sync() if index < parts - 1 else nullcontext():
                output = phase.loss(module, self.step, part, parts * ranks)
                self.accelerator.backward(output.loss / parts)
            outputs.append(output)
        self.accelerator.unscale_gradients(optimizer)
        norms = self.monitor.gradient_norms(phase, self.trained, self.step)
        grad_norm = full(nn.utils.clip_grad_norm_(self.parameters, self.config.training.max_grad_norm))
        losses = self._mean_losses(outputs)
        finite = math.isfinite(losses["loss"]) and math.isfinite(float(grad_norm))
        if (
            finite or self.accelerator.scaler is not None
        ):  # A loss scaler skips the update itself, and lowers its scale.
            optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        self._count_skipped(finite, losses, float(grad_norm))
        if finite:
            self.average.update(self.step)
            phase.after_update(self.step, outputs, self.accelerator.gather)
        self.monitor.update(
            phase, self.step, self.global_step, losses, norms | {"total": float(grad_norm)}, rate, self.skipped
        )
        if (self.step + 1) % self.args.sample_every == 0:
            with self.average.applied(), self.copies.whole():
                self.monitor.sample(phase, self.global_step)

    def _set_learning_rate(self, phase: Phase) -> float:
        training = self.config.training
        warmup = max(1, round(training.warmup_ratio * phase.num_steps))
        rate = phase.learning_rate * cosine_with_warmup(
            self.step, phase.num_steps, warmup, training.learning_rate_floor
        )
        for group in self.optimizer.param_groups:
            group["lr"] = rate * group.get("share", 1.0)  # Runs from before there were pretrained weights have none.
        return rate

    def _mean_losses(self, outputs: list[Any]) -> dict[str, float]:
        """Losses of the global batch: the mean over its parts, on every rank the same."""
        names = ["loss", *outputs[0].losses]
        values = torch.stack(
            [torch.stack([output.loss, *output.losses.values()]).detach().float() for output in outputs]
        ).mean(0)
        return dict(zip(names, self.accelerator.reduce(values, "mean").tolist(), strict=True))

    def _count_skipped(self, finite: bool, losses: dict[str, float], grad_norm: float) -> None:
        self.skipped_in_a_row = 0 if finite else self.skipped_in_a_row + 1
        self.skipped += not finite
        if self.skipped_in_a_row >= MAX_SKIPPED_IN_A_ROW:
            raise UserError(
                f"{MAX_SKIPPED_IN_A_ROW} updates in a row gave a non-finite loss or gradient (last: loss {losses['loss']}, gradient norm "
                f"{grad_norm}) at step {self.step} of {self.phase_name}: lower --learning_rate or use --mixed_precision no; "
                "the last checkpoint is sound"
            )

    def _asked_to_stop(self) -> bool:
        """Whether any process got a signal; all of them learn it at the same step."""
        mine = torch.tensor([self.stop[0] if self.stop else 0], device=self.accelerator.device)
        anyone = int(self.accelerator.gather(mine).max())
        if anyone and not self.stop:
            self.stop.append(anyone)
        return bool(anyone)

    # -- saving
    # ---------------------------------------------------------------------------------------------------------

    def _finish(self, phase: Phase) -> None:
        self.average.copy_to_parameters()
        self.copies.finish()
        phase.finish()
        self.done.append(phase.name)
        self._save(phase)

    def _save(self, phase: Phase) -> Path | None:
        """Write a checkpoint; every process takes part, and the first one returns its folder."""
        tensors, optimizer = flatten_optimizer(self.optimizer)
        groups = {
            "model": self.copies.own_state(),
            "optimizer": self.copies.gather(tensors),
            "averages": self.copies.gather(self.average.state_dict()),
        }
        if not self.accelerator.is_main_process:
            return None
        self.monitor.flush()
        scaler = self.accelerator.scaler
        state = {
            "identity": self.identity,
            "phase": self.phase_name,
            "step": self.step,
            "global_step": self.global_step,
            "done": self.done,
            "skipped": self.skipped,
            "skipped_in_a_row": self.skipped_in_a_row,
            "optimizer": optimizer,
            "scaler": scaler.state_dict() if scaler is not None else None,
        }
        averaged = groups["model"] | {name: groups["averages"][key] for name, key in self.average_of.items()}

        def write_model(folder: Path) -> None:
            save_model(folder / "model", self.config, averaged, self.tokenizer, architectures_of(self.model))

        self._saved = save_checkpoint(
            self.args.output_dir, self.global_step, groups, state, self.args.keep_last, write_model
        )
        return self._saved

    def _restore(self, tensors: dict[str, dict[str, Tensor]]) -> None:
        self.average.load_state_dict(
            {key: cut_like(value, self.parameters[int(key)]) for key, value in tensors["averages"].items()}
        )
        restore_optimizer(self.optimizer, cut_moments(tensors["optimizer"], self.optimizer), self._state["optimizer"])
        if self.accelerator.scaler is not None and self._state["scaler"]:
            self.accelerator.scaler.load_state_dict(self._state["scaler"])
