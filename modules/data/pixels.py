"""Convert PIL images to tensors and back."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from modules.data.images import fit_image


def to_pixels(images: Sequence[Image.Image], size: int) -> Tensor:
    """Convert images of any shape to a tensor (N,3,H,W) in [-1,1]; see `fit_image`."""
    arrays = [
        np.asarray(image if image.size == (size, size) and image.mode == "RGB" else fit_image(image, size))
        for image in images
    ]
    return torch.from_numpy(np.stack(arrays)).permute(0, 3, 1, 2).float() / 127.5 - 1


def to_pictures(pixels: Tensor) -> list[Image.Image]:
    """Convert a tensor (N,3,H,W) in [-1,1] to images."""
    arrays = ((pixels.clamp(-1, 1) + 1) * 127.5).round().to(torch.uint8).permute(0, 2, 3, 1).cpu().numpy()
    return [Image.fromarray(array) for array in arrays]


def pixels_of(images: Sequence[Image.Image | None], size: int) -> Tensor:
    """As `to_pixels`; a missing image is black."""
    blank = Image.new("RGB", (size, size))
    return to_pixels([image or blank for image in images], size)
