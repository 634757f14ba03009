"""The studies of `pictures.py`: guidance, schedulers and steps, what the decoders read, and the autoencoder."""

from __future__ import annotations

import argparse
import math
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import common  # noqa: F401 - makes `modules` importable.
import torch
from PIL import Image
from torch import Tensor

from modules.commands.shared import load_judge
from modules.common.arguments import from_flags
from modules.common.errors import UserError
from modules.common.progress import track
from modules.data.pixels import to_pictures, to_pixels
from modules.evaluation.decoded import PlannedPages, decode_pages, decode_texts, plan_stories
from modules.evaluation.grading import grade_decoded
from modules.evaluation.held_out import HeldOutStories
from modules.evaluation.judge.attributes import score_pictures
from modules.evaluation.metrics.image import peak_signal_to_noise
from modules.evaluation.metrics.pages import Graders
from modules.evaluation.metrics.statistics import Estimate
from modules.generation.pipeline import StoryPipeline
from modules.generation.settings import GenerationSettings
from modules.storyworld import StoryWorld

DRAWING_COLUMNS = {
    "character_f1": "characters, F1",
    "colour": "colour",
    "object": "object",
    "action": "action",
    "text_and_picture_agree": "agree",
    "hero_colour_persistence": "colour kept",
    "FD-judge": "FD-judge",
    "seconds": "seconds a page",
}
CONTEXT_COLUMNS = {
    "colour": "colour",
    "hero_colour": "hero's colour",
    "object": "object",
    "hero_colour_persistence": "colour kept",
    "text_and_picture_agree": "agree",
    "story_hero_colour_persistence": "whole stories: colour kept",
    "story_text_and_picture_agree": "whole stories: agree",
    "text_colour": "text: colour",
}
LATENT_NOISE = (0.1, 0.2)  # Standard deviations; those of the latents are 1.
AUTOENCODER_COLUMNS = {
    "channels": "channels",
    "parameters": "parameters (M)",
    "psnr": "PSNR (dB)",
    **{f"psnr_{noise}": f"PSNR, latent noise {noise}" for noise in LATENT_NOISE},
    "object": "object",
    "colour": "colour",
}
BATCH = 32
Rows = Iterator[tuple[str, dict[str, Estimate]]]  # The rows of a table: a name, and metrics by name.


def measured(value: float) -> Estimate:
    """Return a number without an interval."""
    return Estimate(value, math.nan, math.nan)


def open_world(pipeline: StoryPipeline, args: argparse.Namespace) -> StoryWorld:
    """Return the held-out stories, with pictures of the model's size."""
    size = pipeline.config.autoencoder.image_size
    return StoryWorld(args.num_stories, seed=args.seed, split=args.split, image_size=size)


def read_held_out(pipeline: StoryPipeline, args: argparse.Namespace) -> HeldOutStories:
    """Read and encode the held-out stories. Raises UserError for a model without codes."""
    pipeline.check_codebook()
    return HeldOutStories.read(pipeline, open_world(pipeline, args), args.num_stories)


@dataclass(frozen=True)
class Origin:
    """Codes (N,S) of all held-out pages: of the true pages, or planned from the prompts."""

    name: str
    codes: Tensor
    from_prompt: bool = False


# Settings of the sampler


@dataclass(frozen=True)
class Guidance:
    """A guidance scale, and where it applies: from `low` to `high`, as shares of the noise."""

    scale: float
    low: float = 0.0
    high: float = 1.0

    @classmethod
    def parse(cls, text: str) -> Guidance:
        """Parse SCALE or SCALE:LOW:HIGH, as a flag's value."""
        try:
            numbers = [float(part) for part in text.split(":")]
        except ValueError:
            numbers = []
        if len(numbers) not in (1, 3):
            raise argparse.ArgumentTypeError(f"must be SCALE or SCALE:LOW:HIGH, such as 4:0.3:0.95, got {text!r}")
        guidance = cls(*numbers)
        try:
            GenerationSettings(**guidance.options())
        except UserError as error:
            raise argparse.ArgumentTypeError(str(error)) from None
        return guidance

    def options(self) -> dict[str, Any]:
        """Return the fields of `GenerationSettings`."""
        return {"guidance_scale": self.scale, "guidance_interval": (self.low, self.high)}

    def __str__(self) -> str:
        where = "everywhere" if (self.low, self.high) == (0, 1) else f"in [{self.low:g}, {self.high:g}]"
        return f"{self.scale:g} {where}"


@dataclass(frozen=True)
class Sampler:
    """A scheduler and its number of denoising steps."""

    scheduler: str
    num_inference_steps: int

    @classmethod
    def parse(cls, text: str) -> Sampler:
        """Parse SCHEDULER:STEPS, as a flag's value."""
        scheduler, _, steps = text.partition(":")
        if not steps.isdecimal():
            raise argparse.ArgumentTypeError(f"must be SCHEDULER:STEPS, such as ddim:20, got {text!r}")
        sampler = cls(scheduler, int(steps))
        try:
            GenerationSettings(**sampler.options())
        except UserError as error:
            raise argparse.ArgumentTypeError(str(error)) from None
        return sampler

    def options(self) -> dict[str, Any]:
        """Return the fields of `GenerationSettings`."""
        return asdict(self)

    def __str__(self) -> str:
        return f"{self.scheduler}, {self.num_inference_steps} steps"


def study_drawing(args: argparse.Namespace) -> Rows:
    """Grade the pictures of the same pages, drawn from the same noise, with all settings of the grid."""
    if len(args.ckpt) > 1:
        raise UserError(f"the study {args.study} is of one model: give --ckpt once")
    judge = load_judge(args)
    pipeline, graders = StoryPipeline.from_pretrained(args.ckpt[0]), Graders(judge, judge, judge)
    held_out = read_held_out(pipeline, args)
    lengths = held_out.encoded.lengths
    origins = [Origin("true codes", held_out.own_codes)]
    if args.whole_stories:
        codes = plan_stories(pipeline, held_out.encoded, len(lengths), args.seed)
        origins.append(Origin("whole stories", codes, from_prompt=True))
    for origin in origins:
        texts = decode_texts(pipeline, origin.codes, lengths, origin.name)
        plans = PlannedPages.whole(origin.codes, lengths)
        for variation in args.grid:
            settings = from_flags(GenerationSettings, args, **variation.options())
            started = time.perf_counter()
            pages = decode_pages(pipeline, plans, str(variation), args.seed, texts, settings=settings)
            seconds = (time.perf_counter() - started) / len(texts)
            metrics = grade_decoded(pages, held_out, graders, args.seed, origin.from_prompt)
            yield f"{origin.name}: {variation}", metrics | {"seconds": measured(seconds)}


# Context


def study_context(args: argparse.Namespace) -> Rows:
    """Grade pages of one or several models; where decoders read the whole plan, also with the other pages hidden."""
    judge, settings = load_judge(args), from_flags(GenerationSettings, args)
    graders = Graders(judge, judge, judge)
    for folder in args.ckpt:
        pipeline = StoryPipeline.from_pretrained(folder)
        held_out = read_held_out(pipeline, args)
        lengths = held_out.encoded.lengths
        planned = plan_stories(pipeline, held_out.encoded, len(lengths), args.seed)
        origins = {"": Origin("true codes", held_out.own_codes), "story_": Origin("whole stories", planned, True)}
        for reading, plans in readings(pipeline).items():
            metrics: dict[str, Estimate] = {}
            for prefix, origin in origins.items():
                title = f"{origin.name}, {reading}"
                pages = decode_pages(pipeline, plans(origin.codes, lengths), title, args.seed, settings=settings)
                graded = grade_decoded(pages, held_out, graders, args.seed, origin.from_prompt)
                metrics |= {prefix + name: estimate for name, estimate in graded.items()}
            yield f"{folder}: {reading}", metrics


def readings(pipeline: StoryPipeline) -> dict[str, Callable[[Tensor, list[int]], PlannedPages]]:
    """Return what the decoders of a model can read of codes (N,S) of stories of some lengths, by name."""
    if not pipeline.model.reads_plan:
        return {"its page's codes": PlannedPages.whole}
    return {"all pages' codes": PlannedPages.whole, "its own page alone (others hidden)": PlannedPages.alone}


# Autoencoder


def study_autoencoder(args: argparse.Namespace) -> Rows:
    """Compare pictures with their reconstructions, without and with noise on the latents."""
    judge = load_judge(args)
    for folder in args.ckpt:
        pipeline = StoryPipeline.from_pretrained(folder)
        world = open_world(pipeline, args)
        pages = [step for story in map(world.__getitem__, range(len(world))) for step in story.steps]
        images = [page.image for page in pages if page.image is not None]
        truths = [page.attributes for page in pages if page.attributes is not None]
        real = judge.read(images)
        if folder == args.ckpt[0]:
            yield "true pictures", score_pictures(truths, real, real, world.lengths, args.seed)
        parameters = sum(parameter.numel() for parameter in pipeline.model.autoencoder.parameters())
        metrics = {
            "channels": measured(pipeline.config.autoencoder.latent_channels),
            "parameters": measured(parameters / 1e6),
        }
        for noise in (0.0, *LATENT_NOISE):
            decoded, errors = reconstruct(pipeline, images, noise, args.seed)
            name = f"psnr_{noise}" if noise else "psnr"
            metrics[name] = peak_signal_to_noise(errors, world.lengths, args.seed)
            if not noise:
                metrics |= score_pictures(truths, judge.read(decoded), real, world.lengths, args.seed)
        yield str(folder), metrics


@torch.no_grad()
def reconstruct(
    pipeline: StoryPipeline, images: Sequence[Image.Image], noise: float, seed: int
) -> tuple[list[Image.Image], Tensor]:
    """Return N pictures decoded from their latents plus noise of this deviation, and their mean squared errors (N,)."""
    autoencoder, generator = pipeline.model.autoencoder, torch.Generator().manual_seed(seed)
    decoded, errors = list[Image.Image](), list[Tensor]()
    for start in track(f"reconstructions, noise {noise}", range(0, len(images), BATCH)):
        pixels = to_pixels(images[start : start + BATCH], pipeline.config.autoencoder.image_size).to(pipeline.device)
        latents = autoencoder.encode(pixels)
        latents = latents + noise * torch.randn(latents.shape, generator=generator).to(latents.device)
        output = autoencoder.decode(latents)
        decoded += to_pictures(output)
        errors.append((output - pixels).square().mean((1, 2, 3)).cpu() / 4)  # Pixels span 2.
    return decoded, torch.cat(errors)
