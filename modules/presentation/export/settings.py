"""Settings of the exports."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class ExportSettings:
    """Settings of an export: seconds that an animation shows a page, and a font for what the book's own ones lack."""

    seconds: float = 4.0
    font: Path | None = None
