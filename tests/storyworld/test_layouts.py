"""Layouts of pages: nothing covers a face."""

import numpy as np
import pytest
from PIL import Image, ImageDraw

from modules.storyworld import StoryWorld
from modules.storyworld.characters import FEET
from modules.storyworld.scene import draw
from modules.storyworld.stage import GROUND, Stage

WORLD = StoryWorld(600, seed=6)
PAGES = [page for index in range(len(WORLD)) for _, page in WORLD._generate(index)[1]]


class Faces:
    """The faces on a page and what is laid over them later."""

    def __init__(self, size: int) -> None:
        self.size, self.masks = size, list[np.ndarray]()
        self.covered = 0.0

    def add(self, x: float, y: float) -> None:
        face = Image.new("L", (self.size, self.size))
        ImageDraw.Draw(face).ellipse((x - 10, y - 8, x + 10, y + 11), fill=255)
        self.masks.append(np.asarray(face) > 0)

    def cover(self, sprite: Image.Image, x: float, y: float) -> None:
        layer = Image.new("L", (self.size, self.size))
        layer.paste(sprite.getchannel("A"), (round(x - sprite.width / 2), round(y - sprite.height / 2)))
        solid = np.asarray(layer) > 127
        for face in self.masks:
            self.covered = max(self.covered, (solid & face).sum() / face.sum())


@pytest.fixture
def faces(monkeypatch):
    seen, put, actor = Faces(96), Stage.put, Stage.actor

    def watched_put(stage, sprite, x, y):
        seen.cover(sprite, x, y)
        put(stage, sprite, x, y)

    def watched_actor(stage, index, x, pose, face, flip=False, feet=GROUND):
        actor(stage, index, x, pose, face, flip, feet)
        seen.add(x + stage.page.jitter[index], feet - FEET + 27.5)

    monkeypatch.setattr(Stage, "put", watched_put)
    monkeypatch.setattr(Stage, "actor", watched_actor)
    return seen


def test_nothing_covers_a_face(faces):
    covered = dict[tuple[object, ...], float]()
    for page in PAGES:
        faces.masks.clear()
        faces.covered = 0.0
        draw(page, 96)
        key = page.event, len(page.cast), page.tool, page.obstacle, page.vehicle
        covered[key] = max(faces.covered, covered.get(key, 0.0))
    assert len(covered) > 30
    assert {key: share for key, share in covered.items() if share > 0.03} == {}
