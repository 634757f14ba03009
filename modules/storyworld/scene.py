"""Draw the picture of a page: one layout for each event."""

from __future__ import annotations

import random
from collections.abc import Callable
from functools import cache

from PIL import Image

from modules.storyworld.characters import sleeper
from modules.storyworld.page import Page
from modules.storyworld.pen import Pen
from modules.storyworld.stage import GROUND, Stage

_CONFETTI = ((240, 50, 70), (40, 130, 250), (255, 210, 40), (50, 200, 100), (180, 80, 230), (255, 130, 200))


@cache
def _confetti(variant: int, image_size: int) -> Image.Image:
    pen, rng = Pen(96, 96, image_size), random.Random(variant)
    for column in range(8):
        for row in range(4):
            x, y = column * 12.6 + rng.uniform(1, 9), row * 12 + rng.uniform(0, 9)
            pen.line([(x, y), (x + rng.uniform(-2, 2), y + 2.2)], _CONFETTI[rng.randrange(6)], 2.2)
    return pen.finish()


def _want(stage: Stage) -> None:
    if len(stage.page.cast) > 1:
        stage.actor(0, 20, "stand", "smile")
        stage.actor(1, 76, "stand", "smile", flip=True)
        stage.bubble(48, 19, ((36, 36), (33, 40)))
        return
    stage.actor(0, 27, "stand", "smile")
    stage.bubble(70, 20, ((51, 35), (46, 40)))


def _friend_want(stage: Stage) -> None:
    stage.actor(0, 22, "stand", "smile")
    stage.actor(1, 74, "stand", "wonder", flip=True)
    stage.bubble(48, 19, ((59, 36), (62, 40)))


def _walk(stage: Stage) -> None:
    if len(stage.page.cast) > 1:
        stage.actor(1, 26, "walk", "happy")
        stage.actor(0, 66, "walk", "happy")
        return
    stage.prop("footprints", 22, 91)
    stage.actor(0, 52, "walk", "happy")


def _travel(stage: Stage) -> None:
    if stage.page.vehicle == "car":
        stage.actor(0, 44, "wave", "happy", feet=85)
        stage.prop("car", 48, 81)
    elif stage.page.vehicle == "boat":
        stage.actor(0, 38, "wave", "happy", feet=89)
        stage.prop("boat", 50, 70)
        stage.prop("sea", 48, 94)
    else:
        stage.actor(0, 46, "wave", "happy", feet=77)
        stage.prop("rocket", 48, 76)


def _search(stage: Stage) -> None:
    if len(stage.page.cast) == 1:
        stage.actor(0, 27, "reach", "wonder")
        stage.prop("magnifier", 52, 74)
        stage.bubble(70, 20, ((51, 35), (46, 40)))
        return
    stage.actor(0, 20, "reach", "wonder")
    stage.actor(1, 76, "stand", "wonder", flip=True)
    stage.prop("magnifier", 46, 76)
    stage.bubble(48, 19, ((36, 36), (33, 40)))


_BARRIERS = {  # obstacle: the centres of its sprite and of the object
    "rock": ((76, 68), (76, 31)),
    "river": ((58, 76), (83, 74)),
    "box": ((74, 69), (74, 70)),
    "cave": ((72, 67), (72, 76)),
}


def _blocked(stage: Stage) -> None:
    obstacle = stage.page.obstacle
    assert obstacle is not None, "a blocked page needs an obstacle"
    barrier, treasure = _BARRIERS[obstacle]
    stage.prop(obstacle, *barrier)
    stage.actor(0, 24, "stand", "cry")
    stage.thing(*treasure)


def _climb(stage: Stage) -> None:
    stage.prop("rock", 80, 68)
    stage.prop("ladder", 61, 66)
    stage.actor(1, 19, "wave", "happy")
    stage.actor(0, 57, "wave", "happy", feet=76)
    stage.thing(81, 30)


def _cross(stage: Stage) -> None:
    stage.prop("river", 58, 76)
    stage.prop("plank", 57, 85)
    stage.actor(1, 15, "wave", "happy")
    stage.actor(0, 52, "walk", "happy", feet=84)
    stage.thing(83, 72)


def _unlock(stage: Stage) -> None:
    stage.prop("open box", 77, 69)
    stage.actor(1, 14, "wave", "happy")
    stage.actor(0, 50, "reach", "happy")
    stage.prop("key", 68, 83)
    stage.thing(78, 33)


def _light_cave(stage: Stage) -> None:
    stage.prop("lit cave", 75, 67)
    stage.prop("glow", 64, 25)
    stage.actor(1, 14, "wave", "happy")
    stage.actor(0, 50, "reach", "happy")
    stage.thing(79, 76)
    stage.prop("lantern", 64, 25)


def _shelter(stage: Stage) -> None:
    stage.actor(0, 27, "reach", "happy")
    stage.actor(1, 69, "reach", "happy", flip=True)
    stage.prop("umbrella", 48, 28)
    stage.thing(48, 78)


def _slide(stage: Stage) -> None:
    stage.actor(0, 19, "up", "happy", feet=86)
    stage.actor(1, 56, "up", "happy", feet=86)
    stage.prop("sled", 45, 87)
    stage.thing(83, 68)


def _light_way(stage: Stage) -> None:
    stage.prop("glow", 48, 44)
    stage.actor(0, 22, "reach", "happy")
    stage.actor(1, 74, "reach", "happy", flip=True)
    stage.prop("lantern", 48, 46)
    stage.thing(48, 79)


_USES: dict[tuple[str | None, str | None], Callable[[Stage], None]] = {  # by obstacle and tool
    ("rock", "ladder"): _climb,
    ("river", "plank"): _cross,
    ("box", "key"): _unlock,
    ("cave", "lantern"): _light_cave,
    (None, "umbrella"): _shelter,
    (None, "sled"): _slide,
    (None, "lantern"): _light_way,
}


def _use(stage: Stage) -> None:
    _USES[stage.page.obstacle, stage.page.tool](stage)


_HELD = {  # tool: the sprite that the friend holds, and its centre
    "ladder": ("small ladder", 48, 72),
    "plank": ("plank", 48, 84),
    "key": ("key", 48, 70),
    "lantern": ("lantern", 48, 70),
    "umbrella": ("small umbrella", 48, 70),
    "sled": ("sled", 48, 87),
}


def _meet(stage: Stage) -> None:
    held = stage.page.tool or stage.page.object
    stage.actor(0, 21, "wave", "happy")
    stage.actor(1, 75, "reach" if held else "wave", "happy", flip=True)
    stage.prop("heart", 48, 30)
    if stage.page.tool:
        stage.prop(*_HELD[stage.page.tool])
    elif stage.page.object:
        stage.thing(50, 72)


def _give(stage: Stage) -> None:
    giver = 0 if stage.page.event == "give" else 1
    stage.actor(0, 21, "reach" if giver == 0 else "up", "happy")
    stage.actor(1, 75, "reach" if giver == 1 else "up", "happy", flip=True)
    stage.thing(48, 69)
    stage.prop("heart", 66 if giver == 0 else 30, 24)


def _celebrate(stage: Stage) -> None:
    stage.put(_confetti(stage.page.jitter[1] % 4, stage.size), 48, 48)
    if len(stage.page.cast) == 1:
        stage.actor(0, 32, "up", "happy")
        stage.thing(71, 52)
        return
    stage.actor(0, 19, "up", "happy")
    stage.actor(1, 77, "up", "happy", flip=True)
    stage.thing(48, 46)


def _sleep(stage: Stage) -> None:
    who = stage.page.cast[0]
    stage.put(sleeper(who.kind, who.color, stage.size), 38 + stage.page.jitter[0] / 2, 69)
    stage.prop("zzz", 62, 28)
    stage.thing(83, 79)


def _play(stage: Stage) -> None:
    if len(stage.page.cast) == 1:
        stage.actor(0, 30, "up", "happy")
        x, y = 70, 52
    else:
        stage.actor(0, 18, "up", "happy")
        stage.actor(1, 78, "up", "happy", flip=True)
        x, y = 48, 34
    stage.prop("shadow", x, GROUND - 2)
    stage.prop("hops", x, y + 22)
    stage.thing(x, y)


def _lose(stage: Stage) -> None:
    if len(stage.page.cast) > 1:
        stage.actor(0, 20, "reach", "shock")
        stage.actor(1, 57, "stand", "wonder")
        stage.prop("swoosh", 54, 24)
        stage.thing(79, 24)
        return
    stage.actor(0, 25, "reach", "shock")
    stage.prop("swoosh", 52, 40)
    stage.thing(78, 32)


def _cry(stage: Stage) -> None:
    stage.actor(0, 48, "stand", "cry")


def _trouble(stage: Stage) -> None:
    if len(stage.page.cast) > 1:
        stage.actor(0, 20, "stand", "cry")
        stage.actor(1, 76, "stand", "wonder", flip=True)
        stage.thing(48, 78)
        return
    stage.actor(0, 28, "stand", "cry")
    stage.thing(71, 78)


def _friend_cry(stage: Stage) -> None:
    stage.actor(0, 22, "stand", "wonder")
    stage.actor(1, 73, "stand", "cry", flip=True)


def _find(stage: Stage) -> None:
    if len(stage.page.cast) == 1:
        stage.actor(0, 27, "reach", "happy")
        x = 69
    else:
        stage.actor(0, 18, "reach", "happy")
        stage.actor(1, 78, "wave", "happy", flip=True)
        x = 48
    stage.thing(x, 77)
    stage.prop("shine", x, 56)


_LAYOUTS: dict[str, Callable[[Stage], None]] = {
    "want": _want,
    "friend_want": _friend_want,
    "walk": _walk,
    "travel": _travel,
    "seek": _search,
    "search": _search,
    "blocked": _blocked,
    "use": _use,
    "meet": _meet,
    "give": _give,
    "give_back": _give,
    "receive": _give,
    "share": _play,
    "celebrate": _celebrate,
    "return": _celebrate,
    "sleep": _sleep,
    "play": _play,
    "lose": _lose,
    "cry": _cry,
    "trouble": _trouble,
    "friend_cry": _friend_cry,
    "find": _find,
    "discover": _find,
}


def draw(page: Page, image_size: int) -> Image.Image:
    """Return the picture of a page."""
    stage = Stage(page, image_size)
    _LAYOUTS[page.event](stage)
    return stage.picture
