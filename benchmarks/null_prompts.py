"""Teach a trained prior stories without a prompt, so that plans can be guided (arXiv 2207.12598), from its own draws.

    python benchmarks/null_prompts.py --ckpt checkpoints/storyworld --output checkpoints/guided

No story is drawn or encoded. The prior draws plans for prompts of the story world, and a copy of it learns the
distributions that it had there: where the prompt is hidden, their mean over prompts is that of a story without one;
where it is not, and where pages are given, nothing is to change. Twenty minutes on one core.
"""

from __future__ import annotations

import argparse
import copy
import math
import sys
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import torch
import torch.nn.functional as F
from common import environment, settings
from gpu_fit import Fit, Length, say
from torch import Tensor

from modules.commands.cli import execute
from modules.commands.shared import checkpoint_flag, seed_flag, write_json
from modules.common.arguments import Parser, a_path, normalise_flag, positive_float, positive_int
from modules.common.errors import UserError
from modules.common.files import check_writable
from modules.layers.seeding import derive_seed, make_generator
from modules.prior.given import draw_given
from modules.prior.prior import Prior
from modules.saving.model_folder import load_model, save_model
from modules.storyworld import StoryWorld
from modules.text_decoder.tokenizers import Vocabulary

HIDDEN = 0.5  # The share of the prompts that are hidden in training.
PEAK, BETAS = 2e-4, (0.9, 0.98)
HELD_OUT = 256  # Stories of the split "tune".
NATS_TO_BITS = 1 / math.log(2)


class Draws:
    """Batches of prompts, and of plans (B,T,S) that a prior draws for them, all of one length."""

    def __init__(self, prior: Prior, vocabulary: Vocabulary, split: str, seed: int, args: argparse.Namespace) -> None:
        self.prior, self.vocabulary, self.split, self.seed, self.args = prior, vocabulary, split, seed, args

    def batches(self, count: int) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
        """Yield prompts and masks (B,Lp) and codes (B,T,S) of `count` stories, less what fills no batch."""
        world = StoryWorld(count, seed=self.seed, split=self.split)
        waiting: dict[int, list[str]] = defaultdict(list)
        for index in range(count):
            story = world.outline(index)
            prompts = waiting[len(story.steps)]
            prompts.append(self.vocabulary.read(story.prompt).text)
            if len(prompts) == self.args.batch_size:
                yield self._draw(prompts, len(story.steps), index)
                prompts.clear()

    def _draw(self, prompts: list[str], num_steps: int, index: int) -> tuple[Tensor, Tensor, Tensor]:
        ids, mask = self.vocabulary.encode_batch(prompts, self.args.max_prompt_length)
        longest = int(mask.sum(1).max())
        ids, mask = ids[:, :longest], mask[:, :longest]
        generator = make_generator(derive_seed(self.seed, self.split, index))
        return ids, mask, self.prior.sample(ids, mask, num_steps, generator=generator).codes


def divergence(teacher: Prior, prior: Prior, batch: tuple[Tensor, ...], hidden: Tensor, given: Tensor) -> Tensor:
    """Return the nats (B,T) that a page of the teacher's costs more in the prior, which sees no prompt where `hidden`
    (B,); 0 for the pages that are `given` (B,G), -1 for none.
    """
    ids, mask, codes = batch
    is_step = torch.ones(codes.shape[:2], dtype=torch.bool)
    with torch.no_grad():
        wanted = teacher(codes, ids, mask, is_step, given=given).logits.log_softmax(-1)
    found = prior(codes, ids, mask & ~hidden[:, None], is_step, given=given).logits.log_softmax(-1)
    nats = F.kl_div(found, wanted, reduction="none", log_target=True).sum((-1, -2))
    pages = torch.arange(codes.shape[1])
    return nats.masked_fill((given[:, None] == pages[:, None]).any(-1), 0)


@torch.no_grad()
def measure(teacher: Prior, prior: Prior, held_out: list[tuple[Tensor, Tensor, Tensor]]) -> dict[str, float]:
    """Return the bits a page by which the prior departs from its teacher with a prompt, and without one. What a prompt
    tells is among the latter: it cannot become 0.
    """
    found = {}
    for name, is_hidden in (("with the prompt", False), ("without it", True)):
        rows = []
        for batch in held_out:
            count = len(batch[0])
            none = torch.full((count, 1), -1)
            rows.append(divergence(teacher, prior, batch, torch.full((count,), is_hidden), none).flatten())
        found[name] = torch.cat(rows).mean().item() * NATS_TO_BITS
    return found


def train(teacher: Prior, vocabulary: Vocabulary, args: argparse.Namespace) -> tuple[Prior, dict[str, Any]]:
    """Return a copy of the teacher that knows stories without a prompt, and figures before and after."""
    prior = copy.deepcopy(teacher).requires_grad_(True).eval()  # No dropout: the teacher's distributions are the truth.
    draws = Draws(teacher, vocabulary, "train", args.seed, args)
    held_out = list(Draws(teacher, vocabulary, "tune", args.seed, args).batches(HELD_OUT))
    before = measure(teacher, prior, held_out)
    say(f"before: {before}")
    # A few more than are trained on: some fill no batch.
    batches = draws.batches(args.num_updates * args.batch_size + 64 * args.batch_size)
    generator = make_generator(derive_seed(args.seed, "hidden"))

    def loss() -> Tensor:
        batch = next(batches)
        count, num_steps = batch[2].shape[:2]
        given = draw_given([num_steps] * count, teacher.config.given_share, generator)
        given = F.pad(given, (0, int(given.shape[1] == 0)), value=-1)
        hidden = torch.rand(count, generator=generator) < HIDDEN
        nats = divergence(teacher, prior, batch, hidden, given)
        return nats.sum() / (count * num_steps - (given >= 0).sum())

    groups = [{"params": list(prior.parameters()), "weight_decay": 0.0, "share": 1.0}]
    found = Fit(groups, PEAK, BETAS, Length(args.num_updates)).run(loss)
    after = measure(teacher, prior, held_out)
    say(f"after: {after}")
    return prior, {"before": before, "after": after, **found}


def run(args: argparse.Namespace) -> int:
    if args.json:
        check_writable(args.json)
    model, vocabulary = load_model(args.ckpt, offline=True)
    if not model.has_codes:
        raise UserError(f"the model in {args.ckpt} has no prior of codes")
    args.max_prompt_length = model.config.max_prompt_length
    teacher = model.prior.eval().requires_grad_(False)
    prior, found = train(teacher, vocabulary, args)
    config = replace(
        model.config, prior=replace(model.config.prior, null_prompt=HIDDEN, guidance_scale=args.guidance_scale)
    )
    model.prior.load_state_dict(prior.state_dict())
    save_model(args.output, config, model.own_state(), vocabulary)
    if args.json:
        write_json(args.json, {"settings": settings(args), "environment": environment(), **found})
    return 0


def make_flags() -> argparse.ArgumentParser:
    parser = Parser(description=__doc__.splitlines()[0])
    checkpoint_flag(parser)
    parser.add_argument("--output", type=a_path, required=True, metavar="FOLDER", help="where the model is written")
    parser.add_argument("--num_updates", type=positive_int, default=600)
    parser.add_argument("--batch_size", type=positive_int, default=48, help="stories an update (default 48)")
    seed_flag(parser, "of the prompts and of the plans")
    parser.add_argument(
        "--guidance_scale", type=positive_float, default=1.0, help="that the model's plans are guided by"
    )
    parser.add_argument("--json", type=a_path, metavar="FILE", help="write all figures to this file")
    return parser


def main(words: list[str]) -> int:
    return execute(run, make_flags().parse_args([normalise_flag(word) for word in words]))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
