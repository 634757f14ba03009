"""More stories for the prior than the decoders train on: encoded by a process in the background, and kept on disk."""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path

import torch
from safetensors.torch import load_file, save
from torch import Tensor

from modules.common.errors import UserError
from modules.common.files import write_whole
from modules.common.folder_lock import is_locked
from modules.common.progress import progress_line
from modules.config import StoryConfig
from modules.encoded.cache import EncodedCache, cache_key, discard_other
from modules.encoded.codes import cache_codes
from modules.encoded.stories import EncodedStories
from modules.saving.model_folder import CONFIG, architectures_of, save_model
from modules.story import StoryDataset
from modules.story_model.story_model import StoryModel
from modules.text_decoder.tokenizers import Vocabulary
from modules.training.phases import PLANS_PER_STORY

FOLDER = "plan_stories"  # In the run's folder.
PROGRAM = Path(__file__).parents[2] / "story_generative_model.py"


def num_plan_stories(config: StoryConfig, global_batch: int) -> int:
    """Return how many stories of the story world the prior learns from in the planning phase.

    There are no more than that phase reads, and no fewer than the other phases have.
    """
    training = config.training
    read = training.num_updates("planning") * global_batch * PLANS_PER_STORY
    return max(training.num_stories, min(round(training.plan_stories_ratio * training.num_stories), read))


class PlanStories:
    """The stories of the planning phase, in a run's folder: latents by the command `precompute`, then their codes.

    The process has the lowest priority and starts again where an earlier one was stopped.
    """

    def __init__(self, dataset: StoryDataset, run: Path, seed: int) -> None:
        self.dataset, self.folder, self.seed = dataset, run / FOLDER, seed
        self.process: subprocess.Popen | None = None

    def start(self, model: StoryModel, tokenizer: Vocabulary) -> None:
        """Start to draw and encode the stories with the autoencoder of `model`."""
        donor = self.folder / "model"
        save_model(donor, model.config, model.own_state(), tokenizer, architectures_of(model))
        words = ["precompute", "--data", "storyworld", "--num_stories", len(self.dataset), "--seed", self.seed]
        words += ["--config", donor / CONFIG, "--ckpt", donor, "--output", self.folder / "latents", "--num_workers", 0]
        self._command = [sys.executable, str(PROGRAM), *map(str, words)]
        discard_other(self.folder / "latents", cache_key(model, self.dataset))
        self._launch()

    def _launch(self) -> None:
        with (self.folder / "log.txt").open("ab") as file:
            self.process = subprocess.Popen(
                self._command,
                stdin=subprocess.DEVNULL,
                stdout=file,
                stderr=file,
                env={**os.environ, "OMP_NUM_THREADS": "1"},
            )
        if hasattr(os, "setpriority"):  # Windows has none.
            os.setpriority(os.PRIO_PROCESS, self.process.pid, 19)

    def stop(self) -> None:
        """Stop the process, if it still runs."""
        if self.process is not None and self.process.poll() is None:
            self.process.terminate()
            self.process.wait()

    def wait(self, visible: bool = True) -> None:
        """Wait until all stories are encoded. Raises UserError where the process failed twice."""
        if self._is_running() and visible:
            print("waiting for the stories of the planning phase to be encoded", file=sys.stderr)
        if self._failed():
            while is_locked(self.folder / "latents"):  # By the process of a run that was killed.
                time.sleep(1)
            self._launch()
        if self._failed():
            lines = (self.folder / "log.txt").read_text(errors="replace").split("\n")
            reason = next((line for line in reversed(lines) if line.strip()), "no output")
            raise UserError(f"the stories of the planning phase were not encoded ({reason.strip()[-200:]})")

    def _is_running(self) -> bool:
        assert self.process is not None, "the process has not been started"
        return self.process.poll() is None

    def _failed(self) -> bool:
        """Wait for the end of the process, and return whether it failed."""
        while self._is_running():
            time.sleep(0.2)
        return bool(self.process and self.process.returncode)

    def encoded(
        self,
        model: StoryModel,
        tokenizer: Vocabulary,
        autocast: Callable[[], AbstractContextManager],
        visible: bool = True,
    ) -> EncodedStories:
        """Return the stories with their codes from text and picture, computed once for these weights of the encoder."""
        rows = EncodedCache(self.folder / "latents", model, self.dataset).rows
        with progress_line("reading stories", len(self.dataset), visible) as progress:
            stories = EncodedStories(self.dataset, model, tokenizer, progress.update, 0, rows)
        path = self.folder / f"codes_{_digest(model)}.safetensors"
        if path.exists():
            stories.codes = load_file(path)["codes"].long()
            return stories
        with autocast():
            stories.codes = cache_codes(model.eval(), stories, visible, num_variants=1)
        write_whole(path, save({"codes": stories.codes.to(torch.int32)}))
        return stories


def _digest(model: StoryModel) -> str:
    """Return a short hash of the encoder's weights."""
    digest = hashlib.sha256()
    for name, value in sorted(model.storyboard.state_dict().items()):
        tensor: Tensor = value.detach().cpu().contiguous()
        digest.update(name.encode() + tensor.view(-1).view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()[:16]
