"""Props: obstacles, tools, vehicles, and signs such as bubbles and hearts."""

from __future__ import annotations

from functools import cache

from PIL import Image

from modules.storyworld.pen import INK, Pen

_WOOD, _PALE, _IRON = (176, 112, 56), (226, 166, 96), (92, 98, 116)
_WATER, _GLASS, _GLOW = (40, 140, 240), (190, 232, 255), (255, 226, 110)
_WHITE = (255, 255, 255)


def _ladder(pen: Pen) -> None:
    for x in (3, 15):
        pen.line([(x, 2), (x, pen.pixels[1] * 4 / pen.k - 2)], _PALE, 2.6)
    for y in range(6, round(pen.pixels[1] * 4 / pen.k) - 3, 6):
        pen.line([(3, y), (15, y)], _PALE, 2)


def _plank(pen: Pen) -> None:
    pen.box(2, 3, 46, 11, _PALE, radius=2)
    for y in (5.6, 8.4):
        pen.line([(5, y), (43, y)], _WOOD, 0.7)
    for x in (6, 42):
        pen.oval(x, 7, 1, 1, INK)


def _key(pen: Pen) -> None:
    gold = (255, 190, 0)
    pen.oval(9, 10, 7, 7, gold)
    pen.oval(9, 10, 3, 3, INK)
    pen.line([(16, 10), (32, 10)], gold, 3.6)
    pen.line([(26, 11), (26, 17)], gold, 3)
    pen.line([(31, 11), (31, 16)], gold, 3)


def _lantern(pen: Pen) -> None:
    pen.arc(12, 6, 6, 5, 180, 360, _IRON, 1.6)
    pen.box(4, 6, 20, 10, (200, 60, 40), radius=1.6)
    pen.box(5.4, 10, 18.6, 24, _GLOW, radius=2)
    pen.oval(12, 18, 3.2, 4.6, (255, 140, 20))
    pen.box(3.4, 23.4, 20.6, 27, (200, 60, 40), radius=1.4)


def _umbrella(pen: Pen) -> None:
    pen.line([(28, 16), (28, 44)], (110, 70, 40), 1.8)
    pen.pie(28, 22, 27, 21, 180, 360, (255, 120, 30))
    for x, color in ((10, (255, 120, 30)), (28, _WHITE), (46, (255, 120, 30))):
        pen.pie(x, 22, 9, 5, 180, 360, (70, 50, 60))
        if color == _WHITE:
            pen.pie(28, 22, 9, 21, 180, 360, color)


def _sled(pen: Pen) -> None:
    pen.line([(4, 15), (60, 15), (66, 11), (66, 6)], _IRON, 2.6)
    for x in (14, 34, 52):
        pen.line([(x, 14), (x, 8)], _IRON, 2)
    pen.box(4, 4, 60, 9, (200, 110, 40), radius=2)


def _small_umbrella(pen: Pen) -> None:
    pen.line([(14, 12), (14, 25), (17, 26.4), (19, 24)], (110, 70, 40), 1.8)
    pen.pie(14, 14, 13, 12.4, 180, 360, (255, 120, 30))
    pen.pie(14, 14, 4.6, 12.4, 180, 360, _WHITE)


def _rock(pen: Pen) -> None:
    pen.poly([(7, 4), (27, 3), (31, 22), (34, 48), (1, 48), (4, 22)], (146, 116, 104))
    pen.poly([(20, 3), (27, 3), (31, 22), (34, 48), (24, 48)], (116, 88, 82))
    pen.box(5, 1.4, 29, 7, (120, 190, 80), radius=2.8)
    for points in ([(9, 16), (14, 19), (12, 24)], [(8, 34), (15, 36)], [(22, 28), (27, 31)]):
        pen.line(points, (90, 66, 64), 1)


def _river(pen: Pen) -> None:
    pen.poly([(16, 0), (38, 0), (26, 40), (0, 40)], (206, 178, 120))
    pen.poly([(18.4, 0), (35.6, 0), (23, 40), (3, 40)], _WATER)
    for x, y in ((22, 7), (17, 16), (19, 25), (9, 33)):
        pen.arc(x, y, 3.4, 2, 180, 360, _WHITE, 1)
        pen.arc(x + 6, y, 3.4, 2, 180, 360, _WHITE, 1)


def _closed_case(pen: Pen) -> None:
    pen.box(2, 10, 36, 44, _GLASS, radius=3)
    for y in (8, 40):
        pen.box(1, y, 37, y + 5, (190, 130, 60), radius=1.6, edge=0.5)
    pen.box(13.6, 37, 24.4, 46, (255, 190, 0), radius=2, edge=0.7)
    pen.oval(19, 40.4, 1.7, 1.7, INK)
    pen.line([(19, 41), (19, 43.6)], INK, 1.2)


def _open_case(pen: Pen) -> None:
    pen.poly([(3, 13), (30, 0.6), (33, 5), (6, 17)], (190, 130, 60))
    pen.box(2, 14, 36, 44, _GLASS, radius=3)
    pen.box(1, 40, 37, 45, (190, 130, 60), radius=1.6, edge=0.5)
    for x0, y0, x1, y1 in ((4, 21, 8, 17), (30, 17, 34, 21), (31, 32, 35, 29)):
        pen.line([(x0, y0), (x1, y1)], _WHITE, 1)


def _dark_cave(pen: Pen, inside: tuple[int, int, int] = (34, 24, 46)) -> None:
    pen.pie(23, 50, 22.6, 49, 180, 360, (126, 118, 130))
    for x, y, r in ((5, 42, 5), (41, 42, 5), (10, 18, 6), (36, 18, 6), (23, 6, 7)):
        pen.oval(x, y, r, r, (126, 118, 130))
    pen.oval(12, 12, 3.4, 2.2, (160, 152, 164))
    pen.box(6.4, 14, 39.6, 62, inside, radius=16)


def _lit_cave(pen: Pen) -> None:
    _dark_cave(pen, inside=(255, 196, 70))
    pen.oval(23, 35, 13, 14, (255, 230, 140))


def _car(pen: Pen) -> None:
    pen.line([(46, 11), (40, 2)], _IRON, 2.4)
    pen.box(2, 8, 59, 21, (255, 140, 50), radius=6)
    pen.box(4, 15, 57, 18, (255, 226, 190))
    pen.oval(54.6, 12.4, 2.6, 2.6, (255, 246, 160), edge=0.5)
    for x in (15, 45):
        pen.oval(x, 22, 6, 6, (50, 46, 58))
        pen.oval(x, 22, 2.6, 2.6, (220, 220, 230))


def _boat(pen: Pen) -> None:
    pen.poly([(2, 34), (62, 34), (54, 48), (10, 48)], _WOOD)
    pen.box(1, 32, 63, 36, _PALE, radius=2)
    pen.line([(52, 2), (52, 33)], (110, 70, 40), 2)
    pen.poly([(53.4, 2), (53.4, 29), (67, 29)], _WHITE)
    pen.poly([(51, 6), (51, 28), (41, 28)], (236, 240, 255))


def _rocket(pen: Pen) -> None:
    pen.poly([(12, 7), (0, 12), (12, 17)], (255, 170, 20))
    pen.poly([(12, 9), (5, 12), (12, 15)], (255, 240, 120))
    pen.poly([(14, 12), (9, 1), (24, 6)], (0, 176, 178))
    pen.poly([(14, 12), (9, 23), (24, 18)], (0, 176, 178))
    pen.box(10, 4, 52, 20, (226, 232, 242), radius=5)
    pen.poly([(48, 4), (66, 12), (48, 20)], (0, 176, 178))
    for x in (22, 34, 45):
        pen.oval(x, 14, 2.6, 2.6, (90, 190, 255), edge=0.6)


def _sea(pen: Pen) -> None:
    pen.box(-4, 4, 100, 30, _WATER)
    for x in range(-2, 100, 12):
        pen.pie(x, 5, 7, 4, 180, 360, _WATER)
        pen.arc(x, 12, 4, 2, 180, 360, _WHITE, 1)


def _bubble(pen: Pen) -> None:
    for x, y, rx, ry in ((11, 18, 9, 11), (31, 18, 9, 11), (21, 11, 12, 9), (21, 26, 13, 9), (21, 18, 15, 13)):
        pen.oval(x, y, rx + 0.8, ry + 0.8, (120, 130, 160))
    for x, y, rx, ry in ((11, 18, 9, 11), (31, 18, 9, 11), (21, 11, 12, 9), (21, 26, 13, 9), (21, 18, 15, 13)):
        pen.oval(x, y, rx, ry, _WHITE)


def _dot(pen: Pen) -> None:
    pen.oval(4, 4, 3.3, 3.3, (120, 130, 160))
    pen.oval(4, 4, 2.6, 2.6, _WHITE)


def _magnifier(pen: Pen) -> None:
    pen.line([(15, 16), (22, 24)], (200, 60, 40), 4.4)
    pen.oval(10, 10, 9, 9, (70, 74, 100))
    pen.oval(10, 10, 6.6, 6.6, (200, 240, 255))
    pen.arc(10, 10, 4.4, 4.4, 190, 270, _WHITE, 1.4)


def _heart(pen: Pen) -> None:
    red = (255, 60, 110)
    pen.oval(5.4, 5.6, 4, 4, red)
    pen.oval(12.6, 5.6, 4, 4, red)
    pen.poly([(1.8, 7.4), (16.2, 7.4), (9, 16)], red)
    pen.oval(4.8, 4.6, 1.2, 1.2, (255, 190, 210))


def _zzz(pen: Pen) -> None:
    for x, y, size in ((3, 22, 6), (11, 12, 8), (21, 2, 10)):
        corners = [(x, y), (x + size, y), (x, y + size), (x + size, y + size)]
        pen.line(corners, INK, 3)
        pen.line(corners, _WHITE, 1.6)


def _swoosh(pen: Pen) -> None:
    for y, start in ((5, 8), (12, 2), (19, 8)):
        pen.line([(start, y), (24, y - 2)], (110, 130, 170), 2.4)
        pen.line([(start, y), (24, y - 2)], _WHITE, 1.4)


def _shine(pen: Pen) -> None:
    for points in (
        ((3, 10), (9, 13)),
        ((8, 1), (13, 8)),
        ((21, 0.6), (21, 7)),
        ((34, 1), (29, 8)),
        ((39, 10), (33, 13)),
    ):
        pen.line(list(points), (150, 100, 0), 3)
        pen.line(list(points), (255, 236, 90), 2)


def _hops(pen: Pen) -> None:
    pen.arc(9, 9, 7, 7, 110, 250, _WHITE, 1.8)
    pen.arc(31, 9, 7, 7, 290, 70, _WHITE, 1.8)


def _footprints(pen: Pen) -> None:
    for x, y in ((3, 7), (11, 3), (19, 7), (27, 3)):
        pen.oval(x, y, 2.6, 1.5, (90, 64, 60, 170))


def _shadow(pen: Pen) -> None:
    pen.oval(17, 4, 16, 3.4, (30, 24, 50, 80))


def _puddle(pen: Pen) -> None:
    pen.oval(20, 4.5, 19, 4, (90, 180, 255, 235))
    for x, y in ((4, 3), (36, 3)):
        pen.oval(x, y, 3, 2, (160, 216, 255))


def _glow(pen: Pen) -> None:
    # Later ovals replace earlier ones, alpha and all, so the rings grow brighter towards the middle.
    for radius, alpha in ((26, 60), (21, 110), (16, 170)):
        pen.oval(27, 27, radius, radius, (*_GLOW, alpha))


_SHAPES = {  # name: how it is drawn, width, height, outline
    "ladder": (_ladder, 18, 52, 0.6),
    "small ladder": (_ladder, 18, 30, 0.6),
    "plank": (_plank, 48, 14, 0.6),
    "key": (_key, 35, 20, 0.7),
    "lantern": (_lantern, 24, 29, 0.7),
    "umbrella": (_umbrella, 56, 46, 0.6),
    "small umbrella": (_small_umbrella, 28, 28, 0.7),
    "sled": (_sled, 70, 18, 0.6),
    "rock": (_rock, 35, 49, 0.6),
    "river": (_river, 38, 40, 0),
    "box": (_closed_case, 38, 48, 0.5),
    "open box": (_open_case, 38, 48, 0.5),
    "cave": (_dark_cave, 46, 51, 0.6),
    "lit cave": (_lit_cave, 46, 51, 0.6),
    "car": (_car, 61, 30, 0.6),
    "boat": (_boat, 68, 50, 0.6),
    "rocket": (_rocket, 67, 25, 0.6),
    "sea": (_sea, 96, 20, 0),
    "bubble": (_bubble, 42, 36, 0),
    "dot": (_dot, 8, 8, 0),
    "magnifier": (_magnifier, 26, 28, 0.6),
    "heart": (_heart, 18, 18, 0.7),
    "zzz": (_zzz, 34, 32, 0),
    "swoosh": (_swoosh, 26, 24, 0),
    "shine": (_shine, 42, 16, 0),
    "hops": (_hops, 40, 18, 0),
    "footprints": (_footprints, 32, 10, 0),
    "shadow": (_shadow, 34, 8, 0),
    "glow": (_glow, 54, 54, 0),
    "puddle": (_puddle, 40, 9, 0),
}


@cache
def prop(name: str, image_size: int) -> Image.Image:
    """Return the sprite of a prop."""
    paint, width, height, outline = _SHAPES[name]
    pen = Pen(width, height, image_size)
    paint(pen)
    return pen.finish(outline=outline)
