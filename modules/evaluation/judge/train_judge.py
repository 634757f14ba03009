"""Training of the judge on real renders of the story world."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from modules.common.errors import UserError
from modules.common.files import write_whole
from modules.common.interrupts import Interrupted, stop_on_signals
from modules.common.progress import progress_line, track
from modules.data.pixels import to_pixels
from modules.evaluation.judge.attributes import score_pictures
from modules.evaluation.judge.judge import Judge, JudgeConfig, split_words, targets_of
from modules.evaluation.metrics.statistics import to_dicts
from modules.layers.seeding import fold_seed, make_generator
from modules.saving.optimizer_state import flatten_optimizer, restore_optimizer
from modules.storyworld import StoryWorld
from modules.training.optimizer import cosine_with_warmup

BATCH = 128
LEARNING_RATE, WARMUP, WEIGHT_DECAY = 3e-3, 100, 0.02
SAVE_EVERY = 200
PARTS = ("judge", "optimizer")  # Prefixes of the tensors in the file of a stopped training.
SPLIT = "judge"  # A separate split: neither the model's training nor its validation stories.


def train_judge(
    config: JudgeConfig,
    num_stories: int,
    num_steps: int,
    seed: int = 0,
    bf16: bool = False,
    unfinished: Path | None = None,
) -> Judge:
    """Train a judge on the CPU for `num_steps` updates of 128 pages drawn from `num_stories` stories.

    If the file `unfinished` exists, training resumes from it. Raises Interrupted when a signal stopped the training.
    """
    world = StoryWorld(num_stories, seed=seed, split=SPLIT, image_size=config.image_size)
    words = tuple(sorted({word for text in world.texts() for word in split_words(text)}))
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(fold_seed(seed))
        judge = Judge(dataclasses.replace(config, words=words))
    run = _JudgeRun(judge, json.dumps([dataclasses.asdict(judge.config), num_stories, num_steps, seed, bf16]), seed)
    run.train(world, num_steps, bf16, unfinished)
    if unfinished:
        unfinished.unlink(missing_ok=True)
    return judge.eval().requires_grad_(False)


class _JudgeRun:
    """A judge in training, with optimizer and random generator; `identity` contains all settings of the run."""

    def __init__(self, judge: Judge, identity: str, seed: int) -> None:
        self.judge, self.identity = judge, identity
        self.optimizer = torch.optim.AdamW(judge.parameters(), lr=LEARNING_RATE, weight_decay=WEIGHT_DECAY)
        self.generator = make_generator(seed)

    def train(self, world: StoryWorld, num_steps: int, bf16: bool, unfinished: Path | None) -> None:
        """Train for `num_steps` updates in all, saving to `unfinished` every 200 updates and on a signal."""
        pixels, texts, pages = draw_pages(world)
        word_ids, targets = self.judge.word_ids(texts), targets_of(pages)
        start = self.restore(unfinished) if unfinished and unfinished.exists() else 0
        self.judge.train()
        with ExitStack() as stack:
            line = stack.enter_context(progress_line("training the judge", num_steps))
            signals = stack.enter_context(stop_on_signals()) if unfinished else []
            for step in range(start, num_steps):
                rows = torch.randint(len(pixels), (BATCH,), generator=self.generator)
                chosen = {name: value[rows] for name, value in targets.items()}
                with torch.autocast("cpu", torch.bfloat16, enabled=bf16):
                    loss = self.judge(degrade(pixels[rows], self.generator), word_ids[rows], chosen)
                rate = LEARNING_RATE * cosine_with_warmup(step, num_steps, min(WARMUP, num_steps), 0.01)
                self._update(loss, rate)
                line.update(step + 1, f"loss {loss.item():.3f}")
                if unfinished and (signals or (step + 1) % SAVE_EVERY == 0):
                    self.save(unfinished, step + 1)
                if unfinished and signals:
                    raise Interrupted(signals[0], unfinished)

    def _update(self, loss: Tensor, learning_rate: float) -> None:
        for group in self.optimizer.param_groups:
            group["lr"] = learning_rate
        self.optimizer.zero_grad()
        loss.backward()
        self.optimizer.step()

    def save(self, path: Path, step: int) -> None:
        """Write weights, optimizer and random state after `step` updates."""
        moments, settings = flatten_optimizer(self.optimizer)
        tensors = {f"judge.{name}": value for name, value in self.judge.state_dict().items()}
        tensors |= {f"optimizer.{name}": value for name, value in moments.items()}
        tensors["generator"] = self.generator.get_state()
        metadata = {"run": self.identity, "step": str(step), "optimizer": json.dumps(settings)}
        write_whole(path, save(tensors, metadata))

    def restore(self, path: Path) -> int:
        """Load the state of a stopped training; return the number of its updates.

        Raises UserError if the file is unreadable or of another run.
        """
        try:
            with safe_open(path, "pt") as file:
                metadata, tensors = file.metadata() or {}, {name: file.get_tensor(name) for name in file.keys()}
        except (OSError, SafetensorError) as error:
            raise UserError(f"{path} cannot be read ({error}): remove it to train anew") from error
        if metadata.get("run") != self.identity:
            raise UserError(
                f"{path} is a stopped training of another judge: give its flags, or remove it to train anew"
            )
        parts = {
            name: {key.removeprefix(f"{name}."): value for key, value in tensors.items() if key.startswith(f"{name}.")}
            for name in PARTS
        }
        self.judge.load_state_dict(parts["judge"])
        restore_optimizer(self.optimizer, parts["optimizer"], json.loads(metadata["optimizer"]))
        self.generator.set_state(tensors["generator"])
        return int(metadata["step"])


def score_judge(judge: Judge, num_stories: int = 200, seed: int = 0) -> dict[str, dict[str, float | None]]:
    """Return the judge's accuracies on real renders of validation stories."""
    world = StoryWorld(num_stories, seed=seed, split="val", image_size=judge.config.image_size)
    stories = [world[index] for index in track("classifying real renders", range(num_stories))]
    steps = [step for story in stories for step in story.steps]
    predictions = judge.read([step.image for step in steps if step.image is not None])
    truths = [step.attributes or {} for step in steps]
    estimates = score_pictures(truths, predictions, predictions, world.lengths, seed)
    return to_dicts({name: dataclasses.replace(estimate, ceiling=1.0) for name, estimate in estimates.items()})


def draw_pages(world: StoryWorld) -> tuple[Tensor, list[str], list[Mapping[str, Any]]]:
    """Draw all pages of a world -> pixels (N,3,H,W) uint8, texts, and true attributes."""
    pixels: list[Tensor] = []
    texts: list[str] = []
    pages: list[Mapping[str, Any]] = []
    for index in track("drawing pages", range(len(world))):
        steps = world[index].steps
        images = to_pixels([step.image for step in steps if step.image is not None], world.image_size)
        pixels.append(((images + 1) * 127.5).round().to(torch.uint8))
        texts += [step.text or "" for step in steps]
        pages += [step.attributes or {} for step in steps]
    return torch.cat(pixels), texts, pages


def degrade(pixels: Tensor, generator: torch.Generator) -> Tensor:
    """Return pixels (N,3,H,W) uint8 as floats in [-1,1]; two batches in three are made coarser and noisy.

    Otherwise the judge would depend on the finest details of a render, which generated pictures lack.
    """
    size, level = pixels.shape[-1], int(torch.randint(3, (), generator=generator))
    images = pixels.float() / 127.5 - 1
    if level:
        coarse = F.interpolate(images, size=size * 3 // (3 + level), mode="bilinear", antialias=True)
        images = F.interpolate(coarse, size=size, mode="bilinear")
        images = images + 0.03 * level * torch.randn(images.shape, generator=generator)
    return images.clamp(-1, 1)
