"""What `visualize` shows of a story: its pages as told from different knowledge, with texts, codes and bits, and how a page is denoised."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from PIL import Image
from torch import Tensor

from modules.checks import TEMPERATURE, TOP_P
from modules.encoded import to_pictures
from modules.images import fit_image
from modules.pipeline import StoryPipeline
from modules.story import Story

SHOWN_STEPS = 7  # Of a denoising trail.


@dataclass(frozen=True)
class Cell:
    """One page of one telling: what is there of picture and text, its S codes, and what these cost under the prior."""

    image: Image.Image | None
    text: str | None
    codes: list[int]
    bits: float | None = None
    is_given: bool = False  # A true page that this telling starts from.


@dataclass(frozen=True)
class Telling:
    """T pages and what they were made from; `is_guess`: their codes are the prior's, to be held beside the true ones."""

    title: str
    note: str
    cells: list[Cell]
    is_guess: bool = False


@dataclass(frozen=True)
class Study:
    """A story told several ways, the true pages first."""

    prompt: str
    tellings: list[Telling]

    @property
    def cells(self) -> list[Cell]:
        """The true pages."""
        return self.tellings[0].cells

    def matches(self, index: int, cell: Cell) -> list[bool]:
        """For each slot, whether page `index` of some telling has the true page's code."""
        return [code == true for code, true in zip(cell.codes, self.cells[index].codes, strict=True)]


@dataclass(frozen=True)
class Trail:
    """M moments of the denoising of `cell`: before update `steps[i]`, `signal[i]` of the variance is picture and the rest is noise.

    `noisy[i]` is what that update starts from, `guesses[i]` the finished picture that it aims at; the last guess is the result.
    """

    cell: Cell
    steps: list[int]
    signal: list[float]
    noisy: list[Image.Image]
    guesses: list[Image.Image]


@dataclass(frozen=True)
class Run:
    """The same code at a slot's steps `start` to `end`, both included; `previous` is where its last run ended, if there was one."""

    code: int
    start: int
    end: int
    previous: int | None


@torch.no_grad()
def study_story(pipeline: StoryPipeline, story: Story, num_given: int = 3, seed: int = 0, num_inference_steps: int = 20) -> Study:
    """Tell a story's T pages from their own codes, from `num_given` true pages (fewer where it is shorter), and from the prompt alone."""
    codes = pipeline.encode(story.steps)
    ids, mask = pipeline.tokenizer.encode_batch([story.prompt], pipeline.config.max_prompt_length)
    prompt = ids[:, : mask.sum()].to(pipeline.device), mask[:, : mask.sum()].to(pipeline.device)

    def tell(codes: Tensor, bits: Sequence[float | None]) -> list[Cell]:
        texts, images = pipeline.render(codes, seed, num_inference_steps=num_inference_steps)
        return [Cell(*page) for page in zip(images, texts, codes.tolist(), bits, strict=True)]

    def predict(num_given: int) -> list[Cell]:  # Not by the pipeline's `plan`: that wants a prompt, which a story on disk may lack.
        generator = torch.Generator(pipeline.device).manual_seed(seed)
        history = codes[None, :num_given] if num_given else None
        plan = pipeline.model.prior.sample(*prompt, len(codes) - num_given, TEMPERATURE, TOP_P, generator, history)
        return tell(plan.codes[0], _bits(-plan.log_probs[0]))

    true = _true_cells(pipeline, story, codes, prompt)
    tellings = [
        Telling("True pages", "with the codes that the encoder gives them", true),
        Telling("From their own codes", "texts and pictures decoded again from those codes", tell(codes, [None] * len(codes))),
    ]
    given = min(num_given, len(codes) - 1)
    if given:
        cells = [*(replace(cell, is_given=True) for cell in true[:given]), *predict(given)]
        title = "Predicted after 1 page" if given == 1 else f"Predicted after {given} pages"
        tellings.append(Telling(title, "the prior's next codes, after the true pages' codes", cells, is_guess=True))
    note = "the whole plan by the prior" if story.prompt.strip() else "there is no prompt: a plan from nothing"
    tellings.append(Telling("From the prompt alone", note, predict(0), is_guess=True))
    return Study(story.prompt, tellings)


def _true_cells(pipeline: StoryPipeline, story: Story, codes: Tensor, prompt: tuple[Tensor, Tensor]) -> list[Cell]:
    """The pages as the model sees them: pictures fitted into its square."""
    size = pipeline.config.autoencoder.image_size
    nll = pipeline.model.prior(codes[None], *prompt, torch.ones_like(codes[None, :, 0], dtype=torch.bool)).nll[0]
    return [
        Cell(None if step.image is None else fit_image(step.image, size), step.text, row, bits)
        for step, row, bits in zip(story.steps, codes.tolist(), _bits(nll), strict=True)
    ]


def _bits(nll: Tensor) -> list[float]:
    """nll (T, S) in nats -> bits of each step."""
    return (nll.sum(-1) / math.log(2)).tolist()


@torch.no_grad()
def denoise(pipeline: StoryPipeline, cell: Cell, seed: int = 0, num_inference_steps: int = 20, guidance_scale: float = 2.0) -> Trail:
    """Draw a page from its codes by DDIM (arXiv 2010.02502) and keep up to `SHOWN_STEPS` moments on the way, the last update among them."""
    decoder = pipeline.model.image_decoder
    code_embeds = pipeline.model.storyboard.embed(torch.tensor([cell.codes], device=pipeline.device)).code_embeds
    latents = [torch.randn(1, *decoder.latent_shape, generator=torch.Generator().manual_seed(seed)).to(pipeline.device)]
    generator = torch.Generator().manual_seed(seed)  # The same noise again: `on_step` tells only what comes after an update.
    decoder.sample(code_embeds, num_inference_steps, guidance_scale, "ddim", generator, on_step=latents.append)

    before, after = signal_levels(decoder, num_inference_steps)
    shown = sorted({round(1 + part * (num_inference_steps - 1) / (SHOWN_STEPS - 1)) for part in range(SHOWN_STEPS)})
    guesses = [aimed_at(latents[step - 1], latents[step], before[step - 1], after[step - 1]) for step in shown]
    pixels = pipeline.model.autoencoder.decode(torch.cat([*(latents[step - 1] for step in shown), *guesses]))
    pictures = to_pictures(pixels)
    return Trail(cell, shown, [before[step - 1] for step in shown], pictures[: len(shown)], pictures[len(shown) :])


def signal_levels(decoder: torch.nn.Module, num_inference_steps: int) -> tuple[list[float], list[float]]:
    """The shares of variance that are signal before and after each of DDIM's updates."""
    scheduler = decoder.make_scheduler("ddim")
    scheduler.set_timesteps(num_inference_steps)
    stride = scheduler.config.num_train_timesteps // num_inference_steps
    levels = scheduler.alphas_cumprod.tolist()
    timesteps = scheduler.timesteps.tolist()
    return [levels[t] for t in timesteps], [levels[t - stride] if t >= stride else 1.0 for t in timesteps]


def aimed_at(before: Tensor, after: Tensor, signal_before: float, signal_after: float) -> Tensor:
    """The clean latents that a DDIM update aimed at, from the latents before and after it, both alpha x + sigma eps of one x and eps."""
    alpha, alpha_after = math.sqrt(signal_before), math.sqrt(signal_after)
    sigma, sigma_after = math.sqrt(1 - signal_before), math.sqrt(1 - signal_after)
    return (sigma * after - sigma_after * before) / (sigma * alpha_after - sigma_after * alpha)


def slot_runs(codes: Sequence[int]) -> list[Run]:
    """One slot's codes over T steps, equal neighbours taken together."""
    runs: list[Run] = []
    ends: dict[int, int] = {}
    for step, code in enumerate(codes):
        if runs and runs[-1].code == code:
            runs[-1] = replace(runs[-1], end=step)
        else:
            runs.append(Run(code, step, step, ends.get(code)))
        ends[code] = step
    return runs


def repeated_codes(cells: Sequence[Cell]) -> set[int]:
    """The codes that a story uses more than once, in whichever slots."""
    return {code for code, count in Counter(code for cell in cells for code in cell.codes).items() if count > 1}
