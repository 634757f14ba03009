"""Pages as pictures: for comic book archives, animations and videos."""

from __future__ import annotations

from PIL import Image, ImageDraw

from modules.presentation.export.enlarging import enlarge_well
from modules.presentation.export.fonts import load_font
from modules.presentation.export.layout import Leaf
from modules.presentation.theme import LIGHT


def draw_leaf(leaf: Leaf, width: int) -> Image.Image:
    """Return a page as an RGB picture of this width in pixels."""
    scale = width / leaf.width
    page = Image.new("RGB", (width, round(leaf.height * scale)), LIGHT.paper)
    if leaf.picture is not None:
        left, top, side, _ = (value * scale for value in leaf.picture_box)
        picture = enlarge_well(leaf.picture, round(side))
        page.paste(picture, (round(left + (side - picture.width) / 2), round(top + (side - picture.height) / 2)))
    draw = ImageDraw.Draw(page)
    left, _, box_width, _ = (value * scale for value in leaf.words)
    font = load_font(leaf.font, max(1, round(leaf.size * scale)))
    for line, baseline in zip(leaf.lines, leaf.baselines(), strict=True):
        draw.text((left + box_width / 2, baseline * scale), line, LIGHT.ink, font, "ms")
    if leaf.number and leaf.kind == "page":
        font = load_font(leaf.font, max(1, round(11 * scale)))
        foot = (leaf.height - 0.022 * leaf.height) * scale
        draw.text((left + box_width / 2, foot), leaf.number, LIGHT.faint, font, "ms")
    return page
