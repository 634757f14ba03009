"""Scale on paper: the needs of a preset's training on n GPUs, computed from small measurements.

    python benchmarks/loading.py --json results/loading.json
    python benchmarks/scale.py --loading results/loading.json --preset gpt2-sd15 --gpus 64 --pages 1e9

Operations are counted in a pass on fake tensors; bytes and seconds come from loading.py and from a checkpoint written
here. The speed of a GPU (`--tflops`) is an assumption.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from common import Goal, make_parser, print_table, start
from torch.utils.flop_counter import FlopCounterMode

from modules.config import StoryConfig
from modules.presets import PRESETS
from modules.saving.checkpoint import load_checkpoint, save_checkpoint
from modules.training.memory_estimate import build_on_meta, count_parameters, full_batch, pretended

DAY = 86_400


def operations_a_page(config: StoryConfig) -> dict[str, float]:
    """Return the floating-point operations of one page: encoding its picture, and an update forward and backward."""
    model, size = build_on_meta(config), config.autoencoder.image_size
    with pretended(model):
        model.assume_ready()
        with FlopCounterMode(display=False) as encoding, torch.no_grad():
            model.autoencoder.encode(torch.zeros(1, 3, size, size))
        with FlopCounterMode(display=False) as update:
            loss = model(*full_batch(config)).loss
            forward = update.get_total_flops()
            loss.backward()
    pages = config.training.batch_size * config.max_steps
    return {
        "encode": encoding.get_total_flops(),
        "forward": forward / pages,
        "update": update.get_total_flops() / pages,
    }


def cache_bytes_a_page(config: StoryConfig) -> dict[str, int]:
    """Return the bytes that `precompute` stores of a page, in float16."""
    board, shape = config.storyboard, config.autoencoder.latent_shape
    sizes = {"latents": 2 * shape[0] * shape[1] * shape[2]}
    model = build_on_meta(replace(config, max_steps=1, training=replace(config.training, batch_size=1)))
    with pretended(model), torch.no_grad():
        if board.pictures == "pretrained" and not board.image_encoder.trainable_layers:
            size = config.autoencoder.image_size
            sizes["picture's features"] = 2 * model.storyboard.image_encoder(torch.zeros(1, 3, size, size)).numel()
        elif board.pictures != "latents":
            sizes["pixels"] = 3 * config.autoencoder.image_size**2
        if board.text_encoder.source and not board.text_encoder.trainable_layers:
            ids = torch.ones(1, board.text_encoder.max_length, dtype=torch.long)
            sizes["text's features"] = 2 * model.storyboard.text_encoder(ids, ids.bool()).numel()
    return sizes


def checkpoint_rates(megabytes: int = 512) -> dict[str, float]:
    """Return the bytes a second of writing and reading a checkpoint on this disk."""
    tensors = {"model": {str(index): torch.randn(1 << 22) for index in range(megabytes // 16)}}
    size = sum(value.nbytes for value in tensors["model"].values())
    with tempfile.TemporaryDirectory(dir=".") as folder:
        started = time.perf_counter()
        saved = save_checkpoint(Path(folder), 1, tensors, {}, 1, lambda _: None)
        written = time.perf_counter()
        load_checkpoint(saved)
        return {"write": size / (written - started), "read": size / (time.perf_counter() - written)}


def measure(args: argparse.Namespace) -> tuple[dict[str, Any], list[Goal]]:
    config, loading = PRESETS[args.preset], json.loads(args.loading.read_text())
    operations, cached, rates = operations_a_page(config), cache_bytes_a_page(config), checkpoint_rates()
    rows = compute_rows(args, operations) | data_rows(args, loading, operations, cached)
    rows |= restart_rows(args, config, operations, rates)
    print_table((f"{args.preset}, {args.gpus} GPUs", "value"), [list(row) for row in rows.items()])
    return {"rows": rows, "operations": operations, "cache": cached, "rates": rates}, []


def pages_a_second(args: argparse.Namespace, operations: dict[str, float]) -> float:
    """Return the pages that one GPU trains on in a second."""
    return args.tflops * 1e12 / operations["update"]


def compute_rows(args: argparse.Namespace, operations: dict[str, float]) -> dict[str, str]:
    """Return operations, speed and days of the training."""
    rate = pages_a_second(args, operations)
    tera = " / ".join(f"{operations[name] / 1e12:.2f}" for name in ("encode", "forward", "update"))
    hours = args.pages * operations["encode"] / (args.gpus * args.tflops * 1e12) / 3600
    return {
        "TFLOP a page: encoding / forward / update": tera,
        f"pages a second: a GPU at {args.tflops:g} TFLOP/s / {args.gpus}": f"{rate:,.0f} / {args.gpus * rate:,.0f}",
        f"days for {args.pages:.0e} pages on {args.gpus} GPUs": f"{args.pages / (args.gpus * rate) / DAY:,.1f}",
        "hours to encode all pictures on all GPUs, once": f"{hours:,.1f}",
    }


def data_rows(
    args: argparse.Namespace, loading: dict[str, Any], operations: dict[str, float], cached: dict[str, int]
) -> dict[str, str]:
    """Return storage, bandwidth and memory of the data, from the measurements of loading.py."""
    pictures, settings = loading["pictures"], loading["settings"]
    jpeg = loading["bytes"]["shards"] / pictures
    amplification = max(1.0, args.row_group * 2**20 / (jpeg * pictures / settings["num_stories"]))
    rate = pages_a_second(args, operations)
    megabytes = rate * jpeg * amplification / 1e6
    decoded = next(work for name, work in loading["works"].items() if name.startswith("shards,") and "threads" in name)
    cores = rate / decoded["pictures_a_second"] * settings["num_workers"]
    index = sum(loading["a_page"][name] for name in ("index", "texts", "tokens"))
    stored = (f"{args.pages * size / 1e12:,.1f}" for size in (jpeg, cached["latents"], sum(cached.values())))
    return {
        "bytes a page: shards": f"{jpeg:,.0f}",
        **{f"bytes a page, cached: {name}": f"{size:,}" for name, size in cached.items()},
        f"storage of {args.pages:.0e} pages, TB: shards / latents / whole cache": " / ".join(stored),
        "shards of 256 MiB": f"{args.pages * jpeg / 2**28:,.0f}",
        f"bytes read for one used, at row groups of {args.row_group:g} MiB": f"{amplification:.1f}",
        f"MB a second: a GPU / {args.gpus} GPUs": f"{megabytes:,.1f} / {args.gpus * megabytes:,.0f}",
        "cores of this machine that decode for one GPU": f"{cores:.2f}",
        f"memory of the index, GB a process, at {args.pages:.0e} pages": f"{args.pages * index / 1e9:,.0f}",
        "pages whose index takes 32 GB": f"{32e9 / index:,.0f}",
        "seconds to open these": f"{32e9 / index * loading['a_page']['seconds_to_open']:,.0f}",
    }


def restart_rows(
    args: argparse.Namespace, config: StoryConfig, operations: dict[str, float], rates: dict[str, float]
) -> dict[str, str]:
    """Return the size and time of a checkpoint, and the work lost by a kill."""
    trainable, _ = count_parameters(build_on_meta(config))
    size = 16 * trainable  # Weights, two moments and averages in float32, of the trained parameters alone.
    lost = 100 * config.training.batch_size * config.max_steps / pages_a_second(args, operations)
    return {
        "checkpoint, GB; seconds to write / to read here": (
            f"{size / 1e9:.2f}; {size / rates['write']:.1f} / {size / rates['read']:.1f}"
        ),
        "seconds of work lost by a kill, at a checkpoint every 200 updates, on average": f"{lost:,.0f}",
    }


def make_flags() -> argparse.ArgumentParser:
    parser = make_parser(__doc__, repeats=1)
    parser.add_argument("--preset", choices=sorted(PRESETS), default="gpt2-sd15")
    parser.add_argument("--loading", type=Path, required=True, help="the JSON of loading.py")
    parser.add_argument("--gpus", type=int, default=64)
    parser.add_argument("--pages", type=float, default=1e9, help="pages to train on, each once (default 1e9)")
    parser.add_argument("--tflops", type=float, default=200.0, help="assumed speed of one GPU (default 200)")
    parser.add_argument("--row_group", type=float, default=1.0, help="MiB of a row group (default 1, as pack writes)")
    return parser


if __name__ == "__main__":
    start(measure, make_flags())
