"""StoryPipeline: from a prompt to an illustrated story.

Plans all steps first, then decodes texts and images, each in batches.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from typing import Any, cast

import torch
from PIL import Image
from torch import Tensor

from modules.common.errors import UserError
from modules.encoded.stories import batch_of_steps
from modules.generation.endings import ENDED, ends_story, room_for_history
from modules.generation.loaded_model import LoadedModel
from modules.generation.output import StoryPipelineOutput
from modules.generation.rendering import render_pages
from modules.generation.settings import MAX_NUM_STEPS, GenerationSettings, check_story
from modules.layers.seeding import make_generator
from modules.prior.prior import PriorSample
from modules.story import StoryStep
from modules.story_model.story_model import NextStepModel, StoryModel
from modules.text_decoder.config import Decoding


class StoryPipeline(LoadedModel):
    """A trained model that generates, continues, captions and illustrates stories.

    The `options` of every method that samples are `settings`, a `GenerationSettings`, and any of its fields, which take
    precedence: pipeline(prompt, seed=1, temperature=0.8). Equal arguments give equal bytes. Raises UserError on a
    setting out of range. `StoryPipeline(model, tokenizer)` is a `BaselinePipeline` if the model plans without codes.
    """

    def __new__(cls, model: StoryModel | None = None, *_: Any, **__: Any) -> StoryPipeline:
        """Choose the class for the model; a copy, which has no model yet, keeps its class."""
        is_baseline = cls is StoryPipeline and model is not None and not model.has_codes
        return super().__new__(BaselinePipeline if is_baseline else cls)

    # -- sampling

    def __call__(
        self,
        prompt: str,
        num_steps: int = 5,
        seed: int | None = None,
        *,
        steps: Sequence[StoryStep] = (),
        **options: Any,
    ) -> StoryPipelineOutput:
        """Generate `num_steps` pages, after the given `steps` if any. Raises UserError on an empty prompt."""
        return self._generate(prompt, num_steps, steps, GenerationSettings.resolve(seed=seed, **options))

    def _generate(
        self, prompt: str, num_steps: int, steps: Sequence[StoryStep], settings: GenerationSettings
    ) -> StoryPipelineOutput:
        """Plan all pages, then render them."""
        given, notes = self.encode(steps) if steps else None, self.notes(prompt, steps)
        history = given
        if given is not None and ends_story(
            self.model.prior, given, *self.prompt_tokens(prompt), self.config.max_steps
        ):
            history, notes = given[-room_for_history(self.config, num_steps) :], (*notes, ENDED)
        plan = self.plan(prompt, num_steps, codes=history, settings=settings)
        new = plan.codes[0]
        codes = new if given is None else torch.cat([given.to(new.device), new])
        pages, previous = range(len(steps), len(codes)), steps[-1].image if steps else None
        texts, images = self.render(codes, pages=pages, previous=previous, settings=settings)
        return StoryPipelineOutput(prompt, images, texts, new.cpu(), plan.log_probs[0].cpu(), notes)

    def continue_story(
        self, prompt: str, steps: Sequence[StoryStep], num_steps: int, **options: Any
    ) -> StoryPipelineOutput:
        """Generate the next `num_steps` pages after the given `steps`.

        If these end their story, another episode of the same characters begins, and a note reports it.
        """
        return self(prompt, num_steps, steps=steps, **options)

    def plan(
        self,
        prompt: str,
        num_steps: int,
        seed: int | None = None,
        *,
        codes: Tensor | None = None,
        num_plans: int = 1,
        fixed: Tensor | None = None,
        **options: Any,
    ) -> PriorSample:
        """Sample plans from the prior: codes (num_plans, num_steps, S) and log-probabilities of the same shape.

        `codes` (T0,S) are those of given steps; in `fixed` (num_steps,S) codes that are not to be drawn, negative
        numbers elsewhere. Raises UserError on an empty prompt or a number out of range.
        """
        settings = GenerationSettings.resolve(seed=seed, **options)
        check_story(prompt, num_steps, self.longest_story)
        self.check_codebook()
        generator = make_generator(settings.seed, self.device)
        history = None if codes is None else codes[None]
        prompt_tokens, fixed = self.prompt_tokens(prompt), None if fixed is None else fixed.to(self.device)
        return self.model.prior.sample(
            *prompt_tokens, num_steps, settings.temperature, settings.top_p, generator, history, num_plans, fixed
        )

    def plan_next(self, prompt: str, num_steps: int, steps: Sequence[StoryStep]) -> Tensor:
        """Return the vectors (T+1,S,d) of the given pages and of the likeliest page after them, if `num_steps` are
        left.
        """
        given = self.encode(steps) if steps else None
        following = self.embed(self.plan(prompt, num_steps, temperature=0, codes=given).codes[0, :1])
        return following if given is None else torch.cat([self.embed(given), following])

    @torch.no_grad()
    def render(
        self,
        codes: Tensor,
        seed: int | None = None,
        *,
        lengths: Sequence[int] | None = None,
        pages: Sequence[int] | None = None,
        texts: Sequence[str | None] = (),
        previous: Image.Image | None = None,
        **options: Any,
    ) -> tuple[list[str], list[Image.Image]]:
        """Decode codes (T,S), or vectors (T,S,d) in their place, to texts and images of the T pages of a story.

        With `lengths` they are several stories, of so many pages one after the other. Only `pages` are decoded, by
        default all; the others are read as the plan around them. Given `texts` of these pages are kept, and images
        drawn to them; None asks for one. With a `strength` below 1 each image is drawn over the one before, the first
        over `previous` if given.
        """
        settings = GenerationSettings.resolve(seed=seed, **options)
        code_embeds = self.embed(codes)
        window = self.model.window(code_embeds, list(lengths or [len(codes)]))
        if pages is not None:
            rows = torch.tensor(list(pages), device=code_embeds.device)
            code_embeds, window = code_embeds[rows], None if window is None else window[rows]
        return render_pages(self.model, self.tokenizer, code_embeds, window, texts, settings, previous)

    def caption(self, image: Image.Image, decoding: Decoding = "greedy") -> tuple[str, Tensor]:
        """Return the text of an image, and its codes (S,)."""
        codes = self.encode([StoryStep(text=None, image=image)])
        ids = self.model.text_decoder.generate(self.embed(codes), decoding)
        return self.tokenizer.decode(ids[0]), codes[0].cpu()

    def illustrate(self, texts: Sequence[str], seed: int | None = None, **options: Any) -> StoryPipelineOutput:
        """Draw an image for each text of a story."""
        steps = [StoryStep(text=text) for text in texts]
        return self.complete(" ".join(texts), steps, seed, **options)

    def complete(
        self, prompt: str, steps: Sequence[StoryStep], seed: int | None = None, **options: Any
    ) -> StoryPipelineOutput:
        """Decode the missing text or image of each given step from its codes."""
        settings = GenerationSettings.resolve(seed=seed, **options)
        texts, images = [step.text for step in steps], [step.image for step in steps]
        rows = [row for row, step in enumerate(steps) if step.text is None or step.image is None]
        codes = self._codes(steps, bool(rows))
        if codes is not None and rows:
            drawn = self.render(codes, pages=rows, texts=[texts[row] for row in rows], settings=settings)
            for row, text, image in zip(rows, *drawn, strict=True):
                texts[row], images[row] = text, images[row] or image
        pages = cast("list[Image.Image]", images), cast("list[str]", texts)
        return StoryPipelineOutput(prompt, *pages, None if codes is None else codes.cpu(), None, self.notes("", steps))

    def _codes(self, steps: Sequence[StoryStep], _needed: bool) -> Tensor | None:
        """Return the codes of given steps (T,S), also if all of them are complete."""
        return self.encode(steps)

    # -- reading

    def embed(self, codes: Tensor) -> Tensor:
        """Look up codes (T,S) -> the decoders' vectors (T,S,d); vectors are returned as they are."""
        codes = codes.to(self.device)
        return codes if codes.is_floating_point() else self.model.storyboard.embed(codes).code_embeds

    @torch.no_grad()
    def encode(self, steps: Sequence[StoryStep]) -> Tensor:
        """Encode steps, each with a text, an image or both -> their codes (T,S)."""
        self.check_codebook()
        codes = self.model.encode(batch_of_steps(steps, self.model, self.tokenizer)).codes
        assert codes is not None  # The codebook is ready.
        return codes

    def check_codebook(self) -> None:
        """Raise UserError if the model has no codes: its codebook is not initialised yet, or it is a baseline."""
        if not self.model.is_ready:
            raise UserError("this checkpoint is from before its codebook was placed: train on, or take a later one")


class BaselinePipeline(StoryPipeline):
    """A baseline without codes: it generates and continues stories, page by page."""

    @property
    def longest_story(self) -> int:
        """The largest number of pages generated at once."""
        return MAX_NUM_STEPS

    def check_codebook(self) -> None:
        """Raise UserError: there are no codes."""
        raise UserError(
            f'this model has no storyboard (its plan is "{self.config.plan}"): only `generate` and `continue` are'
            " supported"
        )

    def _codes(self, steps: Sequence[StoryStep], needed: bool) -> Tensor | None:
        """Return None for steps that are complete. Raises UserError if codes are needed."""
        return self.encode(steps) if needed else None

    def plan_next(self, prompt: str, num_steps: int, steps: Sequence[StoryStep]) -> Tensor:
        """Return vectors (T+1,S,d), those predicted for the page after the given ones last, if `num_steps` are left.

        The given pages have none: theirs are zeros, which no decoder reads.
        """
        following = self.predict(prompt, num_steps, steps)[:1]
        return torch.cat([following.new_zeros(len(steps), *following.shape[1:]), following])

    @torch.no_grad()
    def predict(self, prompt: str, num_steps: int, steps: Sequence[StoryStep] = ()) -> Tensor:
        """Return the vectors (M,S,d) from which the next pages after the given ones are decoded.

        `num_steps` pages are left. M is all of them if the prompt alone decides, else 1, because each page needs the
        page before. Raises UserError on an empty prompt or a number out of range.
        """
        check_story(prompt, num_steps)
        assert isinstance(self.model, NextStepModel)
        given, total, board = len(steps), len(steps) + num_steps, self.config.storyboard
        story = (*self.prompt_tokens(prompt), torch.ones(1, total, dtype=torch.bool, device=self.device))
        if not self.model.reads_steps:
            return self.model.predictor(*story)[0, given:]
        slots = torch.zeros(1, total, board.num_slots, board.codebook_dim, device=self.device)
        if steps:
            slots[0, :given] = self.model.encode(batch_of_steps(steps, self.model, self.tokenizer)).code_embeds
        return self.model.predictor(*story, slots)[0, given : given + 1]

    def _generate(
        self, prompt: str, num_steps: int, steps: Sequence[StoryStep], settings: GenerationSettings
    ) -> StoryPipelineOutput:
        """Generate page by page: each page is encoded before the next one is predicted."""
        check_story(prompt, num_steps)
        texts: list[str] = []
        images: list[Image.Image] = []
        seeds = random.Random(settings.seed)
        while len(texts) < num_steps:
            before = [*steps, *map(StoryStep, texts, images)]
            vectors = self.predict(prompt, num_steps - len(texts), before)
            previous = before[-1].image if before else None
            drawn = self.render(vectors, seeds.getrandbits(62) % 2**32, previous=previous, settings=settings)
            texts, images = [*texts, *drawn[0]], [*images, *drawn[1]]
        return StoryPipelineOutput(prompt, images, texts, None, None, self.notes(prompt, steps))
