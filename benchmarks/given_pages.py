"""What a prior gains from pages that are given to it: bits of pages between others, and of an ending it writes towards.

    python benchmarks/given_pages.py --json results/given_pages.json

Held-out stories of the split "tune", codes of text and picture; 95 % intervals over stories; one minute on one core.
"Past alone" is p(z_t | earlier pages, prompt); "all other pages" is the same page when the later ones are given from
the start. For the ending the earlier pages are drawn, with and without the true last page given, and what counts is its
cost after them from left to right: whether the story leads there.
"""

from __future__ import annotations

import argparse
import math
import sys

import numpy as np
import torch
from common import environment, settings
from torch import Tensor

from modules.batch import PlanBatch
from modules.commands.cli import execute
from modules.commands.shared import checkpoint_flag, num_stories_flag, seed_flag, write_json
from modules.common.arguments import Parser, a_path, normalise_flag
from modules.common.errors import UserError
from modules.common.files import check_writable
from modules.encoded.codes import cache_codes
from modules.encoded.stories import EncodedStories
from modules.evaluation.metrics.statistics import Estimate, bootstrap_mean, to_dicts
from modules.evaluation.tables import markdown_table
from modules.generation.pipeline import StoryPipeline
from modules.generation.settings import GenerationSettings
from modules.layers.seeding import derive_seed, make_generator
from modules.prior.prior import Prior
from modules.storyworld import StoryWorld

MIN_PAGES = 3


def page_bits(prior: Prior, plan: PlanBatch, codes: Tensor, given: Tensor | None = None) -> Tensor:
    """Return the bits (T,) of every page of one story's codes (T,S); `given` (G,) are pages known from the start."""
    given = None if given is None else given[None]
    nll = prior(codes[None], plan.prompt_ids, plan.prompt_mask, plan.step_mask, given=given).nll
    return nll[0].sum(-1) / math.log(2)


def between(prior: Prior, plan: PlanBatch) -> tuple[list[float], list[float]]:
    """Return the bits of every page but the last, from the past alone and with all other pages given."""
    codes, count = plan.codes[0], plan.codes.shape[1]
    alone = page_bits(prior, plan, codes)[:-1].tolist()
    pages = torch.arange(count)
    informed = [page_bits(prior, plan, codes, pages[pages != page])[page].item() for page in range(count - 1)]
    return alone, informed


def ending(prior: Prior, plan: PlanBatch, seed: int, is_given: bool, temperature: float) -> float:
    """Return the bits of the true last page after pages that were drawn, towards it or not."""
    codes = plan.codes[0]
    fixed = torch.full_like(codes, -1)
    if is_given:
        fixed[-1] = codes[-1]
    generator = make_generator(seed)
    drawn = prior.sample(
        plan.prompt_ids, plan.prompt_mask, len(codes), temperature=temperature, generator=generator, fixed=fixed
    ).codes[0]
    return page_bits(prior, plan, torch.cat([drawn[:-1], codes[-1:]]))[-1].item()


@torch.no_grad()
def measure(pipeline: StoryPipeline, num_stories: int, seed: int) -> dict[str, Estimate]:
    """Return the figures of a model. Raises UserError where its prior is given no pages."""
    model, temperature = pipeline.model, GenerationSettings().temperature
    if not model.has_codes or not model.config.prior.given_share:
        raise UserError("the prior of this model was trained without given pages: its prior.given_share is 0")
    world = StoryWorld(num_stories, seed=seed, split="tune", image_size=model.config.autoencoder.image_size)
    stories = EncodedStories(world, model, pipeline.tokenizer)
    stories.codes = cache_codes(model, stories, visible=True, num_variants=1)
    rows: dict[str, list[list[float]]] = {}

    def add(name: str, values: list[float]) -> None:
        rows.setdefault(name, []).append(values)

    for index in (i for i in range(len(stories)) if stories.lengths[i] >= MIN_PAGES):
        plan, own = stories.plans([index]), derive_seed(seed, "ending", index)
        alone, informed = between(model.prior, plan)
        add("a page before the last, past alone", alone)
        add("the same, all other pages given", informed)
        add("true last page after the true ones", page_bits(model.prior, plan, plan.codes[0])[-1:].tolist())
        for is_given, name in ((False, "not given"), (True, "given")):
            add(f"true last page after drawn ones, {name}", [ending(model.prior, plan, own, is_given, temperature)])
    return {name: mean_of(values) for name, values in rows.items()}


def mean_of(values: list[list[float]]) -> Estimate:
    """Return the mean over all pages with its interval over stories."""
    return bootstrap_mean([float(np.sum(each)) for each in values], [len(each) for each in values])


def run(args: argparse.Namespace) -> int:
    if args.json:
        check_writable(args.json)
    found = measure(StoryPipeline.from_pretrained(args.ckpt), args.num_stories, args.seed)
    print(markdown_table("page", {name: {"bits": value} for name, value in to_dicts(found).items()}, {"bits": "bits"}))
    if args.json:
        write_json(args.json, {"settings": settings(args), "environment": environment(), "bits": to_dicts(found)})
    return 0


def make_flags() -> argparse.ArgumentParser:
    parser = Parser(description=__doc__.splitlines()[0])
    checkpoint_flag(parser)
    num_stories_flag(parser, 100, "number of stories")
    seed_flag(parser, "of the stories, of the drawn pages and of the intervals")
    parser.add_argument("--json", type=a_path, metavar="FILE", help="write all figures to this file")
    return parser


if __name__ == "__main__":
    sys.exit(execute(run, make_flags().parse_args([normalise_flag(word) for word in sys.argv[1:]])))
