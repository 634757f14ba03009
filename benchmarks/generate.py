"""Time per story, loading time and memory, and the speed relative to the plain libraries used page by page."""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import count
from pathlib import Path
from typing import Any

import numpy as np
import torch
from common import (
    MIB,
    TIMING_HEADER,
    Goal,
    make_parser,
    print_table,
    ratios,
    start,
    summary,
    time_in_turns,
    timing_rows,
)
from PIL import Image
from torch import Tensor

from modules.common.arguments import positive_int
from modules.common.errors import UserError
from modules.data.pixels import to_pictures
from modules.generation.pipeline import StoryPipeline
from modules.generation.settings import GenerationSettings
from modules.layers.plan_window import PlanWindow

PROMPT = "Rusty the fox wants a kite"
PICTURE_TOLERANCE = 8  # Of 255 levels: another batch size rounds differently; guidance and large steps amplify it.
FRESH_PROCESSES = 3
SETTINGS = GenerationSettings()


class PageByPage:
    """The plain libraries: `GPT2LMHeadModel.generate` and the diffusers loop for one page, then for the next.

    Where guidance applies, it is one UNet call on a batch of two; the context is projected once per page, as in
    diffusers' pipelines.
    """

    def __init__(self, pipeline: StoryPipeline) -> None:
        self.model, self.tokenizer = pipeline.model, pipeline.tokenizer

    @torch.no_grad()
    def render(self, codes: Tensor, noise: Tensor) -> tuple[list[str], list[Image.Image]]:
        """Decode codes (T,S) from noise (T,c,h,w) to T texts and T images."""
        code_embeds = self.model.storyboard.embed(codes).code_embeds
        window = self.model.window(code_embeds, [len(codes)])
        texts, images = [], []
        for page in range(len(codes)):
            rows = slice(page, page + 1)
            own, around = code_embeds[rows], None if window is None else window[rows]
            texts.append(self.text(own, around))
            images.append(self.picture(own, around, noise[rows]))
        return texts, images

    def text(self, code_embeds: Tensor, window: PlanWindow | None) -> str:
        """Decode one page's text greedily from code_embeds (1,S,d) and the plan around it."""
        decoder = self.model.text_decoder
        bos = torch.full((1, 1), decoder.bos_id)
        prefix = decoder.prefix(code_embeds, None, window)
        ids = decoder.language_model.generate(
            **decoder.inputs(prefix, bos, torch.ones_like(bos, dtype=torch.bool)),
            do_sample=False,
            max_new_tokens=decoder.config.max_length - 1,
            pad_token_id=decoder.pad_id,
            eos_token_id=decoder.eos_id,
        )
        return self.tokenizer.decode(ids[0])

    def picture(self, code_embeds: Tensor, window: PlanWindow | None, noise: Tensor) -> Image.Image:
        """Draw one page's image from code_embeds (1,S,d), the plan around it, and noise (1,c,h,w)."""
        decoder, (low, high) = self.model.image_decoder, SETTINGS.guidance_interval
        scheduler = decoder.make_scheduler(SETTINGS.scheduler)
        scheduler.set_timesteps(SETTINGS.num_inference_steps)
        context = decoder.context(code_embeds, None, None, window)
        both = context.with_null(decoder.context(code_embeds, torch.ones(1, dtype=torch.bool), None, window))
        latents = noise * scheduler.init_noise_sigma
        for timestep in scheduler.timesteps:
            noisy = scheduler.scale_model_input(latents, timestep)
            if low <= timestep.item() / decoder.config.num_train_timesteps <= high:
                with_codes, without = decoder.predict(torch.cat([noisy, noisy]), timestep, both).chunk(2)
                predicted = without + SETTINGS.guidance_scale * (with_codes - without)
            else:
                predicted = decoder.predict(noisy, timestep, context)
            latents = scheduler.step(predicted, timestep, latents).prev_sample
        return to_pictures(self.model.autoencoder.decode(latents))[0]


class Comparison:
    """A story with default settings, and the same work in one batch and page by page, with equal numbers of tokens."""

    def __init__(self, pipeline: StoryPipeline, num_pages: int) -> None:
        self.pipeline, self.num_pages, self.plain = pipeline, num_pages, PageByPage(pipeline)
        self.codes = pipeline.plan(PROMPT, num_pages).codes[0]
        shape = num_pages, *pipeline.model.image_decoder.latent_shape
        self.noise = torch.randn(
            *shape, generator=torch.Generator().manual_seed(0)
        )  # As `render` draws it from seed 0.
        self._seeds = count()

    @contextmanager
    def all_tokens(self) -> Iterator[None]:
        """Make every text as long as allowed: `min_new_tokens` = `max_new_tokens`."""
        decoder = self.pipeline.model.text_decoder
        settings = decoder.language_model.generation_config
        settings.min_new_tokens = decoder.config.max_length - 1
        try:
            yield
        finally:
            settings.min_new_tokens = None

    def story(self) -> None:
        """Generate another story each time, with the default settings."""
        self.pipeline(PROMPT, num_steps=self.num_pages, seed=next(self._seeds))

    def plan(self) -> None:
        self.pipeline.plan(PROMPT, self.num_pages)

    def batched(self) -> tuple[list[str], list[Image.Image]]:
        with self.all_tokens():
            return self.pipeline.render(self.codes, settings=SETTINGS)

    def page_by_page(self) -> tuple[list[str], list[Image.Image]]:
        with self.all_tokens():
            return self.plain.render(self.codes, self.noise)

    def check(self) -> dict[str, Any]:
        """Raise UserError unless both ways give the same texts, of full length, and the same images up to rounding."""
        (texts, images), (their_texts, their_images) = self.batched(), self.page_by_page()
        if texts != their_texts:
            raise UserError(f"the texts differ: {texts} in one batch, {their_texts} page by page")
        levels = max(
            int(np.abs(np.asarray(image, np.int16) - np.asarray(theirs, np.int16)).max())
            for image, theirs in zip(images, their_images, strict=True)
        )
        if levels > PICTURE_TOLERANCE:
            raise UserError(f"the pictures differ by {levels} of 255 levels, more than {PICTURE_TOLERANCE}")
        model, decoder = self.pipeline.model, self.pipeline.model.text_decoder
        code_embeds = model.storyboard.embed(self.codes).code_embeds
        with self.all_tokens():
            ids = decoder.generate(code_embeds, window=model.window(code_embeds, [len(self.codes)]))
        if ids.shape[1] != decoder.config.max_length - 1 or (ids == decoder.eos_id).any():
            raise UserError("a text ended early: the work is not the same")
        return {"texts": "equal", "largest_picture_difference_of_255": levels, "tokens_a_page": ids.shape[1]}


def fresh_process(ckpt: Path, num_pages: int) -> tuple[float, float, float]:
    """Return the seconds from interpreter start to a loaded pipeline, those of its first story, and peak MiB."""
    command = [sys.executable, str(Path(__file__).with_name("fresh_process.py")), str(ckpt), PROMPT, str(num_pages)]
    threads = {"OMP_NUM_THREADS": str(torch.get_num_threads())}
    started = time.perf_counter()
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=os.environ | threads) as process:
        ready = process.stdout.readline()
        loaded = time.perf_counter()
        rest = process.stdout.read().split()
        finished = time.perf_counter()
    if ready.strip() != "ready" or process.returncode != 0:
        raise UserError(f"a fresh process could not generate a story with {ckpt}")
    return loaded - started, finished - loaded, float(rest[-1])


def measure(args: argparse.Namespace) -> tuple[dict[str, Any], list[Goal]]:
    """Return all measurements and goals."""
    fresh = [fresh_process(args.ckpt, args.num_pages) for _ in range(FRESH_PROCESSES)]
    loading, first_story, peak = (list(column) for column in zip(*fresh, strict=True))
    comparison = Comparison(StoryPipeline.from_pretrained(args.ckpt), args.num_pages)
    same = comparison.check()
    works = {name: getattr(comparison, name) for name in ("story", "plan", "batched", "page_by_page")}
    timings = time_in_turns(works, args.repeats, args.warmups)
    with_plan = [plan + batched for plan, batched in zip(timings["plan"], timings["batched"], strict=True)]
    speed = {
        "same_codes": ratios(timings["page_by_page"], timings["batched"]),
        "with_planning": ratios(timings["page_by_page"], with_plan),
    }
    shown = {"loading, fresh process": loading, "first story, fresh process": first_story, **timings}
    print_table(TIMING_HEADER, timing_rows(shown))
    same_codes, with_planning = (figures["median"] for figures in speed.values())
    print(f"{args.num_pages} pages: {same_codes:.2f}x the plain libraries page by page (guidance as a batch of 2),")
    print(f"{with_planning:.2f}x with our planning counted in; peak memory {max(peak):,.0f} MiB")
    results = {
        "seconds": {name: summary(seconds) for name, seconds in shown.items()},
        "peak_rss_mib": summary(peak),
        "ratio_to_page_by_page": speed,
        "same_work": same,
        "baseline_guidance": "one UNet call on a batch of 2, within the guidance interval",
    }
    return results, [
        Goal(f"ratio to the plain libraries, {args.num_pages} pages", same_codes, 2.0, at_least=True),
        Goal("seconds per story", summary(timings["story"])["median"], 4.0),
        Goal("seconds to load", summary(loading)["median"], 8.0),
        Goal("peak memory, MiB", max(peak), 2e9 / MIB),
    ]


def make_flags() -> argparse.ArgumentParser:
    parser = make_parser(__doc__, repeats=9)
    parser.add_argument("--ckpt", type=Path, default=Path("checkpoints/storyworld"))
    parser.add_argument("--num_pages", type=positive_int, default=5, help="pages of a story (default 5)")
    return parser


if __name__ == "__main__":
    start(measure, make_flags())
