"""Novelty: the pages of the training stories that a story's pages are nearest to, by their codes."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from modules.common.errors import UserError
from modules.common.files import read_json, write_whole
from modules.common.ownership import MARK
from modules.generation.pipeline import StoryPipeline

FORMAT = 1


@dataclass(frozen=True)
class NearestPage:
    """A training page, its story's number and its own, from 1. `similarity` is the mean cosine of its codes' vectors
    and those of the page that it is near to, `same_codes` the share of codes that both have.
    """

    story: int
    page: int
    text: str | None
    similarity: float
    same_codes: float


@dataclass(frozen=True)
class TrainingPages:
    """The codes (N,S) of the pages of training stories, which have `lengths` (B,), and their texts (N)."""

    codes: Tensor
    lengths: tuple[int, ...]
    texts: tuple[str | None, ...]

    def nearest(self, pipeline: StoryPipeline, codes: Tensor) -> list[NearestPage]:
        """Return for each of T pages with these codes (T,S) the nearest training page."""
        own, others = (F.normalize(pipeline.embed(rows).float(), dim=-1).flatten(1) for rows in (codes, self.codes))
        similarity, rows = (own @ others.T / codes.shape[1]).max(1)
        places = [(story, page) for story, length in enumerate(self.lengths, 1) for page in range(1, length + 1)]
        return [
            NearestPage(
                story=places[row][0],
                page=places[row][1],
                text=self.texts[row],
                similarity=float(value),
                same_codes=float((self.codes[row] == codes[page].cpu()).double().mean()),
            )
            for page, (row, value) in enumerate(zip(rows.tolist(), similarity.tolist(), strict=True))
        ]


def write_training_pages(
    path: Path, fingerprint: str, codes: Sequence[Sequence[int]], lengths: Sequence[int], texts: Sequence[str | None]
) -> Path:
    """Write the codes (N,S) and texts (N) of training pages, read by the weights with this fingerprint."""
    values: dict[str, Any] = {
        "generator": MARK,
        "format": FORMAT,
        "fingerprint": fingerprint,
        "lengths": list(lengths),
        "codes": [list(row) for row in codes],
        "texts": list(texts),
    }
    return write_whole(path, (json.dumps(values, separators=(",", ":")) + "\n").encode())


def read_training_pages(path: Path, pipeline: StoryPipeline) -> TrainingPages:
    """Read what `write_training_pages` wrote. Raises UserError if it is damaged, or of other weights."""
    values = read_json(path, "list of training pages")
    try:
        fingerprint, texts, lengths = values["fingerprint"], tuple(values["texts"]), tuple(values["lengths"])
        codes = torch.tensor(values["codes"], dtype=torch.long)
    except (KeyError, TypeError, ValueError) as error:
        raise UserError(f"{path} lists no training pages: give the training_pages.json of analyze") from error
    board = pipeline.config.storyboard
    fits = codes.ndim == 2 and codes.shape == (len(texts), board.num_slots) and len(texts) == sum(lengths) > 0
    if not fits or not 0 <= int(codes.min()) <= int(codes.max()) < board.codebook_size:
        raise UserError(f"{path} does not fit the model of --ckpt, or is damaged: write it again with analyze")
    if fingerprint != pipeline.fingerprint():
        raise UserError(
            f"{path} was made with the weights {fingerprint}, and --ckpt has {pipeline.fingerprint()}: write it again"
            " with analyze"
        )
    return TrainingPages(codes, lengths, texts)
