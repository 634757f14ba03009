"""Stories on the host, batches of stories on the device, and the legend of axes.

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
    """One page: a text and a picture, either of which may be absent (`caption` has no text, `illustrate` no picture)."""

    text: str | None
    image: Image.Image | None = None
    attributes: Mapping[str, Any] | None = None  # Ground truth of the story world, for scoring only.
    image_path: Path | None = None


@dataclass(frozen=True)
class Story:
    """A prompt and its steps. `extra` keeps what else the record held (license, author, ...)."""

    id: str
    prompt: str
    steps: tuple[StoryStep, ...]
    extra: Mapping[str, Any] = field(default_factory=dict)


class StoryDataset(Protocol):
    """What training and evaluation read from: a folder of stories, or the story world itself."""

    name: str

    @property
    def lengths(self) -> Sequence[int]:
        """The number of steps of every story, known without opening a picture."""

    def __len__(self) -> int: ...

    def __getitem__(self, index: int) -> Story:
        """Return one story with its pictures loaded (RGB, any size)."""

    def outline(self, index: int) -> Story:
        """Return one story without its pictures, which stay unopened."""

    def texts(self) -> Iterator[str]:
        """Yield every prompt and every step's text, without opening a picture."""

    def fingerprint(self) -> str:
        """A short hash of the content, so that a resumed run can tell that the data changed."""
