"""A story's pages in several versions: true, decoded from their own codes, predicted, and generated from the prompt."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from PIL import Image
from torch import Tensor

from modules.data.images import fit_image
from modules.generation.pipeline import StoryPipeline
from modules.generation.settings import GenerationSettings, nonempty_prompt
from modules.layers.seeding import make_generator
from modules.story import Story


@dataclass(frozen=True)
class PageView:
    """One page of one version: picture and text where it has them, its S codes if the model has codes, their bits."""

    image: Image.Image | None
    text: str | None
    codes: list[int]
    bits: float | None = None
    is_given: bool = False  # A true page that this version starts from.


@dataclass(frozen=True)
class Version:
    """T pages under a title; `is_predicted`: their codes are the prior's, to be compared with the true ones."""

    title: str
    note: str
    pages: list[PageView]
    is_predicted: bool = False


@dataclass(frozen=True)
class Comparison:
    """The versions of one story, the true pages first."""

    prompt: str
    versions: list[Version]

    @property
    def pages(self) -> list[PageView]:
        """The true pages."""
        return self.versions[0].pages

    @property
    def has_codes(self) -> bool:
        """Whether the model plans with codes."""
        return bool(self.pages[0].codes)

    @property
    def title(self) -> str:
        """The prompt, or a substitute where it is empty."""
        return self.prompt.strip() or "A story without a prompt"

    def matches(self, index: int, page: PageView) -> list[bool]:
        """Return for each slot whether `page`, at place `index` of some version, has the true page's code."""
        return [code == true for code, true in zip(page.codes, self.pages[index].codes, strict=True)]


@torch.no_grad()
def compare_versions(
    pipeline: StoryPipeline,
    story: Story,
    num_given: int = 3,
    seed: int = 0,
    num_inference_steps: int = GenerationSettings.num_inference_steps,
) -> Comparison:
    """Generate a story's T pages from less and less: their own codes, `num_given` true pages, the prompt alone.

    A shorter story is given all true pages but the last. A model that plans without codes starts from what it reads:
    true pages and prompt, or the prompt alone.
    """
    versions = _Planned if pipeline.model.has_codes else _Codeless
    return versions(pipeline, story, seed, num_inference_steps).compare(num_given)


class _Planned:
    """Versions of one story by a model with codes."""

    def __init__(self, pipeline: StoryPipeline, story: Story, seed: int, num_inference_steps: int) -> None:
        self.pipeline, self.story = pipeline, story
        self.seed, self.num_inference_steps = seed, num_inference_steps
        self.codes = pipeline.encode(story.steps)
        self.prompt = pipeline.prompt_tokens(story.prompt)

    def compare(self, num_given: int) -> Comparison:
        true, num_pages = self._true_pages(), len(self.codes)
        decoded = self._render(self.codes, [None] * num_pages)
        versions = [
            Version("True pages", "with the codes that the encoder assigns", true),
            Version("From their own codes", "texts and pictures decoded again from those codes", decoded),
        ]
        given = min(num_given, num_pages - 1)
        if given:
            pages = [*(replace(page, is_given=True) for page in true[:given]), *self._predict(given)]
            versions.append(Version(_after(given), "the prior continues the true pages' codes", pages, True))
        note = (
            "the prior plans the whole story" if self.story.prompt.strip() else "no prompt: the plan is unconditional"
        )
        versions.append(Version("From the prompt alone", note, self._predict(0), True))
        return Comparison(self.story.prompt, versions)

    def _true_pages(self) -> list[PageView]:
        present = torch.ones_like(self.codes[None, :, 0], dtype=torch.bool)
        nll = self.pipeline.model.prior(self.codes[None], *self.prompt, present).nll[0]
        return [
            replace(page, codes=codes, bits=bits)
            for page, codes, bits in zip(
                _fit_pages(self.pipeline, self.story), self.codes.tolist(), _to_bits(nll), strict=True
            )
        ]

    def _predict(self, num_given: int) -> list[PageView]:
        """Sample the codes after the first `num_given` and render them.

        Not by the pipeline's `plan`: that requires a prompt, which a story on disk may lack.
        """
        generator = make_generator(self.seed, self.pipeline.device)
        history = self.codes[None, :num_given] if num_given else None
        num_steps = len(self.codes) - num_given
        sampling = GenerationSettings.temperature, GenerationSettings.top_p
        plan = self.pipeline.model.prior.sample(*self.prompt, num_steps, *sampling, generator, history)
        codes = torch.cat([self.codes[:num_given], plan.codes[0].to(self.codes.device)])
        return self._render(codes, _to_bits(-plan.log_probs[0]), num_given)

    def _render(self, codes: Tensor, bits: Sequence[float | None], num_given: int = 0) -> list[PageView]:
        """Decode the pages after the first `num_given`."""
        pages, steps = range(num_given, len(codes)), self.num_inference_steps
        texts, images = self.pipeline.render(codes, self.seed, pages=pages, num_inference_steps=steps)
        return [PageView(*page) for page in zip(images, texts, codes[num_given:].tolist(), bits, strict=True)]


class _Codeless:
    """Versions of one story by a model without codes: the true pages, and those that the pipeline generates."""

    def __init__(self, pipeline: StoryPipeline, story: Story, seed: int, num_inference_steps: int) -> None:
        self.pipeline, self.story = pipeline, story
        self.seed, self.num_inference_steps = seed, num_inference_steps
        self.true = _fit_pages(pipeline, story)
        self.prompt = nonempty_prompt(story.prompt)

    def compare(self, num_given: int) -> Comparison:
        versions = [Version("True pages", "this model has no codes", self.true)]
        given = min(num_given, len(self.true) - 1)
        if given and self.pipeline.model.reads_steps:
            note = "each page from those before it, the true ones first"
            versions.append(Version(_after(given), note, self._generate(given)))
        has_prompt = self.story.prompt.strip()
        note = "generated from it" if has_prompt else f"no prompt: generated from the words “{self.prompt}”"
        versions.append(Version("From the prompt alone", note, self._generate(0)))
        return Comparison(self.story.prompt, versions)

    def _generate(self, given: int) -> list[PageView]:
        output = self.pipeline(
            self.prompt,
            len(self.true) - given,
            self.seed,
            num_inference_steps=self.num_inference_steps,
            steps=self.story.steps[:given],
        )
        pages = [PageView(image, text, []) for image, text in zip(output.images, output.texts, strict=True)]
        return [*(replace(page, is_given=True) for page in self.true[:given]), *pages]


def _after(given: int) -> str:
    return "Predicted after 1 page" if given == 1 else f"Predicted after {given} pages"


def _fit_pages(pipeline: StoryPipeline, story: Story) -> list[PageView]:
    """Return the true pages with pictures fitted into the model's square."""
    size = pipeline.config.autoencoder.image_size
    return [
        PageView(None if step.image is None else fit_image(step.image, size), step.text, []) for step in story.steps
    ]


def _to_bits(nll: Tensor) -> list[float]:
    """nll (T, S) in nats -> bits of each step."""
    return (nll.sum(-1) / math.log(2)).tolist()
