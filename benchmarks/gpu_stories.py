"""Encoded stories that stay on a GPU."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
import torch
from torch import Tensor

from modules.batch import StepInputs, StoryBatch
from modules.image_decoder.autoencoder import PictureAutoencoder
from modules.story_model.story_model import StoryModel

ENCODE_ROWS = 2048


def as_images(pixels: Tensor) -> Tensor:
    """Return pixels (N,H,W,3) uint8 as images (N,3,H,W) in [-1,1]."""
    return (pixels.permute(0, 3, 1, 2).float() / 127.5 - 1).contiguous()


@torch.no_grad()
def encode(autoencoder: PictureAutoencoder, pixels: Tensor) -> Tensor:
    """Return the latents (N,c,h,w) in float16 of pixels (N,H,W,3) uint8."""
    return torch.cat([autoencoder.encode(as_images(part)).half() for part in pixels.split(ENCODE_ROWS)])


class Stories:
    """Encoded stories on the device: latents, tokens and codes of all pages, and batches of equally long stories."""

    def __init__(self, chunks: Iterable[dict[str, Tensor]], model: StoryModel, device: torch.device) -> None:
        self.device, parts = device, []
        for chunk in chunks:
            moved = {name: value.to(device) for name, value in chunk.items() if name != "lengths"}
            latents = encode(model.autoencoder, moved.pop("pixels"))
            parts.append({**moved, "latents": latents, "lengths": chunk["lengths"]})
        whole = {name: torch.cat([part.pop(name) for part in parts]) for name in list(parts[0])}
        self.lengths = whole.pop("lengths")
        self.starts = (self.lengths.cumsum(0) - self.lengths).to(device)
        self.tensors = whole
        self.by_length = {n: (self.lengths == n).nonzero()[:, 0] for n in self.lengths.unique().tolist()}
        self.codes = self._codes(model)

    @torch.no_grad()
    def _codes(self, model: StoryModel) -> Tensor:
        """Return the codes (3,N,S) from both modalities, text alone and picture alone."""
        found = []
        for image, text in ((True, True), (False, True), (True, False)):
            rows = torch.arange(len(self.tensors["latents"]), device=self.device).split(ENCODE_ROWS)
            slots = torch.cat([model.storyboard.encode(self._steps(part).keep(text, image)) for part in rows])
            torch.backends.cuda.matmul.allow_tf32 = False  # Of the nearest codes one in a hundred would be another.
            found.append(torch.cat([model.storyboard.quantizer(part).codes for part in slots.split(ENCODE_ROWS)]))
            torch.backends.cuda.matmul.allow_tf32 = True
        return torch.stack(found)

    def _steps(self, rows: Tensor) -> StepInputs:
        tensors = self.tensors
        return StepInputs(
            latents=tensors["latents"][rows].float(),
            image_mask=torch.ones(len(rows), dtype=torch.bool, device=self.device),
            input_ids=tensors["text_ids"][rows].long(),
            text_mask=tensors["text_mask"][rows],
        )

    def draw(self, num_rows: int, rng: np.random.Generator) -> Tensor:
        """Draw stories of one length, about `num_rows` pages in all; every page is as likely."""
        weights = np.array([length * len(members) for length, members in self.by_length.items()], float)
        length = list(self.by_length)[rng.choice(len(weights), p=weights / weights.sum())]
        members = self.by_length[length]
        return members[torch.from_numpy(rng.integers(len(members), size=max(1, num_rows // length)))]

    def batch(self, stories: Tensor, variant: Tensor | None = None) -> StoryBatch:
        """Return stories of one length as a batch; `variant` (N,) chooses the codes."""
        length = int(self.lengths[stories[0]])
        stories = stories.to(self.device)
        rows = self.starts[stories][:, None] + torch.arange(length, device=self.device)
        flat, tensors = rows.flatten(), self.tensors
        ones = torch.ones(rows.shape, dtype=torch.bool, device=self.device)
        codes = self.codes[torch.zeros_like(flat) if variant is None else variant, flat]
        mask = tensors["text_mask"][rows]
        return StoryBatch(
            prompt_ids=tensors["prompt_ids"][stories].long(),
            prompt_mask=tensors["prompt_mask"][stories],
            input_ids=tensors["text_ids"][rows].long(),
            text_mask=mask,
            latents=tensors["latents"][rows].float(),
            image_mask=ones,
            step_mask=ones,
            codes=codes.view(*rows.shape, -1),
            num_steps=torch.tensor(float(len(flat)), device=self.device),
            num_tokens=mask[..., 1:].sum().float(),
            num_images=torch.tensor(float(len(flat)), device=self.device),
        )
