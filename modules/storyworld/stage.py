"""The canvas of a page, on which layouts place characters, objects and props."""

from __future__ import annotations

from PIL import Image

from modules.storyworld.characters import FEET, HEIGHT, character
from modules.storyworld.objects import thing
from modules.storyworld.page import Page
from modules.storyworld.pen import UNITS
from modules.storyworld.places import background
from modules.storyworld.props import prop

GROUND = 92  # The y coordinate of the characters' soles.


class Stage:
    """A page's picture while it is drawn; positions are the centres of sprites, in units."""

    def __init__(self, page: Page, image_size: int) -> None:
        self.page, self.size = page, image_size
        self.k = image_size / UNITS
        self.picture = background(page.place, page.weather, page.jitter[0] % 3, image_size).copy()

    def put(self, sprite: Image.Image, x: float, y: float) -> None:
        """Lay a sprite over the picture."""
        corner = round(x * self.k - sprite.width / 2), round(y * self.k - sprite.height / 2)
        self.picture.paste(sprite, corner, sprite)

    def prop(self, name: str, x: float, y: float) -> None:
        """Lay a prop over the picture."""
        self.put(prop(name, self.size), x, y)

    def thing(self, x: float, y: float) -> None:
        """Lay the page's object over the picture."""
        dx, dy = self.page.jitter[2:]
        self.put(self._object(), x + dx / 2, y + dy / 2)

    def actor(self, index: int, x: float, pose: str, face: str, flip: bool = False, feet: float = GROUND) -> None:
        """Draw a character of the cast with a shadow, or with a puddle of tears if it cries."""
        who = self.page.cast[index]
        x += self.page.jitter[index]
        if feet == GROUND:
            self.prop("puddle" if face == "cry" else "shadow", x, GROUND - 0.5)
        self.put(character(who.kind, who.color, pose, face, flip, self.size), x, feet - FEET + HEIGHT / 2)

    def bubble(self, x: float, y: float, dots: tuple[tuple[float, float], ...]) -> None:
        """Draw a thought bubble with the page's object; `dots` lead to the character."""
        for dot in dots:
            self.prop("dot", *dot)
        self.prop("bubble", x, y)
        self.put(self._object(), x, y)

    def _object(self) -> Image.Image:
        assert self.page.object is not None, f"the event {self.page.event} needs an object"
        return thing(self.page.object, self.size)
