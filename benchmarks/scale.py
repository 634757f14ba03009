"""Scale on paper: what a training of a preset needs on n GPUs, by arithmetic from what was measured small.

    python benchmarks/loading.py --json results/loading.json
    python benchmarks/scale.py --loading results/loading.json --preset gpt2-sd15 --gpus 64 --pages 1e9

Operations are counted by a pass on nothing; bytes and seconds are those of loading.py, and of a checkpoint written
here. What a GPU achieves (`--tflops`) and what a store delivers are assumed, and printed.
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
    """Floating-point operations of one page: the encoding of its picture, and an update forward and backward."""
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
    """What `precompute` keeps of a page, in float16."""
    board, shape = config.storyboard, config.autoencoder.latent_shape
    found = {"latents": 2 * shape[0] * shape[1] * shape[2]}
    model = build_on_meta(replace(config, max_steps=1, training=replace(config.training, batch_size=1)))
    with pretended(model), torch.no_grad():
        if board.pictures == "pretrained" and not board.image_encoder.trainable_layers:
            size = config.autoencoder.image_size
            found["picture's features"] = 2 * model.storyboard.image_encoder(torch.zeros(1, 3, size, size)).numel()
        elif board.pictures != "latents":
            found["pixels"] = 3 * config.autoencoder.image_size**2
        if board.text_encoder.source and not board.text_encoder.trainable_layers:
            ids = torch.ones(1, board.text_encoder.max_length, dtype=torch.long)
            found["text's features"] = 2 * model.storyboard.text_encoder(ids, ids.bool()).numel()
    return found


def checkpoint_rates(megabytes: int = 512) -> dict[str, float]:
    """Bytes a second of writing a checkpoint whole and of reading it again, on this disk."""
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
    pictures, works = loading["pictures"], loading["works"]
    stories = loading["settings"]["num_stories"]
    pages_a_story, jpeg = pictures / stories, loading["bytes"]["shards"] / pictures
    operations, cached, rates = operations_a_page(config), cache_bytes_a_page(config), checkpoint_rates()
    trainable, _ = count_parameters(build_on_meta(config))
    achieved = args.tflops * 1e12
    rate = achieved / operations["update"]  # Pages a second of one GPU.
    amplification = max(1.0, args.row_group * 2**20 / (jpeg * pages_a_story))
    index = sum(loading["a_page"][name] for name in ("index", "texts", "tokens"))
    open_a_page = loading["a_page"]["seconds_to_open"]
    decode = works[next(name for name in works if name.startswith("shards,") and "threads" in name)][
        "pictures_a_second"
    ]
    checkpoint = 16 * trainable  # Weights, two moments and averages in float32; what is frozen is not in it.
    rows = [
        [
            "TFLOP a page: encoding / forward / update",
            f"{operations['encode'] / 1e12:.2f} / {operations['forward'] / 1e12:.2f} / "
            f"{operations['update'] / 1e12:.2f}",
        ],
        [f"pages a second: a GPU at {args.tflops:g} TFLOP/s / {args.gpus}", f"{rate:,.0f} / {args.gpus * rate:,.0f}"],
        [f"days for {args.pages:.0e} pages on {args.gpus} GPUs", f"{args.pages / (args.gpus * rate) / DAY:,.1f}"],
        ["bytes a page: shards", f"{jpeg:,.0f}"],
        *([f"bytes a page, cached: {name}", f"{size:,}"] for name, size in cached.items()),
        [
            f"storage of {args.pages:.0e} pages, TB: shards / latents / whole cache",
            f"{args.pages * jpeg / 1e12:,.1f} / "
            f"{args.pages * cached['latents'] / 1e12:,.1f} / {args.pages * sum(cached.values()) / 1e12:,.1f}",
        ],
        ["shards of 256 MiB", f"{args.pages * jpeg / 2**28:,.0f}"],
        [f"bytes read for one used, at row groups of {args.row_group:g} MiB", f"{amplification:.1f}"],
        [
            f"MB a second: a GPU / {args.gpus} GPUs",
            f"{rate * jpeg * amplification / 1e6:,.1f} / {args.gpus * rate * jpeg * amplification / 1e6:,.0f}",
        ],
        ["cores of this machine that decode for one GPU", f"{rate / decode * loading['settings']['num_workers']:.2f}"],
        [f"memory of the index, GB a process, at {args.pages:.0e} pages", f"{args.pages * index / 1e9:,.0f}"],
        ["pages whose index takes 32 GB", f"{32e9 / index:,.0f}"],
        ["seconds to open these", f"{32e9 / index * open_a_page:,.0f}"],
        [
            "checkpoint, GB; seconds to write / to read here",
            f"{checkpoint / 1e9:.2f}; {checkpoint / rates['write']:.1f} / {checkpoint / rates['read']:.1f}",
        ],
        [
            "seconds of work lost by a kill, at a checkpoint every 200 updates, on average",
            f"{100 * config.training.batch_size * config.max_steps / rate:,.0f}",
        ],
        [
            "hours to encode all pictures on all GPUs, once",
            f"{args.pages * operations['encode'] / (args.gpus * achieved) / 3600:,.1f}",
        ],
    ]
    print_table((f"{args.preset}, {args.gpus} GPUs", "value"), rows)
    return {"rows": dict(rows), "operations": operations, "cache": cached, "rates": rates}, []


def make_flags() -> argparse.ArgumentParser:
    parser = make_parser(__doc__, repeats=1)
    parser.add_argument("--preset", choices=sorted(PRESETS), default="gpt2-sd15")
    parser.add_argument("--loading", type=Path, required=True, help="the JSON of loading.py")
    parser.add_argument("--gpus", type=int, default=64)
    parser.add_argument("--pages", type=float, default=1e9, help="pages to train on, once each (default 1e9)")
    parser.add_argument("--tflops", type=float, default=200.0, help="what one GPU achieves, assumed (default 200)")
    parser.add_argument("--row_group", type=float, default=1.0, help="MiB of a row group (default 1, as pack writes)")
    return parser


if __name__ == "__main__":
    start(measure, make_flags())
