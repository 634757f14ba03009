"""evaluate(): likelihoods, reliance on the codes, usage, and what the codes hold, over held-out stories."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import torch
from rich.console import Console
from rich.table import Table

from modules.batch import draw_noise
from modules.encoded import EncodedStories, Head
from modules.evaluation.attributes import score_texts
from modules.evaluation.statistics import Figure, bootstrap_mean
from modules.phases import cache_codes
from modules.pipeline import StoryPipeline
from modules.progress import progress_line, track
from modules.reliance import code_reliance
from modules.story import StorySource, UserError

STORIES_PER_BATCH = 8
DECODE_BATCH = 128
VARIANTS = ("text and picture", "text alone", "picture alone")


@torch.no_grad()
def evaluate(pipeline: StoryPipeline, source: StorySource, num_stories: int, seed: int = 0) -> dict[str, Any]:
    """Score the first `num_stories` stories of `source`; every figure is a dict of value, low, high, floor and ceiling."""
    model, config = pipeline.model, pipeline.config
    if not model.storyboard.quantizer.is_active:
        raise UserError("this checkpoint is from before its codebook was placed: train on, or take a later one")
    with progress_line("encoding stories", num_stories) as progress:
        stories = EncodedStories(Head(source, num_stories), config, pipeline.tokenizer, model.autoencoder, progress.update)
    codes = cache_codes(model, stories)
    rows = _score_batches(pipeline, stories, seed)
    report = {
        "data": source.name, "num_stories": len(stories), "num_steps": len(stories.texts), "seed": seed,
        "likelihood": _likelihood(rows, math.log(config.storyboard.codebook_size)),
        "codebook": _usage(codes[0], config.storyboard.codebook_size),
    }  # fmt: skip
    if any(attributes and attributes[0] for attributes in stories.attributes):
        report["text_from_codes"] = {
            name: {key: figure.to_dict() for key, figure in _decode_and_score(pipeline, stories, codes[variant], name, seed).items()}
            for variant, name in enumerate(VARIANTS)
        }
    return report


def _score_batches(pipeline: StoryPipeline, stories: EncodedStories, seed: int) -> dict[str, np.ndarray]:
    """Per-story sums: of `code_reliance`'s terms, of the prior's nll, and of what they are divided by."""
    model, config = pipeline.model, pipeline.config
    generator = torch.Generator().manual_seed(seed)
    order = sorted(range(len(stories)), key=lambda index: stories.lengths[index])  # Equal lengths together: no padding.
    rows: dict[str, list[torch.Tensor]] = {}
    batches = [order[start : start + STORIES_PER_BATCH] for start in range(0, len(order), STORIES_PER_BATCH)]
    for indices in track("likelihoods", batches):
        batch = stories.batch(indices)
        shape = batch.step_mask.shape
        noise = draw_noise(shape.numel(), config.autoencoder.latent_shape, config.image_decoder.num_train_timesteps, generator)
        batch, noise = batch.to(pipeline.device), noise.to(pipeline.device)
        sums = {name: value.view(shape).sum(1) for name, value in code_reliance(model, batch, noise).items()}
        codes = model.encode(batch).codes.view(*shape, -1)
        prior = model.prior(codes, batch.prompt_ids, batch.prompt_mask, batch.step_mask).nll
        sums["prior_nll"] = (prior * batch.step_mask[..., None]).sum((1, 2))
        sums["num_codes"] = batch.step_mask.sum(1).float() * codes.shape[-1]
        sums["num_images"] = batch.image_mask.sum(1).float()
        for name, value in sums.items():
            rows.setdefault(name, []).append(value.cpu())
    return {name: torch.cat(values).double().numpy() for name, values in rows.items()}


def _likelihood(rows: dict[str, np.ndarray], max_nats: float) -> dict[str, Any]:
    figures: dict[str, Figure] = {}
    for name in ("own", "swapped", "null"):
        figures[f"text_nats_per_token_{name}"] = bootstrap_mean(rows[f"text_nll_{name}"], rows["num_tokens"])
    for name in ("own", "swapped", "null"):
        figures[f"diffusion_loss_{name}"] = bootstrap_mean(rows[f"diffusion_loss_{name}"], rows["num_images"])
    figures["prior_nats_per_code"] = bootstrap_mean(rows["prior_nll"], rows["num_codes"], floor=0.0, ceiling=max_nats)
    return {name: figure.to_dict() for name, figure in figures.items()}


def _usage(codes: torch.Tensor, codebook_size: int) -> dict[str, float]:
    """Codes (N, S) -> the share of the codebook that is used, and its perplexity, over all slots and the mean over slots."""
    counts = torch.bincount(codes.flatten(), minlength=codebook_size).double()
    by_slot = [torch.bincount(column, minlength=codebook_size).double() for column in codes.t()]
    return {
        "codebook_size": codebook_size, "used": (counts > 0).double().mean().item(), "perplexity": _perplexity(counts),
        "perplexity_per_slot": sum(map(_perplexity, by_slot)) / len(by_slot),
    }  # fmt: skip


def _perplexity(counts: torch.Tensor) -> float:
    return torch.special.entr(counts / counts.sum()).sum().exp().item()


def _decode_and_score(pipeline: StoryPipeline, stories: EncodedStories, codes: torch.Tensor, name: str, seed: int) -> dict[str, Figure]:
    """Decode every step's text greedily from `codes` (N, S) and compare what it names with the true text."""
    decoded = []
    for part in track(f"text from {name}", codes.split(DECODE_BATCH)):
        embeds = pipeline.model.storyboard.embed(part.to(pipeline.device)).code_embeds
        decoded += [pipeline.tokenizer.decode(ids) for ids in pipeline.model.text_decoder.generate(embeds)]
    return score_texts([text or "" for text in stories.texts], decoded, stories.lengths, seed)


def print_report(report: dict[str, Any]) -> None:
    """Print the figures as tables."""
    console = Console()
    console.print(f"{report['num_stories']} held-out stories, {report['num_steps']} steps of {report['data']}; 95 % intervals over stories")
    table = Table("measure", "value", "95 %", "floor", "ceiling")
    for name, figure in report["likelihood"].items():
        table.add_row(name.replace("_", " "), *_cells(figure))
    console.print(table)
    book = report["codebook"]
    console.print(
        f"codes used {book['used']:.1%} of {book['codebook_size']}, perplexity {book['perplexity']:.0f}, "
        f"a slot {book['perplexity_per_slot']:.0f}"
    )
    for variant, figures in report.get("text_from_codes", {}).items():
        table = Table(f"named right, codes from {variant}", "value", "95 %", "floor", "ceiling")
        for name, figure in figures.items():
            table.add_row(name, *_cells(figure))
        console.print(table)


def _cells(figure: dict[str, float | None]) -> list[str]:
    names = ("value", "low", "high", "floor", "ceiling")
    value, low, high, floor, ceiling = ("" if figure[name] is None else f"{figure[name]:.3f}" for name in names)
    return [value, f"{low} - {high}", floor, ceiling]
