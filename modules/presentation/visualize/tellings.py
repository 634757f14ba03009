"""What `visualize` shows of a story: its pages as told from different knowledge, with texts, codes and bits, and how a
page is denoised.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from PIL import Image
from torch import Tensor

from modules.data.images import fit_image
from modules.data.pixels import to_pictures
from modules.generation import GenerationSettings
from modules.pipeline import StoryPipeline
from modules.story import Story

SHOWN_STEPS = 7  # Of a denoising trail.


@dataclass(frozen=True)
class Cell:
    """One page of one telling: what is there of picture and text, its S codes (none where the model has none), and
    their cost.
    """

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

    @property
    def has_codes(self) -> bool:
        return bool(self.cells[0].codes)

    def matches(self, index: int, cell: Cell) -> list[bool]:
        """For each slot, whether page `index` of some telling has the true page's code."""
        return [code == true for code, true in zip(cell.codes, self.cells[index].codes, strict=True)]


@dataclass(frozen=True)
class Trail:
    """M moments of the denoising of `cell`: before update `steps[i]`, `signal[i]` of the variance is picture and the
    rest is noise.

    `noisy[i]` is what that update starts from, `guesses[i]` the finished picture that it aims at; the last guess is the
    result.
    """

    cell: Cell
    steps: list[int]
    signal: list[float]
    noisy: list[Image.Image]
    guesses: list[Image.Image]


@dataclass(frozen=True)
class Run:
    """The same code at a slot's steps `start` to `end`, both included; `previous` is where its last run ended, if there
    was one.
    """

    code: int
    start: int
    end: int
    previous: int | None


@torch.no_grad()
def study_story(
    pipeline: StoryPipeline, story: Story, num_given: int = 3, seed: int = 0, num_inference_steps: int = 20
) -> Study:
    """Tell a story's T pages from their own codes, from `num_given` true pages (fewer where it is shorter), and from
    the prompt alone.

    A model that plans without codes tells from what it reads: true pages and prompt, or the prompt alone.
    """
    if pipeline.model.prior is None:
        return _study_without_codes(pipeline, story, num_given, seed, num_inference_steps)
    codes = pipeline.encode(story.steps)
    ids, mask = pipeline.tokenizer.encode_batch([story.prompt], pipeline.config.max_prompt_length)
    prompt = ids[:, : mask.sum()].to(pipeline.device), mask[:, : mask.sum()].to(pipeline.device)

    def tell(codes: Tensor, bits: Sequence[float | None]) -> list[Cell]:
        texts, images = pipeline.render(codes, seed, num_inference_steps=num_inference_steps)
        return [Cell(*page) for page in zip(images, texts, codes.tolist(), bits, strict=True)]

    def predict(
        num_given: int,
    ) -> list[Cell]:  # Not by the pipeline's `plan`: that wants a prompt, which a story on disk may lack.
        generator = torch.Generator(pipeline.device).manual_seed(seed)
        history = codes[None, :num_given] if num_given else None
        sampling = GenerationSettings.temperature, GenerationSettings.top_p
        plan = pipeline.model.prior.sample(*prompt, len(codes) - num_given, *sampling, generator, history)
        return tell(plan.codes[0], _bits(-plan.log_probs[0]))

    true = _true_cells(pipeline, story, codes, prompt)
    tellings = [
        Telling("True pages", "with the codes that the encoder gives them", true),
        Telling(
            "From their own codes",
            "texts and pictures decoded again from those codes",
            tell(codes, [None] * len(codes)),
        ),
    ]
    given = min(num_given, len(codes) - 1)
    if given:
        cells = [*(replace(cell, is_given=True) for cell in true[:given]), *predict(given)]
        tellings.append(
            Telling(_after(given), "the prior's next codes, after the true pages' codes", cells, is_guess=True)
        )
    note = "the whole plan by the prior" if story.prompt.strip() else "there is no prompt: a plan from nothing"
    tellings.append(Telling("From the prompt alone", note, predict(0), is_guess=True))
    return Study(story.prompt, tellings)


def _study_without_codes(
    pipeline: StoryPipeline, story: Story, num_given: int, seed: int, num_inference_steps: int
) -> Study:
    """The same of what there is without codes: the true pages, and those that the pipeline itself tells."""
    prompt, true = _prompt(story.prompt), _pages(pipeline, story)

    def tell(given: int) -> list[Cell]:
        steps = story.steps[:given]
        told = pipeline(prompt, len(true) - given, seed, num_inference_steps=num_inference_steps, steps=steps)
        pages = [Cell(image, text, []) for image, text in zip(told.images, told.texts, strict=True)]
        return [*(replace(cell, is_given=True) for cell in true[:given]), *pages]

    tellings = [Telling("True pages", "this model has no codes for them", true)]
    given = min(num_given, len(true) - 1)
    if given and pipeline.model.storyboard is not None:
        tellings.append(Telling(_after(given), "each page from those before it, the true ones first", tell(given)))
    note = "told from its prompt" if story.prompt.strip() else f"there is no prompt: told from the words “{prompt}”"
    return Study(story.prompt, [*tellings, Telling("From the prompt alone", note, tell(0))])


def _after(given: int) -> str:
    return "Predicted after 1 page" if given == 1 else f"Predicted after {given} pages"


def _prompt(prompt: str) -> str:
    return prompt.strip() or "a story"  # Some real stories have no prompt.


def _pages(pipeline: StoryPipeline, story: Story) -> list[Cell]:
    """The true pages as the model sees them: pictures fitted into its square."""
    size = pipeline.config.autoencoder.image_size
    return [Cell(None if step.image is None else fit_image(step.image, size), step.text, []) for step in story.steps]


def _true_cells(pipeline: StoryPipeline, story: Story, codes: Tensor, prompt: tuple[Tensor, Tensor]) -> list[Cell]:
    """The true pages, with their codes and what these cost."""
    nll = pipeline.model.prior(codes[None], *prompt, torch.ones_like(codes[None, :, 0], dtype=torch.bool)).nll[0]
    return [
        replace(cell, codes=row, bits=bits)
        for cell, row, bits in zip(_pages(pipeline, story), codes.tolist(), _bits(nll), strict=True)
    ]


def _bits(nll: Tensor) -> list[float]:
    """nll (T, S) in nats -> bits of each step."""
    return (nll.sum(-1) / math.log(2)).tolist()


def denoise_one(
    pipeline: StoryPipeline, studies: Sequence[Study], seed: int = 0, num_inference_steps: int = 20
) -> Trail:
    """The trail of the first true page with a picture; without codes, of the first page, as the prompt alone decides
    it.
    """
    pages = [cell for study in studies for cell in study.cells]
    if studies[0].has_codes:
        cell = next((cell for cell in pages if cell.image is not None), pages[0])
        return denoise(pipeline, cell, torch.tensor([cell.codes]), seed, num_inference_steps)
    vectors = pipeline.predict(_prompt(studies[0].prompt), len(studies[0].cells))[:1]
    return denoise(pipeline, pages[0], vectors, seed, num_inference_steps)


@torch.no_grad()
def denoise(
    pipeline: StoryPipeline,
    cell: Cell,
    codes: Tensor,
    seed: int = 0,
    num_inference_steps: int = 20,
    guidance_scale: float = 2.0,
) -> Trail:
    """Draw a page from its codes (1,S), or vectors (1,S,d) in their place, by DDIM (arXiv 2010.02502), and keep up to
    `SHOWN_STEPS` moments on the way, the last update among them. A decoder that reads the text too has the one that is
    told from the same codes.
    """
    decoder, code_embeds = pipeline.model.image_decoder, pipeline.embed(codes)
    captions = pipeline.captions(
        [pipeline.tokenizer.decode(ids) for ids in pipeline.model.text_decoder.generate(code_embeds)]
    )
    latents = [torch.randn(1, *decoder.latent_shape, generator=torch.Generator().manual_seed(seed)).to(pipeline.device)]
    generator = torch.Generator().manual_seed(
        seed
    )  # The same noise again: `on_step` tells only what comes after an update.
    options = {"on_step": latents.append, "encoder_hidden_states": captions}
    decoder.sample(code_embeds, num_inference_steps, guidance_scale, "ddim", generator, **options)

    before, after = signal_levels(decoder, num_inference_steps)
    shown = sorted({round(1 + part * (num_inference_steps - 1) / (SHOWN_STEPS - 1)) for part in range(SHOWN_STEPS)})
    guesses = [aimed_at(latents[step - 1], latents[step], before[step - 1], after[step - 1]) for step in shown]
    pixels = pipeline.model.autoencoder.decode(torch.cat([*(latents[step - 1] for step in shown), *guesses]))
    pictures = to_pictures(pixels)
    signal = [
        before[step - 1] if step > 1 else 0.0 for step in shown
    ]  # It starts from noise alone, whatever the schedule says.
    return Trail(cell, shown, signal, pictures[: len(shown)], pictures[len(shown) :])


def signal_levels(decoder: torch.nn.Module, num_inference_steps: int) -> tuple[list[float], list[float]]:
    """The shares of variance that are signal before and after each of DDIM's updates."""
    scheduler = decoder.make_scheduler("ddim")
    scheduler.set_timesteps(num_inference_steps)
    stride = scheduler.config.num_train_timesteps // num_inference_steps
    levels, last = scheduler.alphas_cumprod.tolist(), float(scheduler.final_alpha_cumprod)
    timesteps = scheduler.timesteps.tolist()
    return [levels[t] for t in timesteps], [levels[t - stride] if t >= stride else last for t in timesteps]


def aimed_at(before: Tensor, after: Tensor, signal_before: float, signal_after: float) -> Tensor:
    """The clean latents that a DDIM update aimed at, from the latents before and after it, both alpha x + sigma eps of
    one x and eps.
    """
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
