"""The contact sheet of `pictures.py`: enlarged pages of one model, each with its number, for looking at them."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import common  # noqa: F401 - makes `modules` importable.
from picture_studies import read_held_out
from PIL import Image, ImageDraw, ImageFont

from modules.common.arguments import a_path, from_flags, positive_int
from modules.evaluation.decoded import PlannedPages, decode_pages, plan_stories
from modules.generation.pipeline import StoryPipeline
from modules.generation.settings import GenerationSettings
from modules.presentation.images import write_png

RESAMPLING = {"nearest": Image.Resampling.NEAREST, "bicubic": Image.Resampling.BICUBIC}
GAP, LABEL_SIZE = 6, 16  # In pixels.


@dataclass(frozen=True)
class Tile:
    """One page of a sheet: its label, story/page, and its pictures side by side."""

    label: str
    images: tuple[Image.Image, ...]


def sheet_flags(parser: argparse.ArgumentParser) -> None:
    """Add what is drawn and how."""
    parser.add_argument(
        "--num_pages", type=positive_int, default=4, metavar="N", help="first pages of every story (default 4)"
    )
    parser.add_argument(
        "--prompts", action="store_true", help="draw stories from held-out prompts, not pages from their true codes"
    )
    parser.add_argument("--truth", action="store_true", help="show the true picture on the right of each page")
    parser.add_argument("--scale", type=positive_int, default=3, metavar="N", help="enlargement (default 3)")
    parser.add_argument(
        "--resampling", choices=tuple(RESAMPLING), default="nearest", help="how to enlarge (default nearest)"
    )
    parser.add_argument("--columns", type=positive_int, default=8, metavar="N", help="pages in a row (default 8)")
    parser.add_argument(
        "--output", type=a_path, default=Path("sheet.png"), metavar="FILE", help="PNG to write (default sheet.png)"
    )


def draw_sheet(args: argparse.Namespace) -> Path:
    """Decode the first pages of held-out stories, and write them as one PNG."""
    pipeline, settings = StoryPipeline.from_pretrained(args.ckpt[0]), from_flags(GenerationSettings, args)
    held_out = read_held_out(pipeline, args)
    codes, lengths = held_out.own_codes, held_out.encoded.lengths
    if args.prompts:
        codes = plan_stories(pipeline, held_out.encoded, len(lengths), args.seed)
    plans = PlannedPages.first_pages(codes, lengths, args.num_pages)
    pages = decode_pages(pipeline, plans, "codes", args.seed, settings=settings)
    labels = [f"{story}/{page}" for story, count in enumerate(plans.lengths, 1) for page in range(1, count + 1)]
    tiles = []
    for label, row, image in zip(labels, pages.rows, pages.images, strict=True):
        shown = (image, held_out.images[row]) if args.truth else (image,)
        tiles.append(Tile(label, tuple(picture for picture in shown if picture is not None)))
    return write_png(args.output, lay_out(tiles, args.columns, args.scale, RESAMPLING[args.resampling]))


def lay_out(tiles: Sequence[Tile], columns: int, scale: int, resampling: Image.Resampling) -> Image.Image:
    """Return the enlarged tiles in rows, each under its label."""
    font = ImageFont.load_default(LABEL_SIZE - 2)
    width = scale * max(sum(image.width for image in tile.images) for tile in tiles)
    height = scale * max(image.height for tile in tiles for image in tile.images) + LABEL_SIZE
    columns = min(columns, len(tiles))
    rows = -(-len(tiles) // columns)
    sheet = Image.new("RGB", (columns * (width + GAP) + GAP, rows * (height + GAP) + GAP), "white")
    draw = ImageDraw.Draw(sheet)
    for number, tile in enumerate(tiles):
        x, y = GAP + number % columns * (width + GAP), GAP + number // columns * (height + GAP)
        draw.text((x, y), tile.label, fill="black", font=font)
        for image in tile.images:
            sheet.paste(image.resize((scale * image.width, scale * image.height), resampling), (x, y + LABEL_SIZE))
            x += scale * image.width
    return sheet
