"""From disk to batch: stories a second from JPEGs, shards and a cache; the share of an update that waits for data."""

from __future__ import annotations

import argparse
import json
import tempfile
import time
import tracemalloc
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import torch
from common import TIMING_HEADER, Goal, make_parser, print_table, start, summary, time_in_turns, timing_rows
from PIL import Image

from modules.batch import StoryBatch
from modules.common.arguments import positive_int, whole_number
from modules.common.precision import resolve_precision
from modules.config import StoryConfig
from modules.data.folder import StoryFolder
from modules.data.pack import pack
from modules.data.read_ahead import ReadAhead
from modules.data.shards import StoryShards
from modules.encoded.cache import EncodedCache, write_cache
from modules.encoded.stories import EncodedStories
from modules.presets import PRESETS
from modules.story import Story
from modules.story_model.story_model import StoryModel
from modules.storyworld import StoryWorld
from modules.text_decoder.tokenizers import StoryTokenizer
from modules.training.phase import Phase
from modules.training.phases import JointPhase
from modules.training.processes import make_accelerator
from modules.training.settings import PHASE_NAMES, TrainSettings
from modules.training.trainer import Trainer

WAITING_GOAL = 0.02
MANY = 3000  # Stories.


def write_jpegs(folder: Path, num_stories: int, size: int) -> None:
    """Write story-world stories with JPEGs of `size` pixels and enough noise for the file size of a photograph."""
    grain = np.random.default_rng(0).normal(0, 6, (size, size, 3)).astype(np.float32)
    (folder / "images").mkdir(parents=True)
    with open(folder / "stories.jsonl", "w", encoding="utf-8") as lines:
        for story in StoryWorld(num_stories, image_size=size):
            steps = [
                {"text": step.text, "image_path": f"images/{story.id}-{page}.jpg"}
                for page, step in enumerate(story.steps)
            ]
            for record, step in zip(steps, story.steps, strict=True):
                picture = Image.fromarray(np.clip(np.asarray(step.image) + grain, 0, 255).astype(np.uint8))
                picture.save(folder / record["image_path"], quality=90)
            lines.write(json.dumps({"id": story.id, "prompt": story.prompt, "steps": steps}) + "\n")


def read_all(stories: ReadAhead, order: Sequence[int]) -> list[Story]:
    """Read stories at the model's image size, expecting 8 stories ahead."""
    read = []
    for position, index in enumerate(order):
        stories.expect(order[position : position + 8])
        read.append(stories[index])
    return read


def make_works(
    args: argparse.Namespace, config: StoryConfig, folder: Path
) -> tuple[dict[str, Callable[[], object]], EncodedStories]:
    """Return each way to read all stories in a random order, and the stories encoded from a cache."""
    size, workers = config.autoencoder.image_size, args.num_workers
    write_jpegs(folder / "data" / "train", args.num_stories, args.jpeg_size)
    pack(folder / "data", folder / "shards", 256 << 20)
    from_folder, shards = StoryFolder(folder / "data" / "train"), StoryShards(folder / "shards", "train")
    torch.manual_seed(0)
    model, tokenizer = StoryModel(config).eval(), StoryTokenizer.train(from_folder.texts(), config.vocab_size)
    write_cache(folder / "cache", model, shards, workers)
    cached = EncodedCache(folder / "cache", model, shards).rows
    encoded = EncodedStories(shards, model, tokenizer, cached=cached)
    order = np.random.default_rng(0).permutation(args.num_stories).tolist()
    batches = [
        order[start : start + config.training.batch_size] for start in range(0, len(order), config.training.batch_size)
    ]
    return {
        "JPEG folder, no thread": lambda: read_all(ReadAhead(from_folder, size), order),
        f"JPEG folder, {workers} threads": lambda: read_all(ReadAhead(from_folder, size, workers), order),
        "shards, no thread": lambda: read_all(ReadAhead(shards, size), order),
        f"shards, {workers} threads": lambda: read_all(ReadAhead(shards, size, workers), order),
        "cache: batches": lambda: [encoded.batch(batch) for batch in batches],
        "open folder and check": lambda: StoryFolder(folder / "data" / "train"),
        "open shards": lambda: StoryShards(folder / "shards", "train"),
        "start: encode": lambda: EncodedStories(shards, model, tokenizer, workers=workers),
        "start: from the cache": lambda: EncodedStories(
            shards, model, tokenizer, cached=EncodedCache(folder / "cache", model, shards).rows
        ),
    }, encoded


class WaitingTrainer(Trainer):
    """The real loop, with the share of each joint update that waits for its batch in `shares`.

    With `cache` the stories are read from a cache in this folder, made once the autoencoder is trained.
    """

    shares: list[float]
    cache: Path | None = None

    def _make_phase(self, name: str, encoded: Callable[[], EncodedStories] | None = None) -> Phase:
        return super()._make_phase(name, self._read_cache if self.cache and name != "autoencoder" else encoded)

    def _read_cache(self) -> EncodedStories:
        assert self.cache is not None
        write_cache(self.cache, self.model, self.dataset)
        rows = EncodedCache(self.cache, self.model, self.dataset).rows
        return EncodedStories(self.dataset, self.model, self.tokenizer, cached=rows)

    def _update(self, phase: Phase, *rest: Any) -> None:
        if not isinstance(phase, JointPhase):
            return super()._update(phase, *rest)
        waited, batch = 0.0, phase.stories.batch

        def timed(*args: Any, **options: Any) -> StoryBatch:
            nonlocal waited
            before = time.perf_counter()
            result = batch(*args, **options)
            waited += time.perf_counter() - before
            return result

        phase.stories.batch, started = timed, time.perf_counter()
        super()._update(phase, *rest)
        self.shares.append(waited / (time.perf_counter() - started))
        phase.stories.batch = batch


def waiting_shares(args: argparse.Namespace, config: StoryConfig, folder: Path) -> dict[str, dict[str, float]]:
    """Return the share of an update that waits for data, with and without a cache, for latents and for pixels."""
    # Few codes, because placing them is not measured.
    latents = replace(config, storyboard=replace(config.storyboard, codebook_size=64))
    pixels = replace(latents, storyboard=replace(latents.storyboard, pictures="pixels"))
    workers, dataset = args.num_workers, StoryShards(folder / "shards", "train")
    cases = {
        "reads latents": (latents, workers, False),
        "reads latents, cache": (latents, workers, True),
        "reads pixels, no thread": (pixels, 0, False),
        f"reads pixels, {workers} threads": (pixels, workers, False),
        "reads pixels, cache": (pixels, workers, True),
    }
    updates = args.warmups + args.updates
    return {name: summary(wait_for_data(*case, dataset, updates)[args.warmups :]) for name, case in cases.items()}


def wait_for_data(
    config: StoryConfig, workers: int, has_cache: bool, dataset: StoryShards, updates: int
) -> list[float]:
    """Train for a number of joint updates and return the share of each one that waits for data."""
    schedule = {"max_steps": updates, "autoencoder_ratio": 1 / updates, "opening_ratio": 1 / updates}
    config = replace(config, training=replace(config.training, quantize_at=0.99, **schedule))
    with tempfile.TemporaryDirectory() as output:
        settings = TrainSettings(
            Path(output),
            resolve_precision("auto"),
            save_every=10**9,
            sample_every=10**9,
            phases=PHASE_NAMES[:3],
            num_workers=workers,
            keep_last=1,
        )
        trainer = WaitingTrainer(config, settings, dataset, dataset, make_accelerator(settings), [])
        trainer.shares = []
        trainer.cache = Path(output) / "cache" if has_cache else None
        trainer.run()
    return trainer.shares


def index_of_many(folder: Path) -> dict[str, float]:
    """Return bytes of memory per page in every process, and seconds per page to open shards, of many small stories."""
    write_jpegs(folder / "many" / "train", MANY, 32)
    pack(folder / "many", folder / "many_shards", 256 << 20)
    before = pa.total_allocated_bytes()
    opened = StoryShards(folder / "many_shards", "train")
    pages, index = sum(opened.lengths), pa.total_allocated_bytes() - before
    seconds = time_in_turns({"open": lambda: StoryShards(folder / "many_shards", "train")}, 5, 1)["open"]
    tracemalloc.start()
    texts = [(story.prompt, [step.text for step in story.steps]) for story in map(opened.outline, range(MANY))]
    size, _ = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    del texts  # Kept until here, to be measured.
    return {"index": index / pages, "texts": size / pages, "seconds_to_open": summary(seconds)["median"] / pages}


def sizes(folder: Path) -> dict[str, int]:
    """Return the bytes of each form on disk."""
    return {
        name: sum(path.stat().st_size for path in (folder / name).rglob("*") if path.is_file())
        for name in ("data", "shards", "cache")
    }


def measure(args: argparse.Namespace) -> tuple[dict[str, Any], list[Goal]]:
    config = PRESETS[args.preset]
    with tempfile.TemporaryDirectory() as name:
        works, encoded = make_works(args, config, Path(name))
        pictures, index = sum(encoded.lengths), index_of_many(Path(name))
        index["tokens"] = sum(value.nbytes for value in encoded.tokens.values()) / pictures
        timings = time_in_turns(works, args.repeats, args.warmups)
        on_disk, shares = sizes(Path(name)), waiting_shares(args, config, Path(name)) if args.updates else {}
    results, rows = {}, []
    for row, (work, seconds) in zip(timing_rows(timings), timings.items(), strict=True):
        rate = args.num_stories / summary(seconds)["median"]
        results[work] = {
            "seconds": summary(seconds),
            "stories_a_second": rate,
            "pictures_a_second": rate * pictures / args.num_stories,
        }
        rows.append([*row, f"{rate:,.0f} stories, {rate * pictures / args.num_stories:,.0f} pictures"])
    print_table((*TIMING_HEADER, "a second"), rows)
    print(
        f"{pictures:,} pictures; bytes a picture: "
        + ", ".join(f"{name} {size / pictures:,.0f}" for name, size in on_disk.items())
    )
    memory = ", ".join(f"{name} {index[name]:,.0f}" for name in ("index", "texts", "tokens"))
    print(f"bytes of memory a page: {memory}; microseconds a page to open shards: {1e6 * index['seconds_to_open']:.1f}")
    for name, share in shares.items():
        print(f"waits for data, {name}: {share['median']:.2%} of an update")
    goals = [
        Goal(f"share that waits for data, {name}", share["median"], WAITING_GOAL)
        for name, share in shares.items()
        if "cache" in name
    ]
    return {"works": results, "bytes": on_disk, "pictures": pictures, "waiting": shares, "a_page": index}, goals


def make_flags() -> argparse.ArgumentParser:
    parser = make_parser(__doc__, repeats=5, warmups=1)
    parser.add_argument(
        "--preset",
        choices=sorted(PRESETS),
        default="storyworld",
        help="preset whose sizes are used; no weights are needed",
    )
    parser.add_argument("--num_stories", type=positive_int, default=60, help="stories to read (default 60)")
    parser.add_argument(
        "--jpeg_size", type=positive_int, default=512, help="side of the pictures on disk (default 512)"
    )
    parser.add_argument("--num_workers", type=positive_int, default=2, help="threads that read ahead (default 2)")
    parser.add_argument(
        "--updates", type=whole_number, default=12, help="updates whose waiting time is measured; 0: none (default 12)"
    )
    return parser


if __name__ == "__main__":
    start(measure, make_flags())
