"""Enlarges small pictures for paper and large screens: doubled step by step, the edges sharpened after each step.

The sharpening is a shock filter: on either side of an edge (the zero crossing of the second derivative across it) the
picture takes on the darker or the lighter of its neighbours, so that contours become crisp, without ringing. More than
two iterations, or an edge detector wider than one pixel, thicken outlines and round small features off.
"""

from __future__ import annotations

import numpy as np
from PIL import Image

from modules.presentation.images import flatten

LARGEST_SHARPENED = 800  # Pixels; beyond it the contours are smooth, and plain interpolation keeps them.
ITERATIONS, EDGE_WIDTH, STEP = 2, 1.0, 0.25


def enlarge_well(image: Image.Image, size: int) -> Image.Image:
    """Return an image as RGB with its longer side of `size` pixels; a larger one is reduced."""
    image = flatten(image)
    while max(image.size) < min(size, LARGEST_SHARPENED):
        scale = min(2.0, min(size, LARGEST_SHARPENED) / max(image.size))
        image = _sharpen(_resize(image, round(max(image.size) * scale), Image.Resampling.BICUBIC))
    return image if max(image.size) == size else _resize(image, size, Image.Resampling.LANCZOS)


def _resize(image: Image.Image, size: int, resampling: Image.Resampling) -> Image.Image:
    scale = size / max(image.size)
    width, height = (max(1, round(side * scale)) for side in image.size)
    return image.resize((width, height), resampling)


def _sharpen(image: Image.Image) -> Image.Image:
    if min(image.size) < 3:
        return image
    pixels = np.asarray(image, np.float32) / 255
    for _ in range(ITERATIONS):
        pixels = _shock(pixels)
    return Image.fromarray((pixels.clip(0, 1) * 255).round().astype(np.uint8))


def _shock(pixels: np.ndarray) -> np.ndarray:
    """Move pixels (H,W,3) one step towards the lighter or the darker side of their edge."""
    from scipy.ndimage import gaussian_filter

    light = gaussian_filter(pixels @ np.array([0.299, 0.587, 0.114], np.float32), EDGE_WIDTH)
    down, right = np.gradient(light)
    down_down, _ = np.gradient(down)
    down_right, right_right = np.gradient(right)
    edge = right * right * right_right + 2 * right * down * down_right + down * down * down_down
    towards = -np.tanh(edge / (0.3 * np.abs(edge).mean() + 1e-12))[..., None]
    around = np.pad(pixels, ((1, 1), (1, 1), (0, 0)), "edge")
    after = around[1:-1, 2:] - pixels, around[2:, 1:-1] - pixels
    before = pixels - around[1:-1, :-2], pixels - around[:-2, 1:-1]
    lighter, darker = _slope(after, before, 1), _slope(after, before, -1)
    return pixels + STEP * np.where(towards > 0, towards * lighter, towards * darker)


def _slope(after: tuple[np.ndarray, ...], before: tuple[np.ndarray, ...], sign: int) -> np.ndarray:
    """Return the slope towards the lighter (sign 1) or the darker (-1) neighbours."""
    squares = [
        np.maximum(np.maximum(sign * ahead, 0) ** 2, np.minimum(sign * behind, 0) ** 2)
        for ahead, behind in zip(after, before, strict=True)
    ]
    return np.sqrt(sum(squares))
