"""Renderings of a plan, and the parts of a plan's text form."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal, get_args

from modules.generation.settings import GenerationSettings
from modules.steering.packing import DamagedText, Reader, Writer, pack_bits, unpack_bits

Codes = tuple[tuple[int, ...], ...]  # (T,S)
Parts = Literal["both", "text", "picture"]
PARTS: tuple[Parts, ...] = get_args(Parts)
MAX_PAGES, MAX_SLOTS = 2000, 1024


@dataclass(frozen=True)
class Rendering:
    """Pages that were decoded together: with equal weights, settings and versions it gives equal bytes.

    `codes` are the plan that the pages read: a later edit changes the plan, but no page that was decoded before it.
    `texts` are those of the pages that were given, None for the others, or empty if none was.
    """

    codes: Codes
    pages: tuple[int, ...]
    settings: GenerationSettings
    parts: Parts = "both"
    texts: tuple[str | None, ...] = ()

    def __post_init__(self) -> None:
        if not self.pages or any(not 0 <= page < len(self.codes) for page in self.pages):
            raise ValueError(f"pages {self.pages} are not among {len(self.codes)}")
        if self.texts and len(self.texts) != len(self.pages):
            raise ValueError(f"{len(self.texts)} texts for {len(self.pages)} pages")
        if self.parts not in PARTS:
            raise ValueError(f"parts must be one of {PARTS}, got {self.parts!r}")


def describe_rendering(rendering: Rendering, plans: list[Codes], settings: GenerationSettings) -> dict[str, Any]:
    """Return a rendering as short as it can be: what has its usual value is left out."""
    entries = {
        "c": plans.index(rendering.codes),
        "p": list(rendering.pages),
        "s": changed_settings(rendering.settings, settings),
        "k": PARTS.index(rendering.parts),
        "t": list(rendering.texts),
    }
    usual = {"c": 0, "p": list(range(len(rendering.codes))), "s": {}, "k": 0, "t": []}
    return {name: value for name, value in entries.items() if value != usual[name]}


def read_rendering(entry: dict[str, Any], plans: list[Codes], settings: GenerationSettings) -> Rendering:
    """Return the rendering that `describe_rendering` described."""
    codes = plans[entry.get("c", 0)]
    return Rendering(
        codes,
        tuple(int(page) for page in entry.get("p", range(len(codes)))),
        read_settings(settings, entry.get("s", {})),
        PARTS[entry.get("k", 0)],
        tuple(text if text is None else read_text(text) for text in entry.get("t", ())),
    )


def changed_settings(settings: GenerationSettings, usual: GenerationSettings) -> dict[str, Any]:
    """Return the settings that differ from `usual`, as JSON can hold them."""
    values, others = dataclasses.asdict(settings), dataclasses.asdict(usual)
    return {
        name: list(value) if isinstance(value, tuple) else value
        for name, value in values.items()
        if value != others[name]
    }


def read_settings(usual: GenerationSettings, changed: dict[str, Any]) -> GenerationSettings:
    """Return `usual` with the settings that `changed_settings` returned."""
    values: dict[str, Any] = {
        name: tuple(value) if isinstance(value, list) else value for name, value in changed.items()
    }
    return replace(usual, **values)


def read_sources(values: Sequence[Any]) -> tuple[int | None, ...]:
    """Return numbers of renderings, None where something was given. Raises DamagedText."""
    if not all(value is None or (isinstance(value, int) and value >= 0) for value in values):
        raise DamagedText("it describes no story")
    return tuple(values)


def read_text(value: Any) -> str:
    """Return `value` if it is a text. Raises DamagedText otherwise."""
    if not isinstance(value, str):
        raise DamagedText("it describes no story")
    return value


def _width(codebook_size: int) -> int:
    return max(1, (codebook_size - 1).bit_length())


def write_codes(writer: Writer, codes: Codes, before: Codes, codebook_size: int) -> None:
    """Write the pages that differ from those of the plan before: their number, which, and their codes."""
    changed = [page for page, row in enumerate(codes) if page >= len(before) or row != before[page]]
    writer.number(len(codes))
    if before:
        writer.block(pack_bits([int(page in changed) for page in range(len(codes))], 1))
    writer.block(pack_bits([code for page in changed for code in codes[page]], _width(codebook_size)))


def read_codes(reader: Reader, before: Codes, num_slots: int, codebook_size: int) -> Codes:
    """Read what `write_codes` wrote. Raises DamagedText."""
    count = reader.number()
    if not 1 <= count <= MAX_PAGES or not 1 <= num_slots <= MAX_SLOTS:
        raise DamagedText("it has too many pages")
    flags = unpack_bits(reader.block(), count, 1) if before else [1] * count
    values = iter(unpack_bits(reader.block(), sum(flags) * num_slots, _width(codebook_size)))
    return tuple(
        tuple(next(values) for _ in range(num_slots)) if changed else before[page] for page, changed in enumerate(flags)
    )
