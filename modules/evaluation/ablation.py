"""An ablation of the image sampler: inference steps x strength x guidance scale, scored on the predicted next page."""

from __future__ import annotations

import itertools
import time
import warnings
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from modules.common.errors import UserError
from modules.common.progress import announce, seconds_of, track
from modules.data.pixels import pixels_of, to_pictures
from modules.evaluation.metrics.statistics import bootstrap_mean
from modules.evaluation.resumable_csv import ResumableCsv
from modules.evaluation.scorers import Scorer
from modules.generation.pipeline import StoryPipeline
from modules.generation.rendering import encode_captions, render_texts
from modules.generation.settings import MAX_NUM_STEPS, GenerationSettings, nonempty_prompt
from modules.layers.plan_window import PlanWindow
from modules.layers.seeding import make_generator
from modules.story import Story, StoryDataset

NUM_GIVEN = 3  # True pages before the predicted one.
RENDER_BATCH = 64


@dataclass(frozen=True)
class GridCell:
    """One combination of sampler settings.

    `strength` is the share of the noise schedule that is run, starting from the previous page's latents (SDEdit, arXiv
    2108.01073); `cfg` is the scale of classifier-free guidance (arXiv 2207.12598).
    """

    steps: int
    strength: float
    cfg: float

    @property
    def denoising_steps(self) -> int:
        """The number of denoising steps: `int(steps * strength)`, at least one."""
        return max(1, int(self.steps * self.strength))

    def __str__(self) -> str:
        return f"steps={self.steps} str={self.strength:.3f} cfg={self.cfg:.2f}"


@dataclass(frozen=True)
class AblationGrid:
    """Numbers of inference steps x strengths x guidance scales, over `num_examples` stories.

    Raises UserError on a value out of range.
    """

    steps: tuple[int, ...] = (10, 20, 50)
    strengths: tuple[float, ...] = (0.02, 0.05, 0.1, 1.0)
    guidance_scales: tuple[float, ...] = (1.0, 3.0, 5.0, 7.0)
    num_examples: int = 8

    def __post_init__(self) -> None:
        for name, values in (("--steps", self.steps), ("--strength", self.strengths), ("--cfg", self.guidance_scales)):
            if not values or len(set(values)) < len(values):
                raise UserError(
                    f"{name} must be one or more different numbers, got {','.join(map(str, values)) or 'none'}"
                )
        for steps, cfg in itertools.product(self.steps, self.guidance_scales):
            GenerationSettings(guidance_scale=cfg, num_inference_steps=steps)
        for strength in self.strengths:
            if not 0 < strength <= 1:
                raise UserError(f"--strength must be above 0 and at most 1, got {strength}")
        if self.num_examples < 1:
            raise UserError(f"--num_examples must be 1 or more, got {self.num_examples}")

    @classmethod
    def parse(cls, steps: str, strength: str, cfg: str, num_examples: int) -> AblationGrid:
        """Parse the flags' values: numbers separated by commas."""
        return cls(
            _numbers("--steps", steps, int),
            _numbers("--strength", strength, float),
            _numbers("--cfg", cfg, float),
            num_examples,
        )

    def cells(self) -> list[GridCell]:
        """Return all combinations; the guidance scale changes fastest."""
        grid = itertools.product(self.steps, self.strengths, self.guidance_scales)
        return [GridCell(steps, float(strength), float(cfg)) for steps, strength, cfg in grid]


def _numbers(flag: str, text: str, kind: type) -> tuple:
    try:
        return tuple(kind(part) for part in text.split(","))
    except ValueError:
        raise UserError(
            f"{flag} must be {'whole ' if kind is int else ''}numbers with commas between them, got {text!r}"
        ) from None


@dataclass(frozen=True)
class NextPages:
    """The pages that follow three true ones in N stories: the predictions, and the true pages."""

    code_embeds: Tensor  # (N,S,D)
    window: PlanWindow | None  # The true pages before, and the predicted page itself.
    previous_latents: Tensor  # (N,c,h,w) of the last true page before the predicted one.
    predicted_texts: list[str]
    true_texts: list[str]
    true_images: list[Image.Image]


@torch.no_grad()
def predict_next_pages(pipeline: StoryPipeline, dataset: StoryDataset, num_examples: int) -> NextPages:
    """Predict the fourth page of the first `num_examples` stories that have four pages, with pictures and texts.

    The plan is the prior's greedy one (temperature 0), or a baseline's prediction. Raises UserError if there are too
    few such stories.
    """
    stories = list(itertools.islice(_whole_stories(dataset), num_examples))
    if len(stories) < num_examples:
        raise UserError(
            f"{dataset.name} has {len(stories)} stories with {NUM_GIVEN} pages and a picture and a text after them: "
            f"lower --num_examples {num_examples}, or give more data"
        )
    plans = torch.cat([_plan_next_page(pipeline, story) for story in track("planning the next pages", stories)])
    last = torch.arange(NUM_GIVEN, len(plans), NUM_GIVEN + 1, device=plans.device)
    embeds, window = plans[last], pipeline.model.window(plans, [NUM_GIVEN + 1] * len(stories))
    window = None if window is None else window[last]
    settings = GenerationSettings()
    texts = render_texts(pipeline.model, pipeline.tokenizer, embeds, settings, window)
    size = pipeline.config.autoencoder.image_size
    previous = pixels_of([story.steps[NUM_GIVEN - 1].image for story in stories], size)
    latents = [pipeline.model.autoencoder.encode(part.to(pipeline.device)) for part in previous.split(RENDER_BATCH)]
    targets = [story.steps[NUM_GIVEN] for story in stories]
    return NextPages(
        embeds,
        window,
        torch.cat(latents),
        texts,
        [page.text for page in targets if page.text is not None],
        [page.image for page in targets if page.image is not None],
    )


def _plan_next_page(pipeline: StoryPipeline, story: Story) -> Tensor:
    """Return the vectors of the given pages and of the page after them (NUM_GIVEN+1,S,D)."""
    given = story.steps[:NUM_GIVEN]
    # All pages that are left, because the plan depends on their number.
    num_left = min(len(story.steps) - NUM_GIVEN, MAX_NUM_STEPS)
    return pipeline.plan_next(nonempty_prompt(story.prompt), num_left, given)


def _whole_stories(dataset: StoryDataset) -> Iterator[Story]:
    """Yield the stories with a page to predict: it has picture and text, and the page before it a picture."""
    for index, length in enumerate(dataset.lengths):
        if length > NUM_GIVEN:
            story = dataset[index]
            previous, target = story.steps[NUM_GIVEN - 1 : NUM_GIVEN + 1]
            if previous.image is not None and target.image is not None and target.text is not None:
                yield story


@torch.no_grad()
def draw_pages(pipeline: StoryPipeline, pages: NextPages, cell: GridCell, seed: int) -> list[Image.Image]:
    """Draw all N pages with the settings of `cell`, by DDIM (arXiv 2010.02502), guided at every step.

    The noise of a page depends only on the seed and the page's number, so all cells share it.
    """
    generator, images = make_generator(seed), []
    for start in range(0, len(pages.code_embeds), RENDER_BATCH):
        rows = slice(start, start + RENDER_BATCH)
        drawn = pipeline.model.image_decoder.sample(
            pages.code_embeds[rows],
            cell.steps,
            cell.cfg,
            generator=generator,
            init_latents=pages.previous_latents[rows],
            strength=cell.strength,
            encoder_hidden_states=encode_captions(pipeline.model, pages.predicted_texts[rows]),
            window=None if pages.window is None else pages.window[rows],
        )
        images += to_pictures(pipeline.model.autoencoder.decode(drawn))
    return images


def run_ablation(
    pipeline: StoryPipeline,
    dataset: StoryDataset,
    grid: AblationGrid,
    scorer: Scorer,
    output: Path,
    seed: int = 0,
    say: Callable[[str], None] = print,
) -> None:
    """Score the next page, drawn with the settings of every cell of the grid, into the CSV `output`.

    A row is a cell: the mean cosine of picture and predicted text (pp) and of picture and true text (pg), each with its
    95 % interval over stories, floor (texts of other stories) and ceiling (true pictures with true texts), and the
    seconds a page took. Rows that exist are kept. Raises UserError if the CSV is of other settings, or if there are too
    few stories.
    """
    GenerationSettings(seed=seed)  # Raises UserError.
    identity = {
        "scorer": scorer.name,
        "num_examples": grid.num_examples,
        "seed": seed,
        "data": f"{dataset.name} {dataset.fingerprint()}",
        "model": pipeline.fingerprint(),
    }
    table = ResumableCsv(output, [asdict(cell) for cell in grid.cells()], identity)
    cells = [cell for cell in grid.cells() if asdict(cell) not in table]
    if not cells:
        return
    pages = predict_next_pages(pipeline, dataset, grid.num_examples)
    texts = {"pp": scorer.embed_texts(pages.predicted_texts), "pg": scorer.embed_texts(pages.true_texts)}
    ceiling = float((scorer.embed_images(pages.true_images) * texts["pg"]).sum(1).mean())
    announce(_forecast(pipeline, pages, cells, seed))
    for cell in cells:
        images, seconds = _draw_timed(pipeline, pages, cell, seed)
        embeds = scorer.embed_images(images)
        cosines = {f"{scorer.name}({name})": (embeds @ other.T).double().cpu().numpy() for name, other in texts.items()}
        table.add(asdict(cell), _row(cell, cosines, ceiling, seconds, seed))
        for index in range(len(images)):
            scores = " ".join(f"{name}={matrix[index, index]:.4f}" for name, matrix in cosines.items())
            say(f"[ablate] idx={index} {cell} | {scores}")


def _forecast(pipeline: StoryPipeline, pages: NextPages, cells: Sequence[GridCell], seed: int) -> float:
    """Return about how many seconds it takes to draw the pages with the settings of all cells.

    The first pictures of a program are slow: these are drawn before the first cell's time is taken.
    """
    trials = [GridCell(steps, 1.0, 1.0) for steps in (1, 3)]
    short, longer = (seconds_of(partial(draw_pages, pipeline, pages, trial, seed)) for trial in trials)
    step = max(0.0, longer - short) / 2
    passes = sum(cell.denoising_steps * (1 if cell.cfg == 1 else 2) for cell in cells)
    return len(cells) * max(0.0, short - step) + passes * step


def _draw_timed(
    pipeline: StoryPipeline, pages: NextPages, cell: GridCell, seed: int
) -> tuple[list[Image.Image], float]:
    """Return the pages of a cell and the seconds a page; warn if the cell has less than one denoising step."""
    if int(cell.steps * cell.strength) == 0:
        warnings.warn(
            f"{cell}: {cell.steps} x {cell.strength:g} is less than one step of denoising; one is taken", stacklevel=3
        )
    started = time.perf_counter()
    images = draw_pages(pipeline, pages, cell, seed)
    return images, (time.perf_counter() - started) / len(images)


def _row(
    cell: GridCell, cosines: dict[str, NDArray[np.float64]], ceiling: float, seconds: float, seed: int
) -> dict[str, float | None]:
    """Return the CSV's columns: means of the matching pairs of cosines (N,N) of every picture with every text."""
    row: dict[str, float | None] = {"denoising_steps": cell.denoising_steps}
    for name, matrix in cosines.items():
        count, own = len(matrix), matrix.diagonal()
        floor = float((matrix.sum() - own.sum()) / (count * (count - 1))) if count > 1 else None
        estimate = bootstrap_mean(own, np.ones(count), seed, floor, ceiling).to_dict()
        row |= {name if part == "value" else f"{name} {part}": value for part, value in estimate.items()}
    return row | {"seconds_a_page": seconds}
