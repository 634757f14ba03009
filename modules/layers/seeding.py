"""Randomness of libraries that take no generator."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from contextlib import contextmanager

import torch


@contextmanager
def seeded(seed: int) -> Iterator[None]:
    """Inside, torch's global randomness starts from `seed`; afterwards it is as it was, on every device."""
    with torch.random.fork_rng(devices=range(torch.cuda.device_count())):
        torch.manual_seed(seed)
        yield


def derive_seed(*key: int | str) -> int:
    """A seed of its own for every key such as (seed, "noise", step): a resumed run draws what it would have drawn."""
    digest = hashlib.sha256(repr(key).encode()).digest()
    return int.from_bytes(digest[:4], "big") >> 1
