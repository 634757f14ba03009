"""Plans per second, many of one prompt at once, in float32 and under bf16 autocast; latency of one plan; a profile."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from contextlib import nullcontext
from functools import partial
from pathlib import Path
from typing import Any

import torch
from common import TIMING_HEADER, Goal, make_parser, print_table, start, summary, time_in_turns, timing_rows
from torch import Tensor
from torch.profiler import profile

from modules.common.arguments import positive_int
from modules.generation.pipeline import StoryPipeline

PROMPT = "Rusty the fox wants a kite"
PRECISIONS = ("fp32", "bf16")


def precision_context(precision: str):
    return torch.autocast("cpu", dtype=torch.bfloat16) if precision == "bf16" else nullcontext()


def draw(pipeline: StoryPipeline, num_steps: int, num_plans: int, precision: str) -> Tensor:
    """Sample plans: codes (num_plans, num_steps, S)."""
    with precision_context(precision):
        return pipeline.plan(PROMPT, num_steps, num_plans=num_plans).codes


@torch.no_grad()
def bits_a_plan(pipeline: StoryPipeline, codes: Tensor) -> float:
    """Return the mean bits of plans under the float32 prior; plans that rounding has spoilt would need more."""
    ids, mask = pipeline.tokenizer.encode_batch([PROMPT], pipeline.config.max_prompt_length)
    prompt = ids.expand(len(codes), -1), mask.expand(len(codes), -1)
    nll = pipeline.model.prior(codes, *prompt, torch.ones(codes.shape[:2], dtype=torch.bool)).nll
    return nll.sum((1, 2)).mean().item() / torch.log(torch.tensor(2.0)).item()


def print_profile(work: Callable[[], object]) -> None:
    """Print the time of one call by operator."""
    with profile() as profiler:
        work()
    print(profiler.key_averages().table(sort_by="self_cpu_time_total", row_limit=20, max_name_column_width=40))


def measure(args: argparse.Namespace) -> tuple[dict[str, Any], list[Goal]]:
    """Return the plans per second of every batch size and precision, and the latency of one plan."""
    pipeline = StoryPipeline.from_pretrained(args.ckpt)
    works = {
        f"{num_plans} plan{'s' if num_plans > 1 else ''}, {precision}": partial(
            draw, pipeline, args.num_steps, num_plans, precision
        )
        for num_plans in (*args.num_plans, 1)
        for precision in PRECISIONS
    }
    if args.profile:
        for name in list(works)[: len(PRECISIONS)]:
            works[name]()
            print(name)
            print_profile(works[name])
    timings = time_in_turns(works, args.repeats, args.warmups)
    rates = {name: int(name.split()[0]) / summary(seconds)["median"] for name, seconds in timings.items()}
    bits = {
        precision: bits_a_plan(pipeline, draw(pipeline, args.num_steps, 256, precision)) for precision in PRECISIONS
    }
    print_table((*TIMING_HEADER, "plans per second"), [[*row, f"{rates[row[0]]:,.0f}"] for row in timing_rows(timings)])
    best = max(rates, key=rates.get)
    print(
        f"best: {best}; a plan costs",
        ", ".join(f"{value:.1f} bits drawn in {precision}" for precision, value in bits.items()),
    )
    results = {
        "seconds": {name: summary(seconds) for name, seconds in timings.items()},
        "plans_a_second": rates,
        "best": best,
        "bits_a_plan": bits,
    }
    return results, [Goal(f"{args.num_steps}-step plans per second ({best})", rates[best], 1000.0, at_least=True)]


def make_flags() -> argparse.ArgumentParser:
    parser = make_parser(__doc__, repeats=7, warmups=2)
    parser.add_argument("--ckpt", type=Path, default=Path("checkpoints/storyworld"))
    parser.add_argument("--num_steps", type=positive_int, default=5, help="steps of a plan (default 5)")
    parser.add_argument(
        "--num_plans", type=positive_int, nargs="+", default=[256, 512, 1024], help="plans drawn at once"
    )
    parser.add_argument("--profile", action="store_true", help="print where the time goes, by operator")
    return parser


if __name__ == "__main__":
    start(measure, make_flags())
