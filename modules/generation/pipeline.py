"""StoryPipeline: from a prompt to an illustrated story.

Plans all steps first, then decodes texts and images, each in batches.
"""

from __future__ import annotations

import dataclasses
import random
from collections.abc import Sequence
from typing import Any, Literal, overload

import torch
from PIL import Image
from torch import Tensor

from modules.common.errors import UserError
from modules.encoded.stories import batch_of_steps
from modules.generation.arguments import resolve_settings
from modules.generation.batches import can_share_batches, render_stories
from modules.generation.endings import ENDED, ends_story, room_for_history
from modules.generation.output import OutputType, StoryPipelineOutput, check_output_type
from modules.generation.renderer import StoryRenderer
from modules.generation.rendering import count_updates, render_pages
from modules.generation.requests import Generators, StoryRequest, check_texts, read_requests
from modules.generation.scoring import StoryScore, score_story
from modules.generation.settings import MAX_NUM_STEPS, GenerationSettings, check_story
from modules.generation.watching import OnStep, StepCallback, watch
from modules.story import Story, StoryStep
from modules.story_model.story_model import NextStepModel, StoryModel


class StoryPipeline(StoryRenderer):
    """A trained model that generates, continues, captions, illustrates and scores stories.

    The `options` of every method that samples are `settings`, a `GenerationSettings`, and any of its fields, which take
    precedence: pipeline(prompt, seed=1, temperature=0.8). Equal arguments give equal bytes. Raises UserError on a
    setting out of range, and UnknownArgument, a TypeError as well, on a name that is none. Threads may share a
    pipeline: their calls wait for one another, and give what they give alone. `StoryPipeline(model, tokenizer)` is a
    `BaselinePipeline` if the model plans without codes.
    """

    def __new__(cls, model: StoryModel | None = None, *_: Any, **__: Any) -> StoryPipeline:
        """Choose the class for the model; a copy, which has no model yet, keeps its class."""
        is_baseline = cls is StoryPipeline and model is not None and not model.has_codes
        return super().__new__(BaselinePipeline if is_baseline else cls)

    # -- sampling

    @overload
    def __call__(
        self, prompt: str, num_steps: int = 5, seed: int | None = None, *, num_stories: Literal[1] = 1, **options: Any
    ) -> StoryPipelineOutput: ...

    @overload
    def __call__(
        self, prompt: str | Sequence[str], num_steps: int = 5, seed: int | None = None, **options: Any
    ) -> list[StoryPipelineOutput]: ...

    def __call__(
        self,
        prompt: str | Sequence[str],
        num_steps: int = 5,
        seed: int | None = None,
        *,
        steps: Sequence[StoryStep] = (),
        num_stories: int = 1,
        generator: Generators | None = None,
        callback_on_step_end: StepCallback | None = None,
        output_type: OutputType = "pil",
        **options: Any,
    ) -> StoryPipelineOutput | list[StoryPipelineOutput]:
        """Generate `num_steps` pages, after the given `steps` if any. Raises UserError on an empty prompt.

        >>> story = pipeline("a fox wants a kite", num_steps=2, seed=0, num_inference_steps=2)
        >>> len(story.texts), len(story.images), story.codes.shape
        (2, 2, torch.Size([2, 8]))

        A list of prompts, or `num_stories` of each, gives a list of stories. The stories of one prompt have the seeds
        `seed`, `seed` + 1, ...; with a `generator` of torch, or one for each story, seeds that are drawn from it. On a
        CPU each is byte for byte the story that is generated alone. On an accelerator the pages of all stories share
        batches, and only codes are sure to be equal: numbers in another batch differ in their last bits.

        >>> stories = pipeline(["a fox", "a bear"], num_steps=2, num_stories=2, num_inference_steps=2)
        >>> [(story.prompt, story.seed) for story in stories]
        [('a fox', 0), ('a fox', 1), ('a bear', 0), ('a bear', 1)]
        >>> again = pipeline("a fox", 2, generator=torch.Generator().manual_seed(3), num_inference_steps=2)

        `callback_on_step_end(pipeline, step, timestep, {"latents": ...})` is called after every denoising step of every
        batch of pages, and may return other latents. `output_type` is that of the images: "pil", "np" (T,H,W,3) or
        "pt" (T,3,H,W).

        >>> def show(pipeline, step, timestep, tensors):
        ...     print(step, int(timestep), tuple(tensors["latents"].shape)[0])
        >>> story = pipeline("a fox", 3, num_inference_steps=2, callback_on_step_end=show, output_type="pt")
        0 999 3
        1 499 3
        >>> story.images.shape[:2]
        torch.Size([3, 3])
        """
        settings = resolve_settings(self.__call__, seed, options)
        requests = read_requests(prompt, num_stories, generator, settings)
        check_output_type(output_type)
        for request in requests:
            check_story(request.prompt, num_steps, self.longest_story)
        updates = self._count_updates(len(requests), num_steps, settings)
        with watch(self, callback_on_step_end, self.progress_bar, updates) as on_step:
            stories = self._generate_all(requests, num_steps, steps, on_step)
        converted = [story.converted(output_type) for story in stories]
        return converted[0] if isinstance(prompt, str) and num_stories == 1 else converted

    def _generate_all(
        self, requests: Sequence[StoryRequest], num_steps: int, steps: Sequence[StoryStep], on_step: OnStep | None
    ) -> list[StoryPipelineOutput]:
        if len(requests) > 1 and self.device.type != "cpu" and can_share_batches(requests):
            return self._generate_together(requests, num_steps, steps, on_step)
        return [self._generate(request.prompt, num_steps, steps, request.settings, on_step) for request in requests]

    def _generate(
        self,
        prompt: str,
        num_steps: int,
        steps: Sequence[StoryStep],
        settings: GenerationSettings,
        on_step: OnStep | None = None,
    ) -> StoryPipelineOutput:
        """Plan all pages, then render them."""
        story, codes = self._plan_story(prompt, num_steps, steps, settings)
        code_embeds = self.embed(codes)
        rows, window = slice(len(steps), None), self.model.window(code_embeds, [len(codes)])
        own, around, previous = code_embeds[rows], window and window[rows], steps[-1].image if steps else None
        texts, images = render_pages(self.model, self.tokenizer, own, around, (), settings, previous, on_step)
        return dataclasses.replace(story, texts=texts, images=images)

    def _plan_story(
        self, prompt: str, num_steps: int, steps: Sequence[StoryStep], settings: GenerationSettings
    ) -> tuple[StoryPipelineOutput, Tensor]:
        """Return a story whose pages are planned, not yet rendered, and the codes (T,S) of all its pages."""
        given, notes = self.encode(steps) if steps else None, self.notes(prompt, steps)
        history = given
        if given is not None and ends_story(
            self.model.prior, given, *self.prompt_tokens(prompt), self.config.max_steps
        ):
            history, notes = given[-room_for_history(self.config, num_steps) :], (*notes, ENDED)
        plan = self.plan(prompt, num_steps, codes=history, settings=settings)
        new = plan.codes[0]
        codes = new if given is None else torch.cat([given.to(new.device), new])
        return StoryPipelineOutput(prompt, [], [], new.cpu(), plan.log_probs[0].cpu(), notes, settings.seed), codes

    def _generate_together(
        self, requests: Sequence[StoryRequest], num_steps: int, steps: Sequence[StoryStep], on_step: OnStep | None
    ) -> list[StoryPipelineOutput]:
        """Plan each story, then render the pages of all in the same batches."""
        planned = [self._plan_story(each.prompt, num_steps, steps, each.settings) for each in requests]
        seeds = [request.settings.seed for request in requests]
        codes, settings = torch.stack([codes for _, codes in planned]), requests[0].settings
        texts, images = render_stories(self, codes, len(steps), seeds, settings, on_step)
        return [
            dataclasses.replace(story, texts=texts[number], images=images[number])
            for number, (story, _) in enumerate(planned)
        ]

    def _count_updates(self, num_stories: int, num_steps: int, settings: GenerationSettings) -> int:
        """Return the number of denoising steps of so many stories, at most."""
        return num_stories * count_updates(num_steps, settings)

    def continue_story(
        self, prompt: str, steps: Sequence[StoryStep], num_steps: int, **options: Any
    ) -> StoryPipelineOutput:
        """Generate the next `num_steps` pages after the given `steps`.

        If these end their story, another episode of the same characters begins, and a note reports it.

        >>> more = pipeline.continue_story("a fox wants a kite", story.steps(), 1, num_inference_steps=2)
        """
        return self(prompt, num_steps, steps=steps, **options)

    def score(self, story: StoryPipelineOutput | Story, seed: int = 0) -> StoryScore:
        """Return what the pages of a story cost, and how well they fit together; what is missing is decoded first.

        The codes of a story of one's own are those that the encoder reads. `seed` draws the orders of the pages that
        its own is compared with. Raises UserError if the model has no codes.

        >>> scores = pipeline.score(story)
        >>> sorted(scores.totals())
        ['agreement', 'bits', 'bits_per_page', 'num_orders', 'order', 'pages', 'text_nats']
        """
        if isinstance(story, Story):
            story = self.complete(story.prompt, story.steps, seed)
        if not isinstance(story, StoryPipelineOutput):
            raise UserError(f"a story is scored, such as a pipeline returns, not a {type(story).__name__}")
        codes = self.encode(story.steps()) if story.codes is None else story.codes
        return score_story(self, dataclasses.replace(story.converted("pil"), codes=codes.cpu()), seed)

    def illustrate(self, texts: Sequence[str], seed: int | None = None, **options: Any) -> StoryPipelineOutput:
        """Draw an image for each text of a story.

        >>> drawn = pipeline.illustrate(["A fox.", "A fox has a kite."], num_inference_steps=2)
        """
        check_texts(texts)
        steps = [StoryStep(text=text) for text in texts]
        return self.complete(" ".join(texts), steps, seed, **options)

    def complete(
        self, prompt: str, steps: Sequence[StoryStep], seed: int | None = None, **options: Any
    ) -> StoryPipelineOutput:
        """Decode the missing text or image of each given step from its codes.

        >>> whole = pipeline.complete("a fox", [StoryStep("A fox."), StoryStep(None, story.images[0])])
        """
        settings = resolve_settings(self.complete, seed, options)
        codes = self._codes(steps, any(step.text is None or step.image is None for step in steps))
        texts, images = self.fill(steps, codes, settings)
        return StoryPipelineOutput(
            prompt, images, texts, None if codes is None else codes.cpu(), None, self.notes("", steps)
        )

    def _codes(self, steps: Sequence[StoryStep], _needed: bool) -> Tensor | None:
        """Return the codes of given steps (T,S), also if all of them are complete."""
        return self.encode(steps)


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

    def _generate_all(
        self, requests: Sequence[StoryRequest], num_steps: int, steps: Sequence[StoryStep], on_step: OnStep | None
    ) -> list[StoryPipelineOutput]:
        return [self._generate(request.prompt, num_steps, steps, request.settings, on_step) for request in requests]

    def _count_updates(self, num_stories: int, num_steps: int, settings: GenerationSettings) -> int:
        return num_stories * num_steps * settings.num_inference_steps

    def _generate(
        self,
        prompt: str,
        num_steps: int,
        steps: Sequence[StoryStep],
        settings: GenerationSettings,
        on_step: OnStep | None = None,
    ) -> StoryPipelineOutput:
        """Generate page by page: each page is encoded before the next one is predicted."""
        texts: list[str] = []
        images: list[Image.Image] = []
        seeds = random.Random(settings.seed)
        while len(texts) < num_steps:
            before = [*steps, *map(StoryStep, texts, images)]
            vectors = self.predict(prompt, num_steps - len(texts), before)
            previous = before[-1].image if before else None
            own = dataclasses.replace(settings, seed=seeds.getrandbits(62) % 2**32)
            window = self.model.window(vectors, [len(vectors)])
            drawn = render_pages(self.model, self.tokenizer, vectors, window, (), own, previous, on_step)
            texts, images = [*texts, *drawn[0]], [*images, *drawn[1]]
        return StoryPipelineOutput(prompt, images, texts, None, None, self.notes(prompt, steps), settings.seed)
