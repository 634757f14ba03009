"""CoDraw: clip-art scenes that one person described to another, drawn from the recorded position of each piece."""

from __future__ import annotations

import argparse
import io
import json
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, ClassVar

from PIL import Image

from modules.common.arguments import a_path
from modules.common.errors import UserError
from modules.common.files import visible_files
from modules.data.records import RecordError
from modules.downloads.record import Row, Source, SourceStep, SourceStory, counted, first_sentence

CANVAS = (500, 400)
SCALES = (1.0, 0.7, 0.49)
UNUSED, SUN, SKY = -10000, "s_3s.png", "s_"


@dataclass(frozen=True)
class Piece:
    """A piece of clip art: its centre in pixels of `CANVAS`; depth 0 is in front."""

    file: str
    x: float
    y: float
    depth: int
    flip: bool


class CoDraw(Source):
    """Clip-art scenes that one person described to another piece by piece (CoDraw).

    9,993 stories with 56,649 steps, of which 7,989 are for training and 1,002 for validation. A step ends whenever the
    drawing changed; its picture is drawn here.
    Source: a git clone of parthrangarajan/CoDrawDatasetViz (`--clone`): its folder output contains the scenes, Pngs
    the 126 pieces of clip art and background.png (`--clipart` names another folder of them).
    Licence: CC BY-NC 4.0, not for commercial use.
    Citation: Kim et al. 2019, arXiv 1712.05558; Zitnick and Parikh 2013.

        python download_data.py codraw --clone CoDrawDatasetViz
    """

    name, license, parts = "codraw", "CC BY-NC 4.0", ("train", "val")
    terms = "not for commercial use"
    sizes: ClassVar = {"train": 7989, "val": 1002}

    def __init__(self, args: argparse.Namespace) -> None:
        self.scenes = args.clone / "output" if (args.clone / "output").is_dir() else args.clone
        self.clipart = args.clipart or args.clone / "Pngs"
        self.inputs = (self.scenes, self.clipart)
        for folder in (self.scenes, self.clipart):
            if not folder.is_dir():
                advice = "clone parthrangarajan/CoDrawDatasetViz, and unpack the clip art"
                raise UserError(f"the folder {folder} does not exist: {advice}")

    @classmethod
    def add_flags(cls, parser: argparse.ArgumentParser) -> None:
        parser.add_argument(
            "--clone", type=a_path, required=True, metavar="CLONE", help="a clone of parthrangarajan/CoDrawDatasetViz"
        )
        parser.add_argument(
            "--clipart", type=a_path, metavar="FOLDER", help="the clip art, with background.png (CLONE/Pngs)"
        )

    def rows(self, part: str, place: Any) -> Iterator[Row]:
        yield from counted(((str(path), path) for path in sorted(self.scenes.glob(f"{part}_*.json"))), place)

    def stories(self, row: Row) -> Iterable[SourceStory]:
        try:
            turns = json.loads(row.value.read_text(encoding="utf-8"))["dialog"]
            messages = [(str(turn.get("msg_t") or "").strip(), str(turn.get("abs_d") or "")) for turn in turns]
        except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
            raise RecordError(f"it is not a dialogue ({type(error).__name__}: {error})") from None
        pages: list[SourceStep] = []
        pending: list[str] = []  # Messages since the drawing last changed.
        before: list[Piece] = []
        for message, scene in messages:
            pending += [message] if message else []
            pieces = parse_scene(scene) if scene else []
            if pieces and pieces != before:
                pages.append(SourceStep(" ".join(pending) or None, self.draw(pieces)))
                pending, before = [], pieces
        if not any(page.text for page in pages):
            raise RecordError("nothing was drawn, or nothing was said")
        prompt = first_sentence(next(page.text for page in pages if page.text))
        yield SourceStory(f"codraw-{row.value.stem}", prompt, tuple(pages), credit="CoDraw; Abstract Scenes")

    def draw(self, pieces: list[Piece]) -> bytes:
        """Return a PNG of the scene: first the sun, then the sky, then the other pieces from back to front."""
        canvas = self._clipart("background.png").convert("RGBA").resize(CANVAS)
        for piece in sorted(
            pieces, key=lambda piece: (piece.file != SUN, not piece.file.startswith(SKY), -piece.depth)
        ):
            sprite = self._clipart(piece.file)
            if piece.flip:
                sprite = sprite.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
            scale = SCALES[piece.depth]
            sprite = sprite.resize((max(1, round(sprite.width * scale)), max(1, round(sprite.height * scale))))
            corner = (round(piece.x - sprite.width / 2), round(piece.y - sprite.height / 2))
            layer = Image.new("RGBA", CANVAS)
            layer.paste(sprite, corner)
            canvas = Image.alpha_composite(canvas, layer)
        buffer = io.BytesIO()
        canvas.convert("RGB").save(buffer, "PNG")
        return buffer.getvalue()

    @cached_property
    def _files(self) -> dict[str, Path]:
        return {path.name.lower(): path for path in visible_files(self.clipart) if path.suffix.lower() == ".png"}

    def _clipart(self, name: str) -> Image.Image:
        path = self._files.get(name.lower())
        if path is None:
            raise UserError(
                f"{self.clipart} has no {name}: give the folder of CoDraw's clip art, with background.png in it"
            )
        with Image.open(path) as image:
            return image.convert("RGBA")


def parse_scene(scene: str) -> list[Piece]:
    """Read "n," and n times "png,i,subtype,class,x,y,depth,flip,"; pieces outside the canvas are left out.

    Raises RecordError.
    """
    values = scene.strip().strip(",").split(",")
    try:
        rows = [values[start : start + 8] for start in range(1, 1 + 8 * int(values[0]), 8)]
        pieces = [
            Piece(file, float(x), float(y), int(float(depth)), int(float(flip)) == 1)
            for file, _, _, _, x, y, depth, flip in rows
        ]
    except ValueError:
        raise RecordError(f"a scene is not n times eight values: {scene[:40]!r}") from None
    pieces = [piece for piece in pieces if UNUSED not in (piece.x, piece.y)]
    if any(piece.depth not in range(len(SCALES)) for piece in pieces):
        raise RecordError("a piece lies at a depth other than 0, 1 and 2")
    return pieces
