"""Inception, the network whose features make a Fréchet distance an FID."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import groupby
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from modules.common.errors import UserError
from modules.data.images import to_rgb
from modules.evaluation.metrics.image import FID_EXTRACTOR

INCEPTION_WIDTH = 2048
BATCH = 32


class Inception:
    """The Inception network of FID (arXiv 1706.08500). It resizes pictures to 299 x 299 itself."""

    name = FID_EXTRACTOR

    def __init__(self, network: torch.jit.ScriptModule, device: torch.device) -> None:
        self.network, self.device = network, device

    @torch.no_grad()
    def features(self, images: Sequence[Image.Image]) -> Tensor:
        """Return features (N,2048) of N pictures of any size."""
        batches: list[Tensor] = []
        for _, same_size in groupby(map(to_rgb, images), key=lambda image: image.size):
            pixels = torch.from_numpy(np.stack([np.asarray(image) for image in same_size])).permute(0, 3, 1, 2)
            batches += [self.network(part.to(self.device), return_features=True).cpu() for part in pixels.split(BATCH)]
        return torch.cat(batches)


def load_inception(path: str | Path, device: torch.device | str = "cpu") -> Inception:
    """Load Inception from NVIDIA's TorchScript file `inception-2015-12-05.pt` of StyleGAN2-ADA (arXiv 2006.06676).

    A TorchScript file is a program: load it only from a source you trust.

    Raises:
        UserError: the file is missing, is no TorchScript, or does not return 2,048 features a picture.
    """
    expected = "give NVIDIA's inception-2015-12-05.pt"
    if not Path(path).is_file():
        raise UserError(f"no file {path} with Inception's weights: {expected}")
    try:
        inception = Inception(torch.jit.load(str(path), map_location=device).eval(), torch.device(device))
    except RuntimeError as error:
        raise UserError(f"{path} is no TorchScript file: {expected}") from error
    try:
        shape = tuple(inception.features([Image.new("RGB", (64, 64))] * 2).shape)
    except (RuntimeError, AttributeError, TypeError) as error:
        raise UserError(
            f"{path} cannot be called as Inception is, with uint8 pictures and return_features=True: {expected}"
        ) from error
    if shape != (2, INCEPTION_WIDTH):
        raise UserError(
            f"{path} turns 2 pictures into features of shape {shape}, not (2, {INCEPTION_WIDTH}): {expected}"
        )
    return inception
