"""Characters: one body in the colour of its clothes, with a head for each kind."""

from __future__ import annotations

from functools import cache

from PIL import Image, ImageOps

from modules.storyworld.faces import draw_head
from modules.storyworld.labels import GARMENTS
from modules.storyworld.pen import INK, Color, Pen, shade

WIDTH, HEIGHT, FEET = 46, 62, 60  # The canvas in units; FEET is the y coordinate of the soles.
CLOTH = {
    "red": (228, 38, 44),
    "blue": (36, 98, 232),
    "green": (22, 158, 66),
    "yellow": (255, 205, 20),
    "purple": (134, 52, 196),
    "pink": (255, 92, 176),
}
FUR = {
    "girl": (255, 214, 178),
    "boy": (150, 92, 58),
    "fox": (244, 128, 38),
    "rabbit": (250, 244, 240),
    "bear": (158, 100, 56),
    "frog": (112, 204, 72),
    "cat": (98, 98, 116),
    "pig": (255, 176, 188),
    "penguin": (40, 52, 92),
    "elephant": (156, 186, 214),
}
_X = WIDTH / 2
_ARMS = {  # The left and the right hand, from the middle.
    "stand": ((-13, 51), (13, 51)),
    "walk": ((-15, 46), (13, 52)),
    "reach": ((-13, 51), (18, 44)),
    "wave": ((-13, 51), (18.5, 33)),
    "up": ((-18.5, 33), (18.5, 33)),
}


def _tail(pen: Pen, kind: str) -> None:
    fur = FUR[kind]
    if kind == "fox":
        pen.line([(_X - 8, 54), (_X - 14, 50), (_X - 17, 45)], INK, 9.4)
        pen.line([(_X - 8, 54), (_X - 14, 50), (_X - 17, 45)], fur, 8)
        pen.oval(_X - 17.5, 43.5, 3.2, 3.4, (255, 250, 240))
    elif kind == "cat":
        pen.line([(_X - 7, 55), (_X - 15, 54), (_X - 18, 48), (_X - 16, 43)], fur, 3.6)
    elif kind == "rabbit":
        pen.oval(_X - 10, 53, 4.2, 4.2, (255, 255, 255), edge=0.7)


def _legs(pen: Pen, kind: str, pose: str) -> None:
    foot = {"penguin": (255, 160, 30), "girl": (120, 60, 70), "boy": (70, 60, 110)}.get(kind, shade(FUR[kind], 0.8))
    steps = ((-8, 57.4), (7.5, 55.8)) if pose == "walk" else ((-5, 57.6), (5, 57.6))
    for dx, y in steps:
        pen.line([(_X + dx * 0.7, 51), (_X + dx, y - 2)], FUR[kind], 5)
        pen.oval(_X + dx + 0.8, y, 4.2, 2.5, foot, edge=0.7)


def _garment(pen: Pen, kind: str, cloth: Color) -> None:
    style = GARMENTS[kind]
    dark, light = shade(cloth, 0.72), shade(cloth, 1.45)
    if style == "dress":
        pen.poly([(_X - 7, 37), (_X + 7, 37), (_X + 13.5, 54), (_X - 13.5, 54)], cloth)
        pen.line([(_X - 12.6, 54), (_X + 12.6, 54)], dark, 2)
        for dx in (-6, 0, 6):
            pen.oval(_X + dx, 49, 1.1, 1.1, light)
        return
    pen.box(_X - 10.5, 36, _X + 10.5, 55.5, cloth, radius=6)
    if style == "coat":
        pen.line([(_X, 40), (_X, 54.5)], dark, 1)
        for y in (44.5, 49.5):
            pen.oval(_X + 2.6, y, 1.2, 1.2, (255, 246, 214))
    elif style == "sweater":
        pen.box(_X - 10.5, 46, _X + 10.5, 49, light)
        pen.box(_X - 9.5, 53, _X + 9.5, 55.5, dark, radius=1.2)
    else:
        pen.poly([(_X - 4.5, 39), (_X + 4.5, 39), (_X, 44)], light)
        pen.box(_X - 9.5, 53.4, _X + 9.5, 55.5, dark, radius=1)


def _arms(pen: Pen, kind: str, cloth: Color, pose: str) -> None:
    for side, (dx, y) in zip((-1, 1), _ARMS[pose], strict=True):
        shoulder, hand = (_X + side * 8.5, 42), (_X + dx, y)
        pen.line([shoulder, hand], INK, 6.2)
        pen.line([shoulder, hand], shade(cloth, 0.88), 4.8)
        pen.oval(*hand, 3, 3, FUR[kind], edge=0.6)


@cache
def character(kind: str, color: str, pose: str, face: str, flip: bool, image_size: int) -> Image.Image:
    """Return the sprite of a standing character, which faces right unless flipped."""
    if flip:
        return ImageOps.mirror(character(kind, color, pose, face, False, image_size))
    pen, cloth = Pen(WIDTH, HEIGHT, image_size), CLOTH[color]
    _tail(pen, kind)
    _legs(pen, kind, pose)
    _garment(pen, kind, cloth)
    if pose != "up":
        _arms(pen, kind, cloth, pose)
    draw_head(pen, kind, _X, 27.5, face, FUR[kind])
    if pose == "up":  # Raised arms pass in front of the cheeks.
        _arms(pen, kind, cloth, pose)
    return pen.finish(outline=0.6)


@cache
def sleeper(kind: str, color: str, image_size: int) -> Image.Image:
    """Return the sprite of a character asleep, under a blanket in the colour of its clothes."""
    pen, cloth = Pen(72, 50, image_size), CLOTH[color]
    pen.box(2, 16, 7, 48, (150, 92, 50), radius=2, edge=0.7)
    pen.box(65, 26, 70, 48, (150, 92, 50), radius=2, edge=0.7)
    pen.box(5, 38, 67, 45, (190, 124, 70), radius=1, edge=0.7)
    pen.box(7, 27, 34, 40, (255, 255, 255), radius=5, edge=0.7)
    draw_head(pen, kind, 22, 25, "sleep", FUR[kind])
    pen.box(34, 25, 66, 42, cloth, radius=7, edge=0.7)
    pen.box(34, 25, 40, 42, shade(cloth, 1.5), radius=3)
    for x, y in ((46, 30), (56, 30), (51, 36), (61, 36)):
        pen.oval(x, y, 1.6, 1.6, shade(cloth, 1.5))
    return pen.finish(outline=0.6)
