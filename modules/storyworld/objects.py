"""Objects that stories are about: each fills a square of 28 units, with distinct colours and silhouette."""

from __future__ import annotations

import math
from functools import cache

from PIL import Image

from modules.storyworld.pen import INK, Pen

SIZE = 28
_WHITE, _GOLD, _LEAF = (255, 255, 255), (255, 196, 30), (50, 165, 60)


def _star_points(x: float, y: float, outer: float, inner: float) -> list[tuple[float, float]]:
    turns = [(-math.pi / 2 + index * math.pi / 5, outer if index % 2 == 0 else inner) for index in range(10)]
    return [(x + radius * math.cos(turn), y + radius * math.sin(turn)) for turn, radius in turns]


def _ball(pen: Pen) -> None:
    pen.oval(14, 14, 12, 12, _WHITE)
    for start, color in ((20, (236, 40, 50)), (140, (30, 110, 240)), (260, (255, 200, 20))):
        pen.pie(14, 14, 12, 12, start, start + 62, color)
    pen.oval(14, 14, 3, 3, _WHITE)


def _kite(pen: Pen) -> None:
    pen.line([(14, 19), (11, 22.5), (15, 24.5), (12.5, 26.6)], (110, 60, 30), 1.1)
    top, left, right, low = (14, 1.4), (3.6, 10), (24.4, 10), (14, 21)
    mid = (14, 10)
    for corners, color in (
        ((top, left, mid), (20, 190, 110)),
        ((top, right, mid), (255, 130, 20)),
        ((left, low, mid), (255, 130, 20)),
        ((right, low, mid), (20, 190, 110)),
    ):
        pen.poly(list(corners), color)
    pen.poly([(11, 23), (7.4, 21), (7.4, 25)], (255, 130, 20))
    pen.poly([(14.5, 24.5), (18.6, 22.8), (18.6, 26.6)], (20, 190, 110))


def _balloon(pen: Pen) -> None:
    pen.line([(14, 20), (12.4, 23), (15, 26.4)], INK, 0.9)
    pen.poly([(14, 19), (11, 22.4), (17, 22.4)], (214, 20, 110))
    pen.oval(14, 11, 9.6, 10, (244, 40, 140))
    pen.oval(10.4, 7, 2.2, 3.2, (255, 190, 220))


def _apple(pen: Pen) -> None:
    pen.line([(14, 9), (15.4, 3)], (100, 60, 30), 2)
    pen.oval(10, 16, 7.6, 9, (222, 24, 36))
    pen.oval(18, 16, 7.6, 9, (222, 24, 36))
    pen.oval(7.6, 12.4, 1.8, 2.8, (255, 160, 150))
    pen.poly([(15, 6.6), (19, 2.2), (24.6, 3), (20.4, 7.4)], _LEAF)


def _cake(pen: Pen) -> None:
    pen.box(3, 13, 25, 25.6, (150, 86, 44), radius=2)
    pen.box(3, 18.4, 25, 20.6, (255, 236, 200))
    pen.box(3, 11.4, 25, 15.4, (255, 172, 206), radius=2)
    for x in (6, 12, 18, 22.6):
        pen.oval(x, 15.6, 2.2, 2.4, (255, 172, 206))
    pen.box(12.6, 5, 15.4, 12, (90, 190, 255))
    pen.oval(14, 3.4, 1.9, 2.6, (255, 190, 20))


def _crown(pen: Pen) -> None:
    pen.poly([(2.6, 7), (8.6, 14), (14, 3.6), (19.4, 14), (25.4, 7), (23.4, 24), (4.6, 24)], _GOLD)
    pen.box(4.6, 20, 23.4, 24.6, (224, 150, 10), radius=1)
    for x, y, color in ((2.8, 6.6, (230, 30, 60)), (14, 3.6, (40, 120, 250)), (25.2, 6.6, (230, 30, 60))):
        pen.oval(x, y, 2.2, 2.2, color)
    pen.oval(14, 16, 2.4, 2.8, (160, 40, 200))


def _book(pen: Pen) -> None:
    pen.poly([(1.6, 6), (14, 8.6), (26.4, 6), (26.4, 23), (14, 25.8), (1.6, 23)], (30, 80, 200))
    pen.poly([(3.4, 4), (13.6, 7), (13.6, 23.4), (3.4, 20.8)], (255, 250, 232))
    pen.poly([(24.6, 4), (14.4, 7), (14.4, 23.4), (24.6, 20.8)], (255, 250, 232))
    for y in (9, 12.6, 16.2):
        pen.line([(5.6, y - 0.6), (11.6, y + 1)], (90, 110, 170), 1)
        pen.line([(22.4, y - 0.6), (16.4, y + 1)], (90, 110, 170), 1)


def _flower(pen: Pen) -> None:
    pen.line([(14, 14), (14, 26)], _LEAF, 2)
    pen.oval(18, 23, 4, 2, _LEAF)
    for index in range(6):
        turn = index * math.pi / 3
        pen.oval(14 + 6.2 * math.cos(turn), 10.4 + 6.2 * math.sin(turn), 4.2, 4.2, (150, 70, 230))
    pen.oval(14, 10.4, 4, 4, (255, 214, 40))


def _star(pen: Pen) -> None:
    pen.poly(_star_points(14, 14.6, 13.4, 6.4), (255, 224, 40))
    for x in (11.4, 16.6):
        pen.oval(x, 13.8, 1.2, 1.7, INK)
    pen.arc(14, 16, 2.2, 2, 20, 160, INK, 0.9)


def _drum(pen: Pen) -> None:
    pen.box(3.4, 10, 24.6, 25.4, (0, 176, 178), radius=4)
    zigzag = [(4, 22), (8, 13.6), (12, 22), (16, 13.6), (20, 22), (24, 13.6)]
    pen.line(zigzag, (255, 220, 60), 1.5)
    pen.oval(14, 10.4, 10.8, 4.6, (0, 110, 120))
    pen.oval(14, 9.8, 9.6, 3.6, (255, 246, 226))
    pen.line([(17, 9), (25, 2.6)], (170, 100, 40), 1.7)
    pen.line([(11, 9), (3, 2.6)], (170, 100, 40), 1.7)


def _carrot(pen: Pen) -> None:
    for tip in ((7.6, 3), (14, 1.4), (20.4, 3)):
        pen.line([(14, 9), tip], (60, 190, 60), 3.2)
    pen.poly([(7.4, 9.6), (20.6, 9.6), (14, 27)], (255, 122, 16))
    pen.oval(14, 10.4, 6.8, 3.8, (255, 122, 16))
    for x0, x1, y in ((8.8, 12, 13), (15, 18, 16), (11.6, 14, 19.4)):
        pen.line([(x0, y), (x1, y)], (206, 80, 0), 1)


def _robot(pen: Pen) -> None:
    steel, dark = (186, 200, 214), (96, 112, 134)
    pen.line([(14, 4), (14, 1.8)], dark, 1.2)
    pen.oval(14, 1.9, 1.7, 1.7, (240, 40, 40))
    pen.box(6, 4, 22, 14.6, steel, radius=2.4)
    pen.box(7.6, 16, 20.4, 23.6, dark, radius=1.6)
    for x in (4.6, 23.4):
        pen.line([(x, 17), (x, 21)], steel, 2.6)
    for x in (10.6, 17.4):
        pen.box(x - 2, 24, x + 2, 26.6, steel, radius=0.8)
        pen.oval(x, 8.4, 2.2, 2.2, (0, 210, 240), edge=0.4)
    pen.line([(10.6, 12.2), (17.4, 12.2)], INK, 1.1)
    pen.oval(14, 19.6, 2, 2, (250, 70, 60))


_DRAW = {
    "ball": _ball,
    "kite": _kite,
    "balloon": _balloon,
    "apple": _apple,
    "cake": _cake,
    "crown": _crown,
    "book": _book,
    "flower": _flower,
    "star": _star,
    "drum": _drum,
    "carrot": _carrot,
    "robot": _robot,
}


@cache
def thing(name: str, image_size: int) -> Image.Image:
    """Return the sprite of an object, with a dark outline that stands out from any background."""
    pen = Pen(SIZE, SIZE, image_size)
    _DRAW[name](pen)
    return pen.finish(outline=0.7)
