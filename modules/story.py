"""Stories, the protocol of data sets, and the legend of axes.

Axes, everywhere in this project:
    B stories - T steps - N = B*T steps flattened - L text tokens - P image patches - S storyboard slots (8)
    K codebook size - D width - C,H,W channels and pixels - c,h,w channels and cells of a latent
Integers from the codebook are ``codes (B,T,S)``, their vectors ``code_embeds (B,T,S,D)``.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

from PIL import Image


@dataclass(frozen=True)
class StoryStep:
    """One page: a text and an image; `caption` starts without the text, `illustrate` without the image."""

    text: str | None
    image: Image.Image | None = None
    attributes: Mapping[str, Any] | None = None  # Ground truth of the story world, for scoring only.
    image_path: Path | None = None


@dataclass(frozen=True)
class Story:
    """A prompt and its steps. `extra` keeps the other keys of the record (license, author, ...)."""

    id: str
    prompt: str
    steps: tuple[StoryStep, ...]
    extra: Mapping[str, Any] = field(default_factory=dict)


class StoryDataset(Protocol):
    """A source of stories for training and evaluation: a folder, or the story world."""

    name: str

    @property
    def lengths(self) -> Sequence[int]:
        """The number of steps of every story, available without opening an image."""

    def __len__(self) -> int: ...

    def __getitem__(self, index: int) -> Story:
        """Return one story with its images loaded (RGB, any size)."""

    def outline(self, index: int) -> Story:
        """Return one story without opening its images."""

    def texts(self) -> Iterator[str]:
        """Yield every prompt and every step's text, without opening an image."""

    def fingerprint(self) -> str:
        """A short hash of the content, so that a resumed run can tell that the data changed."""
