"""What search is worth: whole stories of the best of N plans, for several N, read by the judge.

    python benchmarks/search_curve.py --json results/search_curve.json

Prints a Markdown table; intervals are 95 %, over stories. The stories are of the split "tune", all rows have the same
prompts and the same noise. Every story is written to FILE.stories.jsonl as soon as it is drawn: the same command goes
on where it stopped.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
from common import environment, settings

from modules.commands.cli import execute
from modules.commands.shared import judge_flag, load_judge, num_stories_flag, seed_flag, shipped_path, write_json
from modules.common.arguments import Parser, a_path, normalise_flag, positive_int
from modules.common.errors import UserError
from modules.common.files import check_writable
from modules.common.progress import track
from modules.common.shipped import WEIGHTS
from modules.evaluation.judge.attributes import score_agreement, score_obedience, score_pictures
from modules.evaluation.metrics.statistics import Estimate, mean_over_rows, to_dicts
from modules.evaluation.tables import markdown_table
from modules.generation.pipeline import StoryPipeline
from modules.generation.settings import GenerationSettings
from modules.steering.planned_story import replay, tell
from modules.steering.search import search
from modules.storyworld import StoryWorld

COLUMNS = {
    "text_and_picture_agree": "agree",
    "hero_colour_persistence": "colour kept",
    "character_in_pictures": "characters asked for, in pictures",
    "object_in_pictures": "object asked for, in pictures",
    "character_in_texts": "characters asked for, in texts",
    "seconds": "seconds of search a story",
}
Drawn = dict[tuple[int, int], dict[str, Any]]  # Stories by N and by their number.


def run_curve(args: argparse.Namespace) -> int:
    """Draw what is not drawn yet, and print and write the table."""
    check_writable(args.json)
    judge, pipeline = load_judge(args), StoryPipeline.from_pretrained(args.ckpt)
    world = StoryWorld(
        args.num_stories, seed=args.seed, split="tune", image_size=pipeline.config.autoencoder.image_size
    )
    record, wanted = args.json.with_suffix(".stories.jsonl"), {"weights": pipeline.fingerprint(), "seed": args.seed}
    drawn = read_drawn(record, wanted)
    places = [(count, index) for index in range(len(world)) for count in args.num_plans if (count, index) not in drawn]
    with record.open("a", encoding="utf-8") as file:
        file.write("\n" if drawn else "")  # A kill may have cut the last line short.
        for count, index in track("stories drawn", places):
            story = world[index]
            chosen = GenerationSettings(seed=args.seed + index)
            started = time.perf_counter()
            if count == 1:
                seconds, told = 0.0, tell(pipeline, story.prompt, len(story.steps), chosen)
            else:
                best = search(pipeline, story.prompt, len(story.steps), count, keep=1, settings=chosen)[0]
                seconds, told = time.perf_counter() - started, replay(pipeline, best.plan)
            predictions = judge.read(told.images)
            row = {"texts": told.texts, "seconds": seconds, "shown": predictions}
            drawn[count, index] = row
            file.write(json.dumps({**wanted, "num_plans": count, "story": index, **row}, default=sorted) + "\n")
            file.flush()
    real = [judge.read([step.image for step in world[index].steps if step.image]) for index in range(len(world))]
    rows = {str(count): grade(world, drawn, real, count, args.seed) for count in args.num_plans}
    tables = {name: to_dicts(metrics) for name, metrics in rows.items()}
    write_json(args.json, {"environment": environment(), "settings": settings(args), "rows": tables})
    print(markdown_table("best of", tables, COLUMNS))
    return 0


def read_drawn(record: Path, wanted: dict[str, Any]) -> Drawn:
    """Return the stories drawn before. Raises UserError if they were drawn otherwise."""
    drawn: Drawn = {}
    lines = record.read_text(encoding="utf-8").splitlines() if record.exists() else []
    for line in lines:
        try:
            row = json.loads(line)
        except ValueError:
            continue  # Cut short by a kill: it is drawn again.
        if any(row[name] != value for name, value in wanted.items()):
            raise UserError(f"{record} contains stories of other weights or another seed: give another --json")
        for shown in row["shown"]:
            shown["characters"] = set(shown["characters"])
        drawn[row["num_plans"], row["story"]] = row
    return drawn


def grade(world: StoryWorld, drawn: Drawn, real: list[list[Any]], count: int, seed: int) -> dict[str, Estimate]:
    """Return the metrics of the stories of the best of `count` plans."""
    stories = [world[index] for index in range(len(world))]
    told = [drawn[count, index] for index in range(len(world))]
    steps = [step for story in stories for step in story.steps]
    texts, shown = ([item for row in told for item in row[name]] for name in ("texts", "shown"))
    pages, lengths = [item for story in real for item in story], [len(story.steps) for story in stories]
    truths = [step.attributes or {} for step in steps]
    metrics = score_pictures(truths, shown, pages, lengths, seed, hero_only=True)
    metrics |= score_agreement(texts, shown, [step.text or "" for step in steps], pages, lengths, seed)
    metrics |= score_obedience([story.prompt for story in stories], texts, shown, lengths, seed)
    seconds = [row["seconds"] for row in told]
    return metrics | {"seconds": mean_over_rows(seconds, np.arange(len(stories)), seed)}


def make_flags() -> argparse.ArgumentParser:
    parser = Parser(description=__doc__.splitlines()[0])
    parser.add_argument("--ckpt", type=shipped_path, default=shipped_path(WEIGHTS), metavar="PATH", help="the model")
    parser.add_argument(
        "--num_plans", type=positive_int, nargs="+", default=[1, 4, 16, 64], metavar="N", help="plans drawn for a story"
    )
    num_stories_flag(parser, 40, "number of stories")
    judge_flag(parser)
    parser.add_argument("--json", type=a_path, required=True, metavar="FILE", help="write all metrics to this file")
    seed_flag(parser, "of the stories, of all sampling and of the intervals")
    return parser


def main(words: list[str] | None = None) -> int:
    args = make_flags().parse_args([normalise_flag(word) for word in (sys.argv[1:] if words is None else words)])
    return execute(run_curve, args)


if __name__ == "__main__":
    sys.exit(main())
