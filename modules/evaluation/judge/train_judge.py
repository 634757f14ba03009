"""Training the judge on real renders of the story world."""

from __future__ import annotations

import dataclasses
import json
from contextlib import nullcontext
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
from modules.data.read_ahead import Head
from modules.evaluation.judge.attributes import score_pictures
from modules.evaluation.judge.judge import Judge, JudgeConfig, split_words, targets_of
from modules.saving.optimizer_state import flatten_optimizer, restore_optimizer
from modules.storyworld import StoryWorld
from modules.training.optimizer import cosine_with_warmup

BATCH = 128
LEARNING_RATE, WARMUP, WEIGHT_DECAY = 3e-3, 100, 0.02
SAVE_EVERY = 200
PARTS = ("judge", "optimizer")  # Of the file of a stopped training.
SPLIT = "judge"  # Stories of its own: neither the model's training nor its validation stories.


def train_judge(
    config: JudgeConfig,
    num_stories: int,
    num_steps: int,
    seed: int = 0,
    bf16: bool = False,
    unfinished: Path | None = None,
) -> Judge:
    """Train a judge on the CPU for `num_steps` updates of 128 pages drawn from `num_stories` stories.

    With `unfinished`, a file, a stopped training goes on from there; raises Interrupted when a signal has stopped this
    one.
    """
    world = StoryWorld(num_stories, seed=seed, split=SPLIT, image_size=config.image_size)
    words = tuple(sorted({word for text in world.texts() for word in split_words(text)}))
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        judge = Judge(dataclasses.replace(config, words=words))
    pixels, texts, pages = draw_pages(world)
    word_ids, targets = judge.word_ids(texts), targets_of(pages)
    optimizer = torch.optim.AdamW(judge.parameters(), lr=LEARNING_RATE, weight_decay=WEIGHT_DECAY)
    generator = torch.Generator().manual_seed(seed)
    run = json.dumps([dataclasses.asdict(judge.config), num_stories, num_steps, seed, bf16])
    start = _restore(unfinished, run, judge, optimizer, generator) if unfinished and unfinished.exists() else 0
    judge.train()
    with (
        progress_line("training the judge", num_steps) as line,
        stop_on_signals() if unfinished else nullcontext([]) as stop,
    ):
        for step in range(start, num_steps):
            rows = torch.randint(len(pixels), (BATCH,), generator=generator)
            with torch.autocast("cpu", torch.bfloat16, enabled=bf16):
                loss = judge(
                    worsen(pixels[rows], generator),
                    word_ids[rows],
                    {name: value[rows] for name, value in targets.items()},
                )
            for group in optimizer.param_groups:
                group["lr"] = LEARNING_RATE * cosine_with_warmup(step, num_steps, min(WARMUP, num_steps), 0.01)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            line.update(step + 1, f"loss {loss.item():.3f}")
            if unfinished and (stop or (step + 1) % SAVE_EVERY == 0):
                _save(unfinished, run, step + 1, judge, optimizer, generator)
            if stop:
                raise Interrupted(stop[0], unfinished)
    if unfinished:
        unfinished.unlink(missing_ok=True)
    return judge.eval().requires_grad_(False)


def _save(
    path: Path, run: str, step: int, judge: Judge, optimizer: torch.optim.Optimizer, generator: torch.Generator
) -> None:
    moments, settings = flatten_optimizer(optimizer)
    tensors = {f"judge.{name}": value for name, value in judge.state_dict().items()}
    tensors |= {f"optimizer.{name}": value for name, value in moments.items()} | {"generator": generator.get_state()}
    write_whole(path, save(tensors, {"run": run, "step": str(step), "optimizer": json.dumps(settings)}))


def _restore(path: Path, run: str, judge: Judge, optimizer: torch.optim.Optimizer, generator: torch.Generator) -> int:
    """Take up a stopped training; returns the number of its updates.

    Raises UserError where the file is not of this run.
    """
    try:
        with safe_open(path, "pt") as file:
            about, tensors = file.metadata() or {}, {name: file.get_tensor(name) for name in file.keys()}
    except (OSError, SafetensorError) as error:
        raise UserError(f"{path} cannot be read ({error}): remove it to train anew") from error
    if about.get("run") != run:
        raise UserError(f"{path} is a stopped training of another judge: give its flags, or remove it to train anew")
    parts = {
        name: {key.removeprefix(f"{name}."): value for key, value in tensors.items() if key.startswith(f"{name}.")}
        for name in PARTS
    }
    judge.load_state_dict(parts["judge"])
    restore_optimizer(optimizer, parts["optimizer"], json.loads(about["optimizer"]))
    generator.set_state(tensors["generator"])
    return int(about["step"])


def score_judge(judge: Judge, num_stories: int = 200, seed: int = 0) -> dict[str, dict[str, Any]]:
    """What the judge reads off real renders of validation stories, against their truth."""
    world = StoryWorld(num_stories, seed=seed, split="val", image_size=judge.config.image_size)
    steps = [step for story in track("judging real renders", Head(world, num_stories)) for step in story.steps]
    readings = judge.read([step.image for step in steps])
    figures = score_pictures([step.attributes for step in steps], readings, readings, world.lengths, seed)
    return {name: dataclasses.replace(figure, ceiling=1.0).to_dict() for name, figure in figures.items()}


def draw_pages(world: StoryWorld) -> tuple[Tensor, list[str], list]:
    """All pages of a world: pixels (N,3,H,W) uint8, texts, and ground truths."""
    pixels, texts, pages = [], [], []
    for story in track("drawing pages", Head(world, len(world))):
        images = to_pixels([step.image for step in story.steps], world.image_size)
        pixels.append(((images + 1) * 127.5).round().to(torch.uint8))
        texts += [step.text for step in story.steps]
        pages += [step.attributes for step in story.steps]
    return torch.cat(pixels), texts, pages


def worsen(pixels: Tensor, generator: torch.Generator) -> Tensor:
    """(N,3,H,W) uint8 -> [-1,1], two batches in three made coarser and noisy: the judge must not hang on a render's
    last detail.
    """
    size, kind = pixels.shape[-1], int(torch.randint(3, (), generator=generator))
    images = pixels.float() / 127.5 - 1
    if kind:
        coarse = F.interpolate(images, size=size * 3 // (3 + kind), mode="bilinear", antialias=True)
        images = F.interpolate(coarse, size=size, mode="bilinear")
        images = images + 0.03 * kind * torch.randn(images.shape, generator=generator)
    return images.clamp(-1, 1)
