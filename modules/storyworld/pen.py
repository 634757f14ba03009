"""Draw sprites with soft edges: at four times the size, with an outline, then reduced."""

from __future__ import annotations

from collections.abc import Sequence

from PIL import Image, ImageDraw, ImageFilter

Color = tuple[int, int, int] | tuple[int, int, int, int]
Point = tuple[float, float]
UNITS = 96  # Pictures are laid out on a square of 96 units, whatever their size in pixels.
INK = (58, 40, 52)
_OVERSAMPLE = 4


def shade(color: Color, factor: float) -> Color:
    """Return the colour darker (below 1) or lighter (above 1)."""
    start, scale = (0, factor) if factor <= 1 else (255, 2 - factor)
    red, green, blue = (round(start - (start - channel) * scale) for channel in color[:3])
    return red, green, blue


class Pen:
    """A transparent canvas of `width` x `height` units; all lengths are units."""

    def __init__(self, width: float, height: float, image_size: int) -> None:
        self.pixels = max(1, round(width * image_size / UNITS)), max(1, round(height * image_size / UNITS))
        self.k = image_size / UNITS * _OVERSAMPLE
        self.image = Image.new("RGBA", (self.pixels[0] * _OVERSAMPLE, self.pixels[1] * _OVERSAMPLE))
        self.draw = ImageDraw.Draw(self.image)

    def _scaled(self, *values: float) -> tuple[float, ...]:
        return tuple(value * self.k for value in values)

    def oval(self, x: float, y: float, rx: float, ry: float, fill: Color, edge: float = 0) -> None:
        """Draw an ellipse around (x, y), with a contour of `edge` units."""
        if edge:
            self.draw.ellipse(self._scaled(x - rx - edge, y - ry - edge, x + rx + edge, y + ry + edge), fill=INK)
        self.draw.ellipse(self._scaled(x - rx, y - ry, x + rx, y + ry), fill=fill)

    def box(self, x0: float, y0: float, x1: float, y1: float, fill: Color, radius: float = 0, edge: float = 0) -> None:
        """Draw a rectangle with rounded corners, with a contour of `edge` units."""
        if edge:
            outer = self._scaled(x0 - edge, y0 - edge, x1 + edge, y1 + edge)
            self.draw.rounded_rectangle(outer, (radius + edge) * self.k, fill=INK)
        self.draw.rounded_rectangle(self._scaled(x0, y0, x1, y1), radius * self.k, fill=fill)

    def poly(self, points: Sequence[Point], fill: Color) -> None:
        """Draw a polygon."""
        self.draw.polygon([self._scaled(*point) for point in points], fill=fill)

    def line(self, points: Sequence[Point], fill: Color, width: float) -> None:
        """Draw a line with round joints and ends."""
        scaled = [self._scaled(*point) for point in points]
        self.draw.line(scaled, fill=fill, width=max(1, round(width * self.k)), joint="curve")
        for x, y in points:
            self.draw.ellipse(self._scaled(x - width / 2, y - width / 2, x + width / 2, y + width / 2), fill=fill)

    def arc(
        self, x: float, y: float, rx: float, ry: float, start: float, end: float, fill: Color, width: float
    ) -> None:
        """Draw a part of an ellipse's rim; degrees run clockwise from three o'clock."""
        box = self._scaled(x - rx, y - ry, x + rx, y + ry)
        self.draw.arc(box, start, end, fill=fill, width=max(1, round(width * self.k)))

    def pie(self, x: float, y: float, rx: float, ry: float, start: float, end: float, fill: Color) -> None:
        """Draw a filled sector of an ellipse."""
        self.draw.pieslice(self._scaled(x - rx, y - ry, x + rx, y + ry), start, end, fill=fill)

    def finish(self, outline: float = 0, color: Color = INK) -> Image.Image:
        """Return the drawing at its size in pixels, with an outline of about `outline` units around all of it."""
        image = self.image
        if outline:
            radius = outline * self.k
            # A blurred mask cut low grows evenly in all directions; a maximum filter would leave square corners.
            grown = (
                image.getchannel("A")
                .filter(ImageFilter.GaussianBlur(radius))
                .point(lambda alpha: 255 if alpha > 36 else 0)
            )
            under = Image.new("RGBA", image.size, (*color[:3], 0))
            under.putalpha(grown)
            image = Image.alpha_composite(under, image)
        return image.resize(self.pixels, Image.Resampling.LANCZOS)
