"""Training progress: console, TensorBoard or Weights & Biases, and `losses.jsonl`, one line an update."""

from __future__ import annotations

import json
import math
import os
import time
import warnings
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn
from torch.nn.utils import get_total_norm

from modules.batch import draw_noise
from modules.common.files import set_aside, write_whole
from modules.common.progress import ProgressLine
from modules.data.pixels import to_pictures, to_pixels
from modules.data.read_ahead import Head
from modules.encoded.stories import EncodedStories
from modules.generation.pipeline import StoryPipeline
from modules.generation.settings import MAX_NUM_STEPS
from modules.story import StoryDataset
from modules.story_model.story_model import StoryModel
from modules.text_decoder.tokenizers import Vocabulary
from modules.training.phase import Phase
from modules.training.reliance import code_reliance, reliance_summary
from modules.training.settings import TrainSettings
from modules.training.sharding import full
from modules.training.state import RunState
from modules.training.writers import open_writers

HELD_OUT_STORIES = 24
SAMPLE_STORIES = 3


class Monitor:
    """Logs a run; inactive on all processes but the first."""

    def __init__(
        self,
        settings: TrainSettings,
        model: StoryModel,
        tokenizer: Vocabulary,
        held_out: StoryDataset,
        global_step: int,
        active: bool,
    ) -> None:
        """Drop what an earlier run logged of `global_step` and later: these updates are made again."""
        self.model, self.tokenizer, self.active, self.log_every = model, tokenizer, active, settings.log_every
        self._dataset: StoryDataset = held_out
        self._encoded: EncodedStories | None = None
        self._progress: ProgressLine | None = None
        if active:
            self.writer = open_writers(settings.log_with, settings.output_dir, global_step)
            self.trace = settings.output_dir / "losses.jsonl"
            cut_trace(self.trace, global_step)

    def close(self) -> None:
        if self._progress is not None:
            self._progress.close()
            self._progress = None
        if self.active:
            self.writer.close()

    def flush(self) -> None:
        """Write buffered events to disk; called at a checkpoint, because a resumed run logs only what comes after."""
        if self.active:
            self.writer.flush()
            with self.trace.open("ab") as file:
                os.fsync(file.fileno())

    def start_phase(self, name: str, step: int, num_steps: int, later: float, ends: float | None = None) -> None:
        """Show the progress of a phase; `later` is the work of the phases after it, in updates of this one, and `ends`
        the time of `time.monotonic` at which a run of some minutes is to be done.
        """
        if self._progress is not None:
            self._progress.close()
        self._progress = ProgressLine(name, num_steps, step, self.active, later, ends)
        self._mark = (time.perf_counter(), 0, 0)

    def gradient_norms(self, phase: Phase, module: nn.Module, step: int) -> dict[str, Tensor]:
        """Return the gradient norm () of each factor of `module`, in updates that are logged.

        Every process must call this: each may have a piece of the gradients.
        """
        if step % self.log_every:
            return {}
        factors = module.factors if isinstance(module, StoryModel) else {phase.name: module}
        gradients = {
            name: [p.grad for p in factor.parameters() if p.grad is not None] for name, factor in factors.items()
        }
        return {name: full(get_total_norm(values)) for name, values in gradients.items() if values}

    def update(
        self, phase: Phase, state: RunState, losses: dict[str, float], norms: dict[str, float], rate: float
    ) -> None:
        """Log the update that was just made."""
        if not self.active:
            return
        values = {**losses, "gradient_norm": norms["total"]}
        line = {name: value if math.isfinite(value) else None for name, value in values.items()}  # JSON has no NaN.
        position = {"global_step": state.global_step, "phase": phase.name, "step": state.step}
        with self.trace.open("a") as file:
            file.write(json.dumps(position | line) + "\n")
        names = {name: name.removesuffix("_loss").removesuffix("_nll") for name in losses}
        if self._progress is not None:
            note = "  ".join(f"{names[name]} {value:.3f}" for name, value in losses.items())
            self._progress.update(state.step + 1, note)
        if state.step % self.log_every == 0:
            self._log_update(phase, state, losses, norms, rate)

    def _log_update(
        self, phase: Phase, state: RunState, losses: dict[str, float], norms: dict[str, float], rate: float
    ) -> None:
        scalars = {f"{phase.name}/{name}": value for name, value in losses.items()}
        scalars |= {f"gradient_norm/{name}": value for name, value in norms.items()}
        scalars |= {"learning_rate": rate, "skipped_updates": state.skipped}
        for name, value in scalars.items():
            self.writer.add_scalar(name, value, state.global_step)
        self._log_speed(phase, state.global_step)

    def _log_speed(self, phase: Phase, global_step: int) -> None:
        now, (then, images, tokens) = time.perf_counter(), self._mark
        new_images, new_tokens = phase.images_seen - images, phase.tokens_seen - tokens
        self._mark = (now, phase.images_seen, phase.tokens_seen)
        if images or tokens:
            self.writer.add_scalar("speed/pictures_per_second", new_images / (now - then), global_step)
            self.writer.add_scalar("speed/tokens_per_second", new_tokens / (now - then), global_step)

    # -- samples

    @torch.no_grad()
    def sample(self, phase: Phase, global_step: int) -> None:
        """Log reconstructions, swap gaps, code usage and sample stories of the model as it is."""
        if not self.active:
            return
        self.model.eval()
        self._log_reconstructions(global_step)
        if phase.name not in ("autoencoder", "opening"):  # Until then the UNet is untrained.
            self._log_codes(global_step)
            if self.model.is_ready:
                self._log_stories(global_step)
        phase.set_modes()

    def _log_reconstructions(self, global_step: int) -> None:
        size = self.model.config.autoencoder.image_size
        device = self.model.autoencoder.latent_mean.device
        images = [step.image for step in self._dataset[0].steps if step.image is not None]
        if not images:
            return
        pixels = to_pixels(images, size).to(device)
        decoded = self.model.autoencoder.decode(self.model.autoencoder.encode(pixels))
        self.writer.add_image("reconstructions", grid([to_pictures(pixels), to_pictures(decoded)]), global_step)
        error = (decoded - pixels).square().mean().item() / 4
        self.writer.add_scalar("autoencoder/psnr_db", -10 * np.log10(max(error, 1e-10)), global_step)

    @property
    def _held_out(self) -> EncodedStories:
        """The first held-out stories, encoded when they are first needed."""
        if self._encoded is None:
            self._encoded = EncodedStories(Head(self._dataset, HELD_OUT_STORIES), self.model, self.tokenizer)
        return self._encoded

    def _log_codes(self, global_step: int) -> None:
        """Log how much the decoders rely on the codes, the use of the codebook, and the prior's loss."""
        batch = self._held_out.batch(range(len(self._held_out))).to(self.model.autoencoder.latent_mean.device)
        config, generator = self.model.config, torch.Generator().manual_seed(0)
        noise = draw_noise(
            batch.step_mask.numel(),
            config.autoencoder.latent_shape,
            config.image_decoder.num_train_timesteps,
            generator,
        )
        sums = code_reliance(self.model, batch, noise.to(batch.step_mask.device))
        scalars = {
            f"held_out/{name}": value for name, value in reliance_summary(sums, batch.image_mask.flatten()).items()
        }
        codes = self.model.condition(batch).codes
        if codes is not None:
            used = codes[batch.step_mask.flatten()].flatten()
            counts = torch.bincount(used, minlength=config.storyboard.codebook_size).float()
            scalars["codebook/used"] = (counts > 0).float().mean().item()
            scalars["codebook/perplexity"] = torch.special.entr(counts / counts.sum()).sum().exp().item()
            codes = codes.unflatten(0, batch.step_mask.shape)
            prior = self.model.prior(codes, batch.prompt_ids, batch.prompt_mask, batch.step_mask)
            scalars["held_out/prior_nll"] = prior.nll[batch.step_mask].mean().item()
        for name, value in scalars.items():
            self.writer.add_scalar(name, value, global_step)

    def _log_stories(self, global_step: int) -> None:
        pipeline = StoryPipeline(self.model, self.tokenizer)
        usable = [index for index, prompt in enumerate(self._held_out.prompts) if prompt.strip()]
        for index in usable[:SAMPLE_STORIES]:
            prompt, num_steps = self._held_out.prompts[index], min(self._held_out.lengths[index], MAX_NUM_STEPS)
            story = pipeline(prompt, num_steps=num_steps, seed=index, num_inference_steps=10)
            self.writer.add_image(f"stories/{index}", grid([story.images]), global_step)
            self.writer.add_text(f"stories/{index}", f"**{prompt}**\n\n" + "\n\n".join(story.texts), global_step)


def cut_trace(path: Path, global_step: int) -> None:
    """Remove the lines of `global_step` and later, and an incomplete last line; warn of updates that are missing.

    A trace with lines that are no updates is set aside, with a warning; what is sound before them is kept.
    """
    kept, content, steps = 0, path.read_bytes() if path.exists() else b"", set[int]()
    for line in content.splitlines(keepends=True):
        step = _step_of(line)
        if step is None and line.endswith(b"\n"):
            aside = set_aside(path)
            warnings.warn(f"{path} is damaged; it was moved to {aside.name}, and its sound part kept", stacklevel=2)
            write_whole(path, content[:kept])
            return
        if step is None or step >= global_step:
            break
        kept += len(line)
        steps.add(step)
    if missing := sorted(set(range(global_step)) - steps):
        warnings.warn(
            f"{path} lacks {len(missing):,} of the {global_step:,} updates so far, the first of them {missing[0]:,}:"
            " its curves have a gap there; the model is not affected",
            stacklevel=2,
        )
    with path.open("ab") as file:
        file.truncate(kept)


def _step_of(line: bytes) -> int | None:
    """Return the `global_step` of a complete line of the trace; None of anything else."""
    try:
        step = json.loads(line)["global_step"] if line.endswith(b"\n") else None
    except (ValueError, LookupError, TypeError, RecursionError):
        return None
    return step if type(step) is int else None


def grid(rows: Sequence[Sequence[Image.Image]]) -> np.ndarray:
    """Return rows of equally large images as one array (3, H, W)."""
    lines = [np.concatenate([np.asarray(image) for image in row], axis=1) for row in rows]
    return np.concatenate(lines).transpose(2, 0, 1)
