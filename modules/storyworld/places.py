"""Backgrounds: the sky of each weather, the land of each place, and rain or snow in front."""

from __future__ import annotations

import random
from functools import cache

from PIL import Image, ImageChops

from modules.storyworld.pen import Pen, Point, shade

_SKY = {
    "sunny": ((96, 192, 255), (206, 240, 255)),
    "rain": ((112, 130, 156), (170, 184, 200)),
    "snow": ((176, 196, 222), (226, 234, 246)),
    "night": ((18, 22, 74), (52, 60, 130)),
}


_WHITE, _WOOD = (255, 255, 255), (150, 94, 52)


def _sky(pen: Pen, weather: str) -> None:
    top, low = _SKY[weather]
    for row in range(64):
        mix = row / 63
        red, green, blue = (round(a + (b - a) * mix) for a, b in zip(top, low, strict=True))
        pen.box(-1, row, 97, row + 1.5, (red, green, blue))
    pen.box(-1, 64, 97, 97, low)
    clouds: tuple[Point, ...]
    if weather == "sunny":
        pen.oval(15, 15, 12.5, 12.5, (255, 240, 150))
        pen.oval(15, 15, 9.5, 9.5, (255, 210, 40))
        clouds, color = ((46, 14), (84, 24)), _WHITE
    elif weather == "night":
        pen.oval(15, 15, 9.5, 9.5, (255, 246, 200))
        pen.oval(19.6, 12.4, 8.6, 8.6, (24, 28, 82))
        for x, y in ((34, 8), (46, 22), (60, 7), (74, 16), (88, 8), (84, 32), (6, 36), (36, 34), (64, 30)):
            pen.oval(x, y, 0.9, 0.9, (255, 255, 224))
        clouds, color = (), _WHITE
    else:
        clouds, color = ((14, 11), (44, 8), (78, 12)), (88, 100, 124) if weather == "rain" else (244, 248, 255)
    for x, y in clouds:
        for dx, dy, r in ((-8, 1, 4.6), (-1, -2, 6), (7, 1, 5)):
            pen.oval(x + dx, y + dy, r * 1.3, r, color)


def _beach(pen: Pen) -> None:
    pen.box(-1, 50, 97, 97, (30, 150, 226))
    for x, y in ((20, 55), (60, 53), (84, 58), (42, 60)):
        pen.line([(x, y), (x + 9, y)], (170, 226, 255), 1)
    pen.oval(44, 100, 92, 37, (255, 250, 236))
    pen.oval(44, 101, 92, 36, (250, 220, 146))
    for x, y in ((10, 78), (30, 92), (66, 82), (88, 92)):
        pen.oval(x, y, 1, 0.7, (214, 176, 104))
    pen.line([(86, 68), (84, 54), (87, 40), (90, 33)], _WOOD, 3.4)
    for x, y in ((76, 27), (82, 21), (98, 24), (78, 36), (100, 36)):
        pen.line([(90, 32), ((90 + x) / 2, (30 + y) / 2 - 3), (x, y)], (30, 150, 70), 3.4)


def _forest(pen: Pen) -> None:
    pen.box(-1, 56, 97, 97, (84, 166, 74))
    for x, height in ((3, 30), (23, 24), (42, 32), (62, 26), (80, 34), (97, 24)):
        pen.box(x - 2.4, 50, x + 2.4, 66, (112, 70, 40))
        for level in range(3):
            y = 58 - level * height * 0.32
            half = 13 - level * 3
            pen.poly([(x - half, y), (x + half, y), (x, y - height * 0.62)], shade((24, 110, 62), 1 + 0.12 * level))
    for x, y in ((12, 76), (48, 92), (88, 80), (70, 90)):
        pen.line([(x - 2, y - 3), (x, y), (x + 2, y - 3)], (50, 126, 52), 1.2)


def _farm(pen: Pen) -> None:
    pen.oval(20, 72, 60, 20, (150, 210, 90))
    pen.box(-1, 60, 97, 97, (134, 200, 72))
    pen.box(54, 34, 86, 66, (204, 48, 44))
    pen.poly([(50, 36), (58, 20), (82, 20), (90, 36)], (126, 44, 52))
    pen.box(62, 46, 78, 66, (250, 240, 226))
    pen.line([(62, 46), (78, 66)], (204, 48, 44), 1.6)
    pen.line([(78, 46), (62, 66)], (204, 48, 44), 1.6)
    pen.oval(70, 28, 3.4, 3.4, (250, 240, 226))
    for x in range(2, 52, 9):
        pen.box(x - 1.6, 52, x + 1.6, 68, _WHITE, radius=1)
    for y in (56, 62):
        pen.box(-1, y, 50, y + 2.2, _WHITE)
    for x, y in ((6, 80), (26, 90), (56, 84), (90, 88)):
        pen.oval(x, y, 1.4, 1.4, (255, 230, 90))


def _city(pen: Pen) -> None:
    for x, width, top, color in (
        (0, 17, 32, (222, 112, 92)),
        (19, 16, 14, (96, 130, 196)),
        (37, 15, 36, (240, 190, 96)),
        (54, 17, 20, (170, 108, 172)),
        (73, 23, 30, (88, 170, 160)),
    ):
        pen.box(x, top, x + width, 70, color)
        for row in range(top + 4, 58, 8):
            for column in range(x + 3, x + width - 4, 6):
                pen.box(column, row, column + 3.6, row + 4.6, (255, 244, 190))
    pen.box(-1, 66, 97, 97, (112, 114, 128))
    pen.box(-1, 66, 97, 70, (196, 196, 204))
    for x in (4, 32, 60, 88):
        pen.box(x, 80, x + 14, 82, (250, 240, 200))


def _castle(pen: Pen) -> None:
    pen.oval(50, 78, 70, 20, (126, 196, 96))
    wall, dark = (198, 190, 216), (160, 150, 186)
    pen.box(24, 36, 76, 68, wall)
    for x in range(24, 76, 10):
        pen.box(x, 31, x + 6, 37, wall)
    for x in (22, 78):
        pen.box(x - 9, 22, x + 9, 68, dark)
        pen.poly([(x - 12, 24), (x + 12, 24), (x, 3)], (124, 60, 176))
        pen.box(x - 2.6, 32, x + 2.6, 41, (70, 56, 96), radius=2.6)
    pen.box(40, 46, 60, 80, (96, 60, 50), radius=10)
    pen.line([(50, 31), (50, 16)], (90, 80, 90), 1.4)
    pen.poly([(50.6, 15), (62, 19), (50.6, 23)], (240, 70, 90))
    pen.box(-1, 66, 97, 97, (116, 188, 88))
    pen.poly([(42, 66), (58, 66), (72, 97), (28, 97)], (222, 202, 160))


def _mountains(pen: Pen) -> None:
    for x, top, half, color in ((26, 10, 40, (122, 130, 162)), (74, 4, 44, (98, 106, 142))):
        pen.poly([(x - half, 68), (x + half, 68), (x, top)], color)
        pen.poly([(x, top), (x + half, 68), (x + half * 0.3, 68)], shade(color, 0.86))
        cap = 15
        side = half * cap / (68 - top)
        pen.poly(
            [
                (x, top),
                (x + side, top + cap),
                (x + side * 0.3, top + cap - 4),
                (x - side * 0.3, top + cap + 2),
                (x - side, top + cap),
            ],
            _WHITE,
        )
    pen.box(-1, 63, 97, 97, (146, 172, 96))
    pen.oval(20, 68, 40, 7, (146, 172, 96))
    for x, y, r in ((8, 78, 3.4), (90, 74, 4), (62, 92, 2.6)):
        pen.oval(x, y, r * 1.4, r, (128, 124, 130))


def _kitchen(pen: Pen) -> None:
    pen.box(-1, -1, 97, 97, (255, 226, 170))
    for x in range(0, 97, 12):
        pen.box(x, -1, x + 5, 66, (255, 218, 150))
    pen.box(3, 4, 47, 44, _WHITE, radius=2)
    pen.box(6, 7, 44, 41, (0, 0, 0, 0))
    pen.box(23.6, 7, 26.4, 41, _WHITE)
    pen.box(54, 42, 90, 70, (250, 250, 252), radius=2)
    pen.box(58, 50, 86, 66, (74, 78, 96), radius=2)
    pen.box(61, 53, 83, 63, (255, 160, 60), radius=1.4)
    for x in (60, 68, 76, 84):
        pen.oval(x, 46, 1.7, 1.7, (220, 70, 60))
    pen.box(62, 34, 82, 42, (90, 150, 200), radius=2)
    pen.line([(56, 37), (62, 37)], (60, 60, 70), 2)
    pen.box(-1, 68, 97, 97, (214, 140, 96))
    for x in range(-4, 97, 16):
        for row, y in enumerate((70, 80, 90)):
            pen.box(x + row % 2 * 8, y, x + row % 2 * 8 + 7, y + 9, (232, 168, 122))


def _moon(pen: Pen) -> None:
    pen.box(-1, -1, 97, 97, (22, 14, 52))
    for x, y in ((36, 8), (48, 26), (60, 6), (74, 18), (90, 10), (86, 36), (6, 44), (38, 40), (66, 34), (54, 46)):
        pen.oval(x, y, 0.9, 0.9, _WHITE)
    pen.oval(18, 17, 13, 13, (40, 130, 236))
    pen.oval(13, 13, 5.6, 4, (80, 200, 100))
    pen.oval(22, 21, 6.4, 4.4, (80, 200, 100))
    pen.oval(20, 9, 3.4, 1.8, _WHITE)
    pen.oval(48, 112, 110, 54, (206, 204, 220))
    for x, y, r in ((14, 72, 6), (46, 66, 4.4), (80, 72, 7), (30, 90, 6), (66, 88, 5)):
        pen.oval(x, y, r * 1.4, r * 0.6, (150, 148, 172))
        pen.oval(x, y + 0.7, r * 1.15, r * 0.42, (176, 174, 194))


_LANDS = {
    "beach": _beach,
    "forest": _forest,
    "farm": _farm,
    "city": _city,
    "castle": _castle,
    "mountains": _mountains,
    "kitchen": _kitchen,
    "moon": _moon,
}


def _lit(land: Image.Image, place: str, weather: str) -> Image.Image:
    """Return the land in the light of the weather; a kitchen is always lit, and the moon is always dark."""
    tint = {"rain": (205, 214, 232), "night": (104, 112, 184)}.get(weather)
    if place == "kitchen":
        tint = (190, 184, 226) if weather == "night" else None
    if place == "moon" or (tint is None and weather != "snow"):
        return land
    alpha, colors = land.getchannel("A"), land.convert("RGB")
    if tint:
        colors = ImageChops.multiply(colors, Image.new("RGB", land.size, tint))
    elif place != "kitchen":
        colors = Image.blend(colors, Image.new("RGB", land.size, (242, 248, 255)), 0.42)
    colors.putalpha(alpha)
    return colors


def _falling(pen: Pen, weather: str, variant: int) -> None:
    rng = random.Random(variant)
    for column in range(8):
        for row in range(7):
            x, y = column * 13 + rng.uniform(-4, 6), row * 15 + rng.uniform(-5, 7)
            if weather == "rain":
                pen.line([(x, y), (x - 2.4, y + 7)], (196, 226, 255, 215), 0.9)
            else:
                pen.oval(x, y, 1.4, 1.4, (255, 255, 255, 240))


def _front(weather: str, variant: int, image_size: int) -> Image.Image:
    pen = Pen(96, 96, image_size)
    _falling(pen, weather, variant)
    return pen.finish()


@cache
def background(place: str, weather: str, variant: int, image_size: int) -> Image.Image:
    """Return the empty place in its weather; `variant` shuffles the drops and flakes.

    A kitchen shows them through its window.
    """
    sky, land = Pen(96, 96, image_size), Pen(96, 96, image_size)
    _sky(sky, weather)
    _LANDS[place](land)
    layers = [sky.finish(), _lit(land.finish(), place, weather)]
    if weather in ("rain", "snow"):
        layers.insert(1 if place == "kitchen" else 2, _front(weather, variant, image_size))
    picture = layers[0]
    for layer in layers[1:]:
        picture.alpha_composite(layer)
    return picture.convert("RGB")
