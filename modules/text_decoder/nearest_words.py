"""Words that the training texts lack, each with the known words nearest in meaning: a table beside the tokenizer.

`benchmarks/nearest_words.py` computes it once, with a pretrained sentence encoder; reading it needs none.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType

from modules.common.errors import UserError

FILE = "nearest_words.tsv"


@dataclass(frozen=True)
class Near:
    """A known word, and the cosine of its meaning to that of the word it is near."""

    word: str
    cosine: float


NearestWords = Mapping[str, tuple[Near, ...]]  # Of every word, the nearest first.
NONE: NearestWords = MappingProxyType({})


def save_nearest_words(folder: Path, table: NearestWords) -> None:
    """Write a line for every word: the word, then each known word and its cosine in hundredths. Raises OSError."""
    lines = [
        "\t".join([word, *(cell for near in nearest for cell in (near.word, f"{100 * near.cosine:.0f}"))])
        for word, nearest in sorted(table.items())
    ]
    (folder / FILE).write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")


def load_nearest_words(folder: Path) -> NearestWords:
    """Read what `save_nearest_words` wrote; without a file the table is empty. Raises UserError if it is broken."""
    path = folder / FILE
    try:
        text = path.read_text(encoding="utf-8")
        return {word: tuple(_nearest(cells)) for word, *cells in (line.split("\t") for line in text.splitlines())}
    except FileNotFoundError:
        return NONE
    except (OSError, ValueError) as error:
        raise UserError(f"{path} cannot be read ({error}): copy the model folder anew") from None


def _nearest(cells: list[str]) -> Iterator[Near]:
    for word, hundredths in zip(cells[::2], cells[1::2], strict=True):
        yield Near(word, int(hundredths) / 100)
