"""Heads and faces. A face is one of: happy, smile, wonder, shock, cry, sleep."""

from __future__ import annotations

from modules.storyworld.pen import INK, Color, Pen, shade

_PINK, _WHITE, _TEAR = (255, 140, 150), (255, 255, 255), (70, 170, 255)
_MOUTH = (150, 30, 50)
_RX, _RY = 14.5, 12.6


def _eyes(pen: Pen, x: float, y: float, face: str, apart: float = 5.6, iris: Color | None = None) -> None:
    for side in (-1, 1):
        ex = x + side * apart + 0.5
        if face == "sleep":
            pen.arc(ex, y - 0.8, 2.8, 2.4, 10, 170, INK, 1.2)
            continue
        if iris:
            pen.oval(ex, y, 3.2, 3.5, iris, edge=0.4)
        pen.oval(ex, y, 2.3, 3.1, INK)
        pen.oval(ex + 0.7, y - 1.2 if face != "cry" else y - 0.6, 1, 1.1, _WHITE)
        if face == "cry":
            pen.line([(ex - 2.6 * side, y - 5.4), (ex + 2.2 * side, y - 3.8)], INK, 1.1)
        elif face in ("wonder", "shock"):
            pen.arc(ex, y - 3, 2.8, 2.6, 215, 325, INK, 0.9)


def _tears(pen: Pen, x: float, y: float, apart: float = 5.6) -> None:
    for side in (-1, 1):
        ex = x + side * (apart + 3)
        pen.poly([(ex - 2, y + 4.6), (ex + 2, y + 4.6), (ex, y)], _TEAR)
        pen.oval(ex, y + 5.4, 2.3, 2.7, _TEAR)
        pen.oval(ex - 0.7, y + 4.8, 0.7, 0.8, _WHITE)


def _mouth(pen: Pen, x: float, y: float, face: str, wide: float = 3.4) -> None:
    if face == "happy":
        pen.pie(x, y - 1, wide + 0.6, 4.4, 0, 180, _MOUTH)
        pen.oval(x, y + 1.9, wide * 0.5, 1.1, _PINK)
    elif face in ("smile", "sleep"):
        pen.arc(x, y - 1.6, wide, 2.8, 20, 160, INK, 1.1)
    elif face == "wonder":
        pen.oval(x + 0.6, y + 0.6, 1.4, 1.5, _MOUTH)
    elif face == "shock":
        pen.oval(x, y + 1, 2.4, 2.8, _MOUTH)
    else:
        pen.arc(x, y + 2.6, wide, 3, 205, 335, INK, 1.2)


def _cheeks(pen: Pen, x: float, y: float) -> None:
    for side in (-1, 1):
        pen.oval(x + side * 9.6, y, 2.3, 1.6, _PINK)


def _round_head(pen: Pen, x: float, y: float, fur: Color) -> None:
    pen.oval(x, y, _RX, _RY, fur, edge=0.7)


def _pointed_ears(pen: Pen, x: float, y: float, outside: Color, inside: Color) -> None:
    for side in (-1, 1):
        pen.poly([(x + side * 3, y - 8), (x + side * 14.2, y - 3), (x + side * 13, y - 21.5)], INK)
        pen.poly([(x + side * 4, y - 8), (x + side * 13.4, y - 3), (x + side * 12.4, y - 20)], outside)
        pen.poly([(x + side * 7, y - 10), (x + side * 12, y - 7), (x + side * 11.6, y - 16)], inside)


def _girl(pen: Pen, x: float, y: float, face: str, fur: Color) -> None:
    hair, bow = (122, 66, 30), (255, 250, 235)
    for side in (-1, 1):
        pen.oval(x + side * 16, y + 6, 4.6, 8, hair, edge=0.7)
    pen.oval(x, y - 2, _RX + 1.4, _RY + 1.6, hair, edge=0.7)
    pen.oval(x, y + 1.6, _RX - 1.4, _RY - 1.8, fur)
    pen.pie(x - 2, y - 4.2, 12.6, 8.6, 150, 372, hair)
    for side in (-1, 1):
        pen.poly([(x + side * 15, y - 2), (x + side * 20, y - 5.4), (x + side * 20, y + 1.2)], bow)
        pen.poly([(x + side * 15, y - 2), (x + side * 11, y - 5), (x + side * 11, y + 0.8)], bow)
    _finish(pen, x, y + 3, face)


def _boy(pen: Pen, x: float, y: float, face: str, fur: Color) -> None:
    hair = (40, 26, 26)
    for side in (-1, 1):
        pen.oval(x + side * 14, y + 2, 2.8, 3.2, fur, edge=0.7)
    _round_head(pen, x, y, fur)
    for dx, dy, r in ((-12, -5, 4.6), (-8, -10, 5.4), (-2, -12.4, 5.6), (5, -12, 5.4), (10, -8.4, 5), (13, -3.6, 3.8)):
        pen.oval(x + dx, y + dy, r, r, hair)
    pen.pie(x, y - 4, 13.4, 9, 180, 360, hair)
    _finish(pen, x, y + 2.4, face, iris=_WHITE)


def _fox(pen: Pen, x: float, y: float, face: str, fur: Color) -> None:
    _pointed_ears(pen, x, y, fur, (70, 40, 40))
    _round_head(pen, x, y, fur)
    for side in (-1, 1):
        pen.oval(x + side * 7, y + 5.4, 7, 5.6, (255, 250, 240))
    pen.poly([(x - 4, y), (x + 4, y), (x, y + 7)], fur)
    _eyes(pen, x, y - 0.6, face)
    pen.oval(x, y + 4.6, 2.2, 1.7, INK)
    _mouth(pen, x, y + 8.4, face, 2.8)
    if face == "cry":
        _tears(pen, x, y)


def _rabbit(pen: Pen, x: float, y: float, face: str, fur: Color) -> None:
    for side in (-1, 1):
        pen.oval(x + side * 6.2, y - 15.4, 4, 10.6, fur, edge=0.7)
        pen.oval(x + side * 6.2, y - 14.4, 2, 8, (255, 160, 180))
    _round_head(pen, x, y, fur)
    _cheeks(pen, x, y + 4.6)
    _eyes(pen, x, y, face)
    pen.oval(x, y + 4.2, 1.7, 1.3, (255, 110, 140))
    _mouth(pen, x, y + 7, face, 2.8)
    if face in ("happy", "smile"):
        pen.box(x - 1.5, y + 6.6, x + 1.5, y + 9.4, _WHITE, radius=0.6, edge=0.3)
    if face == "cry":
        _tears(pen, x, y)


def _bear(pen: Pen, x: float, y: float, face: str, fur: Color) -> None:
    for side in (-1, 1):
        pen.oval(x + side * 10.8, y - 10, 5, 5, fur, edge=0.7)
        pen.oval(x + side * 10.8, y - 10, 2.7, 2.7, (236, 190, 140))
    _round_head(pen, x, y, fur)
    pen.oval(x, y + 5.4, 6.4, 5.2, (240, 206, 160))
    _eyes(pen, x, y - 1.4, face)
    pen.oval(x, y + 3, 2.6, 1.9, INK)
    _mouth(pen, x, y + 7, face, 2.8)
    if face == "cry":
        _tears(pen, x, y)


def _frog(pen: Pen, x: float, y: float, face: str, fur: Color) -> None:
    for side in (-1, 1):
        pen.oval(x + side * 8, y - 9.6, 5.8, 5.8, fur, edge=0.7)
        pen.oval(x + side * 8, y - 10, 4.3, 4.3, _WHITE if face != "sleep" else shade(fur, 0.9))
    pen.oval(x, y + 1, _RX + 0.8, _RY - 1.4, fur, edge=0.7)
    for side in (-1, 1):
        pen.oval(x + side * 8, y - 7.4, 5, 4, fur)
    pen.oval(x, y + 6.4, 10, 5, shade(fur, 1.5))
    for side in (-1, 1):
        pen.oval(x + side * 8, y - 10, 4.3, 4.3, _WHITE if face != "sleep" else shade(fur, 0.9))
    _eyes(pen, x, y - 10, face, apart=7.8)
    _cheeks(pen, x, y + 2)
    _mouth(pen, x, y + 4, face, 6)
    if face == "cry":
        _tears(pen, x, y - 5, apart=7)


def _cat(pen: Pen, x: float, y: float, face: str, fur: Color) -> None:
    _pointed_ears(pen, x, y, fur, (255, 150, 170))
    _round_head(pen, x, y, fur)
    for dx in (-4, 0, 4):
        pen.line([(x + dx, y - 11), (x + dx * 0.8, y - 7.4)], shade(fur, 0.6), 1.4)
    pen.oval(x, y + 6, 6.6, 4.8, (244, 240, 244))
    _eyes(pen, x, y - 0.8, face, iris=(190, 236, 80))
    pen.poly([(x - 1.9, y + 3.2), (x + 1.9, y + 3.2), (x, y + 5.2)], (255, 120, 150))
    for side in (-1, 1):
        for dy in (4, 6.4):
            pen.line([(x + side * 8, y + dy + 0.6), (x + side * 16, y + dy)], (244, 240, 244), 0.6)
    _mouth(pen, x, y + 7.4, face, 2.8)
    if face == "cry":
        _tears(pen, x, y)


def _pig(pen: Pen, x: float, y: float, face: str, fur: Color) -> None:
    dark = (240, 120, 145)
    _round_head(pen, x, y, fur)
    for side in (-1, 1):
        pen.poly([(x + side * 3.6, y - 10.6), (x + side * 13.6, y - 7), (x + side * 13.4, y - 16.4)], INK)
        pen.poly([(x + side * 5, y - 10.8), (x + side * 12.8, y - 8), (x + side * 12.6, y - 15)], dark)
    _cheeks(pen, x, y + 4)
    _eyes(pen, x, y - 2, face)
    pen.oval(x, y + 3.4, 5, 3.6, dark, edge=0.5)
    for side in (-1, 1):
        pen.oval(x + side * 1.9, y + 3.4, 0.9, 1.5, (150, 50, 80))
    _mouth(pen, x, y + 8.6, face, 3)
    if face == "cry":
        _tears(pen, x, y - 1)


def _penguin(pen: Pen, x: float, y: float, face: str, fur: Color) -> None:
    _round_head(pen, x, y, fur)
    for side in (-1, 1):
        pen.oval(x + side * 5.4, y + 0.6, 6.6, 7.4, _WHITE)
    pen.oval(x, y + 5.6, 9.4, 6, _WHITE)
    _cheeks(pen, x, y + 5)
    _eyes(pen, x, y - 0.4, face)
    beak = (255, 160, 30)
    if face in ("happy", "shock"):
        pen.poly([(x - 3, y + 5), (x + 3, y + 5), (x, y + 10.4)], (200, 90, 20))
    pen.poly([(x - 4.4, y + 3.2), (x + 4.4, y + 3.2), (x, y + 7.6)], beak)
    if face == "cry":
        _tears(pen, x, y)


def _elephant(pen: Pen, x: float, y: float, face: str, fur: Color) -> None:
    for side in (-1, 1):
        pen.oval(x + side * 14, y - 1, 8, 9.6, fur, edge=0.7)
        pen.oval(x + side * 14.6, y - 0.6, 5, 6.6, (255, 182, 200))
    pen.oval(x, y, _RX - 2.4, _RY, fur, edge=0.7)
    _eyes(pen, x, y - 1.6, face, apart=5)
    _cheeks(pen, x, y + 3.6)
    _mouth(pen, x - 4.6, y + 6.6, face, 2.4)
    trunk = [(x, y + 2), (x + 0.6, y + 8), (x + 3.4, y + 11.6), (x + 7, y + 10)]
    pen.line(trunk, INK, 6.2)
    pen.line(trunk, shade(fur, 1.12), 5)
    for dy in (5, 7.6):
        pen.line([(x - 1.6, y + dy), (x + 2, y + dy)], shade(fur, 0.8), 0.7)
    if face == "cry":
        _tears(pen, x, y)


def _finish(pen: Pen, x: float, y: float, face: str, iris: Color | None = None) -> None:
    """Draw the face of girl and boy."""
    _cheeks(pen, x, y + 3.4)
    _eyes(pen, x, y - 0.6, face, iris=iris)
    _mouth(pen, x, y + 5, face)
    if face == "cry":
        _tears(pen, x, y)


_HEADS = {
    "girl": _girl,
    "boy": _boy,
    "fox": _fox,
    "rabbit": _rabbit,
    "bear": _bear,
    "frog": _frog,
    "cat": _cat,
    "pig": _pig,
    "penguin": _penguin,
    "elephant": _elephant,
}


def draw_head(pen: Pen, kind: str, x: float, y: float, face: str, fur: Color) -> None:
    """Draw the head of a kind around (x, y)."""
    _HEADS[kind](pen, x, y, face, fur)
