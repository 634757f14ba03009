"""StoryRenderer: plans drawn from the prior, and the pages of a plan."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any, cast, get_args

import torch
from PIL import Image
from torch import Tensor

from modules.common.errors import UserError
from modules.common.threads import one_at_a_time
from modules.generation.arguments import check_names, resolve_settings
from modules.generation.output import StoryPipelineOutput
from modules.generation.reading import StoryReader
from modules.generation.rendering import render_pages, render_texts
from modules.generation.requests import check_codes, check_pages
from modules.generation.settings import GenerationSettings, check_story
from modules.generation.watching import ProgressBar, StepCallback, watch
from modules.layers.plan_window import PlanWindow
from modules.layers.seeding import make_generator
from modules.prior.prior import PriorSample
from modules.story import StoryStep
from modules.text_decoder.config import Decoding


class StoryRenderer(StoryReader):
    """A trained model that plans stories and renders plans."""

    progress_bar = ProgressBar()

    def set_progress_bar_config(self, **options: Any) -> None:
        """Choose how drawing is shown on stderr: `disable` True, False, or None for terminals only, and a name `desc`.

        >>> pipeline.set_progress_bar_config(disable=True)
        """
        check_names(self.set_progress_bar_config, options, {field.name for field in dataclasses.fields(ProgressBar)})
        self.progress_bar = ProgressBar(**options)

    @one_at_a_time
    def plan(
        self,
        prompt: str,
        num_steps: int,
        seed: int | None = None,
        *,
        codes: Tensor | None = None,
        num_plans: int = 1,
        fixed: Tensor | None = None,
        num_drawn: int | None = None,
        **options: Any,
    ) -> PriorSample:
        """Sample plans from the prior: codes (num_plans, num_steps, S) and log-probabilities of the same shape; of the
        first `num_drawn` steps alone, if it is given.

        `codes` (T0,S) are those of given steps; of W such beginnings, (W,T0,S), each goes on num_plans // W times. In
        `fixed` (num_steps,S) are codes that are not to be drawn, negative numbers elsewhere. Raises UserError on an
        empty prompt or a number out of range.

        >>> pipeline.plan("a fox wants a kite", 3, seed=1, num_plans=4).codes.shape
        torch.Size([4, 3, 8])
        """
        settings = resolve_settings(self.plan, seed, options)
        check_story(prompt, num_steps, self.longest_story)
        self.check_codebook()
        prior, guidance = self.model.prior, settings.plan_guidance_scale
        if guidance != 1 and not prior.config.null_prompt:
            raise UserError(
                f"plan_guidance_scale must be 1 with this model, got {guidance}: its prior was not trained without"
                " prompts (prior.null_prompt is 0)"
            )
        generator = make_generator(settings.seed, self.device)
        history = codes[None] if codes is not None and codes.ndim == 2 else codes
        fixed, num_rows = None if fixed is None else fixed.to(self.device), 1 if history is None else len(history)
        ids, mask = self.prompt_tokens(prompt)
        return prior.sample(
            ids.expand(num_rows, -1),
            mask.expand(num_rows, -1),
            num_steps,
            settings.temperature,
            settings.top_p,
            generator,
            history,
            num_plans // num_rows,
            fixed,
            guidance,
            num_drawn,
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
        callback_on_step_end: StepCallback | None = None,
        **options: Any,
    ) -> tuple[list[str], list[Image.Image]]:
        """Decode codes (T,S), or vectors (T,S,d) in their place, to texts and images of the T pages of a story.

        With `lengths` they are several stories, of so many pages one after the other. Only `pages` are decoded, by
        default all; the others are read as the plan around them. Given `texts` of these pages are kept, and images
        drawn to them; None asks for one. With a `strength` below 1 each image is drawn over the one before, the first
        over `previous` if given.

        >>> texts, images = pipeline.render(story.codes, pages=[1], num_inference_steps=2)
        >>> len(texts), len(images)
        (1, 1)
        """
        settings = resolve_settings(self.render, seed, options)
        check_pages(range(len(codes)) if pages is None else pages, len(codes), texts)
        code_embeds, window = self.page_inputs(codes, lengths, pages)
        with watch(self, callback_on_step_end, ProgressBar(disable=True), 0) as on_step:
            return render_pages(self.model, self.tokenizer, code_embeds, window, texts, settings, previous, on_step)

    @torch.no_grad()
    def write(self, codes: Tensor, pages: Sequence[int], settings: GenerationSettings) -> list[str]:
        """Decode the texts alone of some pages of a story with the codes (T,S)."""
        code_embeds, window = self.page_inputs(codes, None, pages)
        return render_texts(self.model, self.tokenizer, code_embeds, settings, window)

    def fill(
        self, steps: Sequence[StoryStep], codes: Tensor | None, settings: GenerationSettings
    ) -> tuple[list[str], list[Image.Image]]:
        """Return the texts and images of T pages; those that are missing are decoded from the codes (T,S)."""
        texts, images = [step.text for step in steps], [step.image for step in steps]
        undrawn = [row for row, image in enumerate(images) if image is None]
        untold = [row for row, text in enumerate(texts) if text is None and row not in undrawn]
        if codes is not None and undrawn:
            given, previous = [texts[row] for row in undrawn], images[undrawn[0] - 1] if undrawn[0] else None
            drawn = self.render(codes, pages=undrawn, texts=given, previous=previous, settings=settings)
            for row, text, image in zip(undrawn, *drawn, strict=True):
                texts[row], images[row] = text, image
        if codes is not None and untold:
            for row, text in zip(untold, self.write(codes, untold, settings), strict=True):
                texts[row] = text
        return cast("list[str]", texts), cast("list[Image.Image]", images)

    def page_inputs(
        self, codes: Tensor, lengths: Sequence[int] | None, pages: Sequence[int] | None
    ) -> tuple[Tensor, PlanWindow | None]:
        """Return what `pages`, by default all, of stories with codes (T,S) are decoded from."""
        code_embeds = self.embed(codes)
        window = self.model.window(code_embeds, list(lengths or [len(codes)]))
        if pages is None:
            return code_embeds, window
        rows = torch.tensor(list(pages), device=code_embeds.device)
        return code_embeds[rows], None if window is None else window[rows]

    def decode(self, codes: Tensor, seed: int | None = None, **options: Any) -> StoryPipelineOutput:
        """Decode codes (T,S) to a story, as `render` does: the way back from `encode`.

        >>> story = pipeline.decode(pipeline.encode(story.steps()), num_inference_steps=2)
        >>> len(story.texts), len(story.images)
        (2, 2)
        """
        check_codes(codes, self.config.storyboard.num_slots, self.config.storyboard.codebook_size)
        texts, images = self.render(codes, seed, **options)
        return StoryPipelineOutput("", images, texts, codes.cpu(), None)

    @one_at_a_time
    def caption(self, image: Image.Image, decoding: Decoding = "greedy") -> tuple[str, Tensor]:
        """Return the text of an image, and its codes (S,). Raises UserError unless it is a picture of Pillow.

        >>> text, codes = pipeline.caption(story.images[0])
        """
        if not isinstance(image, Image.Image):
            raise UserError(
                f"an image must be a picture of Pillow, such as Image.open gives, got {type(image).__name__}"
            )
        if decoding not in get_args(Decoding):
            raise UserError(f"decoding must be one of {', '.join(get_args(Decoding))}, got {decoding!r:.80}")
        codes = self.encode([StoryStep(text=None, image=image)])
        ids = self.model.text_decoder.generate(self.embed(codes), decoding)
        return self.tokenizer.decode(ids[0]), codes[0].cpu()
