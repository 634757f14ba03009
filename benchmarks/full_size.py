"""Training updates of a preset at its full size, with random weights and a random batch: seconds, pages, memory.

    python benchmarks/full_size.py --preset gpt2-sd15 --batch_size 1 --num_steps 2

No weights are needed: the architectures are in assets/. On a GPU, the share of its rate of matrix products is reported
too. The memory that `train --dry_run` estimates is shown beside the memory used.
"""

from __future__ import annotations

import argparse
import dataclasses
import time
from typing import Any

import torch
from common import MIB, Goal, make_parser, peak_rss_mib, print_table, start, summary
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from modules.common.arguments import positive_int
from modules.common.precision import resolve_precision
from modules.config import StoryConfig
from modules.presets import PRESETS
from modules.story_model.story_model import StoryModel, build_model
from modules.training.memory_estimate import count_parameters, full_batch, story_activations, training_bytes
from modules.training.phases import JointPhase

MATMUL_SIZE = 8192


def make_model(config: StoryConfig, device: torch.device) -> StoryModel:
    """Return the model with random weights and an initialised codebook, as the joint phase trains it."""
    torch.manual_seed(0)
    with device:  # Random weights of a billion parameters take a GPU's host a minute.
        model = build_model(config, "this preset", random=True)
    if model.has_codes:
        vectors = torch.randn(2 * config.storyboard.codebook_size, config.storyboard.codebook_dim, device=device)
        model.storyboard.quantizer.fit(vectors, seed=0)
    JointPhase(model, None, num_steps=1, learning_rate=0.0, global_batch=1, seed=0).set_modes()
    return model


def matmul_rate(device: torch.device) -> float:
    """Return the floating-point operations a second of a large bf16 matrix product."""
    a = torch.randn(MATMUL_SIZE, MATMUL_SIZE, device=device, dtype=torch.bfloat16)
    for _ in range(3):
        a @ a
    torch.cuda.synchronize()
    started = time.perf_counter()
    for _ in range(10):
        a @ a
    torch.cuda.synchronize()
    return 20 * MATMUL_SIZE**3 / (time.perf_counter() - started)


def train_steps(model: StoryModel, args: argparse.Namespace, device: torch.device) -> tuple[list[float], int]:
    """Return the seconds of every update, and the floating-point operations of one forward pass."""
    parameters = [parameter for parameter in model.parameters() if parameter.requires_grad]
    average = [parameter.detach().clone() for parameter in parameters]
    optimizer = torch.optim.AdamW(parameters, lr=1e-4, fused=True)
    batch, noise = full_batch(model.config)
    batch, noise = batch.to(device), noise.to(device)
    seconds, operations = [], 0
    for step in range(args.num_steps + 1):
        counter = FlopCounterMode(display=False)
        started = time.perf_counter()
        with torch.autocast(device.type, torch.bfloat16, enabled=args.mixed_precision == "bf16"):
            if step == 0:
                with counter:
                    loss = model(batch, noise).loss
            else:
                loss = model(batch, noise).loss
        loss.backward()
        nn.utils.clip_grad_norm_(parameters, 1.0)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        torch._foreach_lerp_(average, [parameter.detach() for parameter in parameters], 0.01)
        print(f"update {step}: loss {loss.item():.4f}", flush=True)
        if step:
            seconds.append(time.perf_counter() - started)
        operations = operations or counter.get_total_flops()
    return seconds, operations


def resolve_config(args: argparse.Namespace) -> StoryConfig:
    """Return the preset's config with the flags' batch size and story length."""
    config = PRESETS[args.preset]
    training = dataclasses.replace(config.training, batch_size=args.batch_size or config.training.batch_size)
    return dataclasses.replace(config, training=training, max_steps=args.max_steps or config.max_steps)


def measure(args: argparse.Namespace) -> tuple[dict[str, Any], list[Goal]]:
    """Train, and return the measurements and the goals."""
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    config, mixed = resolve_config(args), args.mixed_precision == "bf16"
    model = make_model(config, device)
    trainable, frozen = count_parameters(model)
    estimate = training_bytes(trainable, frozen, story_activations(config, mixed), mixed=mixed)["total"] / MIB
    seconds, operations = train_steps(model, args, device)
    used = torch.cuda.max_memory_allocated() / MIB if device.type == "cuda" else peak_rss_mib()
    update = summary(seconds)
    results = {
        "seconds_an_update": update,
        "pages_a_second": config.training.batch_size * config.max_steps / update["median"],
        "memory_mib": used,
        "memory_mib_counted": estimate,
        "trainable": trainable,
        "frozen": frozen,
        "forward_flops": operations,
    }
    if device.type == "cuda":
        results["share_of_matmul_rate"] = 3 * operations / update["median"] / matmul_rate(device)
    print_table((args.preset, "value"), table_rows(results))
    has_goal = args.preset == "gpt2-sd15" and device.type == "cpu"
    return results, [Goal("memory of gpt2-sd15 on a CPU, GiB", used / 1024, 20.0)] if has_goal else []


def table_rows(results: dict[str, Any]) -> list[list[str]]:
    """Return the rows of the printed table."""
    rows = [
        ["parameters, trainable / frozen, M", f"{results['trainable'] / 1e6:,.1f} / {results['frozen'] / 1e6:,.1f}"],
        ["seconds an update", f"{results['seconds_an_update']['median']:,.2f}"],
        ["pages a second", f"{results['pages_a_second']:,.2f}"],
        ["memory used, MiB", f"{results['memory_mib']:,.0f}"],
        ["memory estimated by --dry_run, MiB", f"{results['memory_mib_counted']:,.0f}"],
    ]
    if "share_of_matmul_rate" in results:
        rows.append(["share of the rate of matrix products", f"{results['share_of_matmul_rate']:.1%}"])
    return rows


def make_flags() -> argparse.ArgumentParser:
    parser = make_parser(__doc__, repeats=1)
    parser.add_argument("--preset", choices=sorted(PRESETS), default="gpt2-sd15")
    parser.add_argument(
        "--mixed_precision", type=resolve_precision, choices=("no", "bf16"), default="auto", help="default auto"
    )
    parser.add_argument("--batch_size", type=positive_int, help="stories (default: the preset's)")
    parser.add_argument("--max_steps", type=positive_int, help="pages a story (default: the preset's)")
    parser.add_argument("--num_steps", type=positive_int, default=3, help="timed updates after the first (default 3)")
    return parser


if __name__ == "__main__":
    start(measure, make_flags())
