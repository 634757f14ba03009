"""The code view: the report that `analyze` wrote, searched by words, by codes, or by the codes of a picture."""

from __future__ import annotations

import json
import shlex
import threading
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from PIL import Image

from modules.common.errors import UserError
from modules.data.images import decode_image
from modules.generation.pipeline import StoryPipeline

REPORT, SPRITE = "codebook.json", "codebook.jpg"
CHARACTER, CARRIES = (
    ("character", "hero", "colour"),
    0.2,
)  # A slot that explains so much of these holds who is on a page.
SHARE_OF_PREFIX = 0.5  # What a word that only begins like the one looked for counts.
NUM_PAGES = 4  # Example pages on a card.


@dataclass(frozen=True)
class CodeReport:
    """What is known of every used code: `cards` by code, the most used first; `steps` are the pages that they show.
    `carriers` are the slots, from 0, that hold who is on a page and in which colour.

    `places` are the places of the pages' pictures in the `sprite`, by their row numbers.
    """

    cards: dict[int, dict[str, Any]]
    steps: list[dict[str, Any]]
    slots: list[str]
    carriers: list[int]
    places: dict[int, int]
    columns: int
    sprite: Image.Image | None

    def search(self, words: Iterable[str], count: int) -> list[int]:
        """Return codes by how well they fit the words, all in small letters; without words the most used ones."""
        wanted = list(words)
        fits = {code: [_fit(card, word) for word in wanted] for code, card in self.cards.items()}
        found = [code for code in fits if not wanted or any(fits[code])]
        found.sort(key=lambda code: (sum(map(bool, fits[code])), sum(fits[code])), reverse=True)
        return found[:count]

    def card(self, code: int) -> dict[str, Any]:
        """Return what clients show of a code; of one that no story used, its number alone."""
        card = self.cards.get(code)
        if card is None:
            return {"code": code, "uses": 0, "slot": None, "tells": None, "words": [], "near": [], "pages": []}
        pages = [row for row in card["pages"] if row in self.places][:NUM_PAGES] or card["pages"][:NUM_PAGES]
        return {
            "code": code,
            "uses": card["uses"],
            "slot": card["slots"].index(max(card["slots"])),
            "tells": card["tells"] or None,
            "words": [word for word, _ in card["words"]],
            "near": [other for other, _ in card["near"]],
            "pages": [
                {"row": row, "text": self.steps[row]["text"] or "", "pictured": row in self.places} for row in pages
            ],
        }

    def picture(self, row: int) -> Image.Image | None:
        """Return the small picture of a page of the report, if it has one."""
        place = self.places.get(row)
        if place is None or self.sprite is None:
            return None
        side = self.sprite.width // self.columns
        left, top = place % self.columns * side, place // self.columns * side
        return self.sprite.crop((left, top, left + side, top + side))


def _fit(card: dict[str, Any], word: str) -> float:
    """Return how well a code's card fits a word: by its own words, what it is most informative about, its number."""
    if str(card["code"]) == word:
        return 1000.0
    scores = [z if own == word else z * SHARE_OF_PREFIX if own.startswith(word) else 0.0 for own, z in card["words"]]
    tells = card["tells"]
    if tells and word in tells["value"].lower().split():
        scores.append(10.0 * tells["strength"])
    return float(max(scores, default=0.0))


class CodeReports:
    """Opens the report in a folder once it is there, and again when it has changed."""

    def __init__(self, folder: Path, pipeline: StoryPipeline, checkpoint: str) -> None:
        self.folder, self.fingerprint = folder, pipeline.fingerprint()
        command = ["python", "story_generative_model.py", "analyze", "--ckpt", checkpoint, "--output", str(folder)]
        self.command = shlex.join(command)
        self._stamp: tuple[float, ...] | None = None
        self._report: CodeReport | None = None
        self._lock = threading.Lock()

    def open(self) -> tuple[CodeReport | None, str]:
        """Return the report and an empty text, or None and what is to be done to get one."""
        files = [self.folder / REPORT, self.folder / SPRITE]
        try:
            stamp = tuple(file.stat().st_mtime for file in files if file.exists() or file.name == REPORT)
            with self._lock:
                if stamp != self._stamp:
                    self._report = self._stamp = None
                    self._report, self._stamp = self._read(*files), stamp
        except FileNotFoundError:
            return None, f"What the codes mean has not been analysed yet: {self.command}"
        except UserError as error:
            return None, f"{error}: {self.command}"
        except (OSError, ValueError, KeyError, TypeError, AttributeError):
            return None, f"{self.folder / REPORT} cannot be read: {self.command} --overwrite"
        if self._report is None:
            return None, f"{self.folder} holds the analysis of other weights: {self.command}"
        return self._report, ""

    def carriers(self) -> list[int]:
        """Return the slots, from 0, that hold who is on a page; none where no analysis says so."""
        report, _ = self.open()
        return [] if report is None else report.carriers

    def _read(self, file: Path, sprite: Path) -> CodeReport | None:
        record = json.loads(file.read_bytes())
        if record.get("fingerprint") != self.fingerprint:
            return None
        thumbnails = record["thumbnails"]
        image = decode_image(sprite.read_bytes(), sprite.name) if thumbnails["rows"] else None
        return CodeReport(
            cards={card["code"]: card for card in record["cards"]},
            steps=record["steps"],
            slots=_slots(record),
            carriers=_carriers(record),
            places={row: place for place, row in enumerate(thumbnails["rows"])},
            columns=thumbnails["columns"],
            sprite=image,
        )


def _carriers(record: dict[str, Any]) -> list[int]:
    attributes = [one["slots"] for name, one in record["information"].items() if name in CHARACTER]
    shares = [
        max((slots[slot]["share"]["value"] or 0.0 for slots in attributes), default=0.0)
        for slot in range(record["num_slots"])
    ]
    found = [slot for slot, share in enumerate(shares) if share >= CARRIES]
    return found if len(found) < len(shares) else []  # Nothing would be left to plan.


def _slots(record: dict[str, Any]) -> list[str]:
    """Return for each slot the share of the attribute's entropy that it explains, and which attribute that is."""
    names = []
    for slot in range(record["num_slots"]):
        shares = {name: one["slots"][slot]["share"]["value"] or 0.0 for name, one in record["information"].items()}
        best = max(shares, key=shares.__getitem__, default=None)
        names.append(f"{100 * shares[best]:.0f} % of {best}" if best and shares[best] > 0 else "")
    return names
