"""Training the judge on real renders of the story world."""

from __future__ import annotations

import dataclasses
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from modules.encoded import Head, to_pixels
from modules.evaluation.attributes import score_pictures
from modules.evaluation.judge import Judge, JudgeConfig, split_words, targets_of
from modules.progress import progress_line, track
from modules.schedules import cosine_with_warmup
from modules.storyworld import StoryWorld

BATCH = 128
LEARNING_RATE, WARMUP, WEIGHT_DECAY = 3e-3, 100, 0.02
SPLIT = "judge"  # Stories of its own: neither the model's training nor its validation stories.


def train_judge(config: JudgeConfig, num_stories: int, num_steps: int, seed: int = 0, bf16: bool = False) -> Judge:
    """Train a judge on the CPU for `num_steps` updates of 128 pages drawn from `num_stories` stories."""
    world = StoryWorld(num_stories, seed=seed, split=SPLIT, image_size=config.image_size)
    words = tuple(sorted({word for text in world.texts() for word in split_words(text)}))
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        judge = Judge(dataclasses.replace(config, words=words))
    pixels, texts, pages = draw_pages(world)
    word_ids, targets = judge.word_ids(texts), targets_of(pages)
    optimizer = torch.optim.AdamW(judge.parameters(), lr=LEARNING_RATE, weight_decay=WEIGHT_DECAY)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: cosine_with_warmup(step, num_steps, min(WARMUP, num_steps), 0.01))
    generator = torch.Generator().manual_seed(seed)
    judge.train()
    with progress_line("training the judge", num_steps) as line:
        for step in range(num_steps):
            rows = torch.randint(len(pixels), (BATCH,), generator=generator)
            with torch.autocast("cpu", torch.bfloat16, enabled=bf16):
                loss = judge(worsen(pixels[rows], generator), word_ids[rows], {name: value[rows] for name, value in targets.items()})
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()
            line.update(step + 1, f"loss {loss.item():.3f}")
    return judge.eval().requires_grad_(False)


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
    """(N,3,H,W) uint8 -> [-1,1], two batches in three made coarser and noisy: the judge must not hang on a render's last detail."""
    size, kind = pixels.shape[-1], int(torch.randint(3, (), generator=generator))
    images = pixels.float() / 127.5 - 1
    if kind:
        coarse = F.interpolate(images, size=size * 3 // (3 + kind), mode="bilinear", antialias=True)
        images = F.interpolate(coarse, size=size, mode="bilinear")
        images = images + 0.03 * kind * torch.randn(images.shape, generator=generator)
    return images.clamp(-1, 1)
