"""Odd values of flags: paths of no plain file, and texts that no one types."""

from __future__ import annotations

import os
import random
from collections.abc import Iterator
from pathlib import Path

from tests.damaged.harness import Case
from tests.damaged.model_inputs import FEW, PROGRAM, Base
from tests.damaged.mutations import OTHER_KINDS, VALUES

# Flags that name something to read, each with its command.
READERS = (
    ("generate", "--prompt", "A fox", "--ckpt"),
    ("generate", "--from"),
    ("continue", "--story"),
    ("caption", "--image"),
    ("edit", "--page", "1", "--text", "A fox."),
    ("edit", "--page", "1", "--redraw", "--ckpt", "absent"),
    ("score",),
    ("export_book",),
    ("evaluate", "--judge"),
    ("evaluate", "--data"),
    ("evaluate", "--generated", ".", "--reference"),
    ("evaluate", "--baselines"),
    ("evaluate", "--inception"),
    ("visualize", "--run"),
    ("analyze", "--ckpt"),
    ("train", "--config"),
    ("train", "--data"),
    ("train", "--init_from"),
    ("train", "--cache"),
    ("train", "--autoencoder"),
    ("precompute", "--data"),
    ("export", "--ckpt"),
    ("studio", "--no_browser", "--ckpt"),
)


def odd_paths(root: Path, count: int, rng: random.Random, _base: Base) -> Iterator[Case]:
    """Paths of no plain file, and no paths at all, in the place of everything that is read."""
    folder = root / "folder"
    folder.mkdir()
    os.mkfifo(root / "fifo")
    (root / "loop").symlink_to("loop")
    (root / "below").symlink_to(root)
    (root / "plain").write_text("x")
    for name, content in OTHER_KINDS.items():
        (root / f"{name.replace(' ', '-')}.png").write_bytes(content)
    odd = [str(root / name) for name in ("fifo", "loop", "below", "folder", "plain", "absent", "plain/inside")]
    odd += ["/dev/zero", "/dev/full", "/dev/stdin", "/proc/self/mem", "~nouser/x", "~", "", " ", "a\x1b[31mb"]
    odd += ["n" * 300, "n/" * 3000, "\udcff\udcfe", "http://127.0.0.1:9/x", "hf://datasets/a/b", "s3://a", "a/b", "."]
    odd += [str(path) for path in root.glob("*.png")]
    for words, path in ((words, path) for words in READERS for path in rng.sample(odd, count // len(READERS))):
        output = ("--output_dir", str(root / "out")) if words[0] == "train" else ()
        yield Case(f"{words} {path[:60]!r}", (PROGRAM, *words, path, *output))


def broken_words(root: Path, count: int, rng: random.Random, base: Base) -> Iterator[Case]:
    """Odd values as the texts of flags."""
    values = [*map(str, VALUES), "\udcff", "🦊" * 500, "a\nb", "=,;|&$(id)`id`%s%n{0}"]
    for number in range(count):
        value = rng.choice(values)
        words = rng.choice(
            (
                ("generate", "--prompt", value, "--num_steps", "1", *FEW),
                ("illustrate", "--text", value, *FEW),
                ("generate", "--prompt", "A fox", "--seed", value),
                ("generate", "--prompt", "A fox", "--num_steps", value),
                ("generate", "--prompt", "A fox", "--temperature", value),
            )
        )
        yield Case(
            f"{words[1:3]!r:.80}", (PROGRAM, *words, "--ckpt", str(base.model), "--output", str(root / f"{number}-out"))
        )
