"""Whether a few story-level codes, a cast, can contain what is the same on all pages of a story.

    python benchmarks/cast_probe.py --json results/cast_probe.json

The encoder is frozen. A small transformer pools the slots of all pages of a story to a few vectors, which a codebook of
their own quantises. They are trained to predict who is in the story, in which colour, and its object; then linear
probes are fitted to them on the training stories, and scored on held-out ones. As the labels train the vectors, this is
the most that a cast can contain: if it misses the goal here, training it by texts and pictures will not reach it.

The codes of all pages, pooled alike and not quantised again, are what decoders that read the whole plan have without a
cast. It takes nine minutes on one core.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator
from dataclasses import asdict, dataclass

import numpy as np
import torch
import torch.nn.functional as F
from cast_pooler import train_pooler
from cast_slots import ABSENT, ATTRIBUTES, StorySlots, read_slots
from common import Goal, environment, settings
from torch import Tensor, nn

from modules.commands.cli import execute
from modules.commands.shared import checkpoint_flag, num_stories_flag, seed_flag, write_json
from modules.common.arguments import Parser, a_path, normalise_flag, positive_int
from modules.common.errors import UserError
from modules.common.files import check_writable
from modules.evaluation.codebook.information import perplexity
from modules.evaluation.metrics.statistics import Estimate, mean_over_rows, to_dicts
from modules.evaluation.tables import markdown_table
from modules.generation.pipeline import StoryPipeline
from modules.storyworld import StoryWorld

GOAL = 0.7  # The hero's colour, from quantised codes.
PENALTY = 1.0  # Of the probes: the inverse of the prior variance of a weight.
COLUMNS = {
    "hero": "hero",
    "hero_colour": "hero's colour",
    "friend": "friend",
    "friend_colour": "friend's colour",
    "object": "object",
    "perplexity": "perplexity of its codes",
}


def fit_probe(features: Tensor, labels: Tensor, num_labels: int) -> nn.Linear:
    """Fit a ridge-penalised logistic regression from features (B,F) to labels (B,), by L-BFGS from zero."""
    present = labels != ABSENT
    features, labels = features[present], labels[present]
    probe = nn.Linear(features.shape[1], num_labels)
    nn.init.zeros_(probe.weight)
    nn.init.zeros_(probe.bias)
    optimizer = torch.optim.LBFGS(probe.parameters(), max_iter=200, line_search_fn="strong_wolfe")

    def closure() -> Tensor:
        optimizer.zero_grad()
        loss = F.cross_entropy(probe(features), labels, reduction="sum") + PENALTY * probe.weight.square().sum() / 2
        loss = loss / len(labels)
        loss.backward()
        return loss

    optimizer.step(closure)
    return probe.requires_grad_(False)


@dataclass(frozen=True)
class CastBench:
    """Training stories, held-out stories and the flags: everything that the rows of the table share."""

    stories: StorySlots
    held_out: StorySlots
    args: argparse.Namespace

    def rows(self) -> Iterator[tuple[str, dict[str, Estimate]]]:
        """Yield the pages' codes and slots, averaged and pooled by attention, then casts of quantised vectors."""
        for quantised, title in ((True, "codes of all pages"), (False, "slots of all pages, before quantising")):
            means = (mean_of_pages(part.slots(quantised), part.page_mask) for part in (self.stories, self.held_out))
            yield f"{title}: mean", self.probe(*means)
            yield f"{title}: attention", self.pooled(quantised, self.args.num_cast[0], codebook_size=0)
        for num_cast in self.args.num_cast:
            yield cast_row(num_cast, self.args.codebook_size), self.pooled(False, num_cast, self.args.codebook_size)

    def pooled(self, quantised: bool, num_cast: int, codebook_size: int) -> dict[str, Estimate]:
        """Train a pooler of the pages' slots and probe its vectors; with 0 codes these are not quantised."""
        slots, held_slots = (part.slots(quantised) for part in (self.stories, self.held_out))
        title = f"{num_cast} vectors, {codebook_size or 'no'} codes"
        pooler = train_pooler(slots, self.stories, num_cast, codebook_size, self.args.updates, self.args.seed, title)
        vectors, codes = pooler.read(slots, self.stories.page_mask)
        held_vectors, _ = pooler.read(held_slots, self.held_out.page_mask)
        metrics = self.probe(vectors.flatten(1), held_vectors.flatten(1))
        if codes is not None:
            counts = np.bincount(codes.flatten().numpy(), minlength=codebook_size)
            metrics["perplexity"] = Estimate(float(perplexity(counts)), np.nan, np.nan)
        return metrics

    def probe(self, features: Tensor, held_features: Tensor) -> dict[str, Estimate]:
        """Return the accuracy on held-out stories of a probe of each attribute, fitted to features (B,F).

        The floor is the accuracy of the most frequent training label.
        """
        estimates = {}
        for name, words in ATTRIBUTES.items():
            labels, truth = self.stories.labels[name], self.held_out.labels[name]
            right = (fit_probe(features, labels, len(words))(held_features).argmax(1) == truth).double()
            by_chance = (truth == labels[labels != ABSENT].mode().values).double()
            right[truth == ABSENT] = by_chance[truth == ABSENT] = torch.nan
            floor = by_chance.nanmean().item()
            estimates[name] = mean_over_rows(right.numpy(), np.arange(len(right)), floor=floor, ceiling=1.0)
        return estimates


def mean_of_pages(slots: Tensor, page_mask: Tensor) -> Tensor:
    """Return the mean over pages (B,S*d) of slots (B,T,S,d)."""
    weights = page_mask[:, :, None, None] / page_mask.sum(1)[:, None, None, None]
    return (slots * weights).sum(1).flatten(1)


def cast_row(num_cast: int, codebook_size: int) -> str:
    """Return the name of a cast's row."""
    return f"cast: {num_cast} of {codebook_size:,} codes"


def run(args: argparse.Namespace) -> int:
    """Measure all rows, print the table and whether the goal is met, and write the JSON file."""
    if args.json:
        check_writable(args.json)
    needed = -(-args.codebook_size // min(args.num_cast))  # The codebook is placed on as many vectors as it has codes.
    if args.num_stories < needed:
        raise UserError(f"{args.codebook_size} codes need {needed} stories or more: raise --num_stories")
    pipeline = StoryPipeline.from_pretrained(args.ckpt, offline=args.offline)
    pipeline.check_codebook()
    size = pipeline.config.autoencoder.image_size
    stories, held_out = (
        read_slots(pipeline, StoryWorld(count, seed=args.seed, split=split, image_size=size), title)
        for split, count, title in (
            ("train", args.num_stories, "training stories"),
            ("tune", args.num_held_out, "held-out stories"),
        )
    )
    rows = {name: to_dicts(metrics) for name, metrics in CastBench(stories, held_out, args).rows()}
    print(markdown_table(f"linear probe of {args.num_held_out} held-out stories", rows, COLUMNS))
    names = [cast_row(num_cast, args.codebook_size) for num_cast in args.num_cast]
    goals = [Goal(f"hero's colour, {name}", rows[name]["hero_colour"]["value"], GOAL, at_least=True) for name in names]
    for goal in goals:
        print(goal)
    reached = [asdict(goal) | {"met": goal.met} for goal in goals]
    write_json(args.json, {"environment": environment(), "settings": settings(args), "rows": rows, "goals": reached})
    return 0


def make_flags() -> argparse.ArgumentParser:
    parser = Parser(description=__doc__.splitlines()[0])
    checkpoint_flag(parser)
    num_stories_flag(parser, 2000, "number of training stories")
    for name, default, meaning in (
        ("num_held_out", 200, "number of held-out stories, of the split tune"),
        ("codebook_size", 1024, "codes of the cast's codebook"),
        ("updates", 600, "updates of each training"),
    ):
        help_text = f"{meaning} (default {default})"
        parser.add_argument(f"--{name}", type=positive_int, default=default, metavar="N", help=help_text)
    parser.add_argument(
        "--num_cast", type=positive_int, nargs="+", default=[2, 4], metavar="N", help="codes of a cast (default 2 4)"
    )
    seed_flag(parser, "of the stories and of the trainings")
    parser.add_argument("--json", type=a_path, metavar="FILE", help="write all measurements to this file")
    return parser


def main(words: list[str] | None = None) -> int:
    args = make_flags().parse_args([normalise_flag(word) for word in (sys.argv[1:] if words is None else words)])
    return execute(run, args)


if __name__ == "__main__":
    sys.exit(main())
