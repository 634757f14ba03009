"""Seeds: for libraries that take no generator, and one for every purpose."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from contextlib import contextmanager

import torch


def fold_seed(seed: int) -> int:
    """Return a seed of 32 bits, which is all that torch's generator on a CPU takes; smaller seeds stay as they are."""
    if seed < 2**32:
        return seed
    return int.from_bytes(hashlib.sha256(repr(seed).encode()).digest()[:4], "big")


def make_generator(seed: int, device: torch.device | str = "cpu") -> torch.Generator:
    """Return a generator on `device`; all bits of the seed count."""
    return torch.Generator(device).manual_seed(fold_seed(seed))


@contextmanager
def seeded(seed: int) -> Iterator[None]:
    """Seed torch's global generators inside the block and restore them afterwards, on every device."""
    with torch.random.fork_rng(devices=range(torch.cuda.device_count())):
        torch.manual_seed(fold_seed(seed))
        yield


def derive_seed(*key: int | str) -> int:
    """Return the seed, of 31 bits, of a key such as (seed, "noise", step): a resumed run draws the same numbers."""
    digest = hashlib.sha256(repr(key).encode()).digest()
    return int.from_bytes(digest[:4], "big") >> 1
