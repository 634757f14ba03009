"""How well pictures and texts fit each other, by the cosine of what a scorer makes of them: CLIP, or the project's own
judge.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from PIL import Image
from safetensors import SafetensorError
from torch import Tensor
from transformers import CLIPConfig, CLIPImageProcessorPil, CLIPModel, CLIPTokenizer

from modules.common.errors import UserError
from modules.common.progress import track
from modules.data.images import to_rgb
from modules.evaluation.metrics.statistics import Figure, bootstrap_mean, rows_of_other_stories

IMAGE_BATCH, TEXT_BATCH = 32, 256
SHOWN_BATCHES = 8  # More than these take long enough for a progress line.
RECALL_RANKS = (1, 5, 10)
RANK_ROWS = 1024
SAME_COSINE = 1e-5  # Nearer than this is rounding: equal texts in other batches differ by as much.
HUB_ID = re.compile(r"\w[\w.-]*(/\w[\w.-]*)?")


class Scorer(Protocol):
    """What turns pictures and texts into unit vectors of one space; its name stands before its figures."""

    name: str

    def embed_images(self, images: Sequence[Image.Image]) -> Tensor:
        """Pictures of any size -> unit vectors (N,D)."""

    def embed_texts(self, texts: Sequence[str]) -> Tensor:
        """Texts -> unit vectors (N,D)."""


class ClipScorer:
    """CLIP (arXiv 2103.00020). A text's tokens beyond the model's length, 77 in the published ones, are not seen."""

    name = "CLIP"

    def __init__(self, model: CLIPModel, tokenizer: CLIPTokenizer, image_processor: CLIPImageProcessorPil) -> None:
        self.model = model.eval().requires_grad_(False)
        self.tokenizer, self.image_processor = tokenizer, image_processor

    @classmethod
    def from_pretrained(
        cls, folder_or_hub_id: str | Path, offline: bool = False, device: torch.device | str = "cpu"
    ) -> ClipScorer:
        """Load CLIP in float32 from a local folder or by its name on the Hugging Face Hub (`offline`: from its cache
        alone).

        Raises:
            UserError: there is no such folder or name, the Hub cannot be reached or refuses, or what is there is not
            all of a CLIP.
        """
        name = str(folder_or_hub_id)
        if not Path(name).is_dir() and not HUB_ID.fullmatch(name):
            raise UserError(
                f"no folder {name}: give a folder with a CLIP model, or its name on the Hub such as openai/clip-vit-base-patch32"
            )
        try:
            return cls(*_load_clip(name, offline)).to(device)
        except (OSError, ValueError, RuntimeError, SafetensorError) as error:
            where = f"the folder {name}" if Path(name).is_dir() else f"the Hub's {name} (there is no such folder here)"
            reason = (str(error).splitlines() or [type(error).__name__])[0].rstrip(".:")
            raise UserError(
                f"cannot load CLIP from {where}: {reason}; give a folder with a whole CLIP model"
            ) from error

    def to(self, device: torch.device | str) -> ClipScorer:
        """The same scorer, moved."""
        self.model.to(device)
        return self

    def embed_images(self, images: Sequence[Image.Image]) -> Tensor:
        """Pictures of any size, resized and cropped to the middle as the model's folder says -> unit vectors (N,D)."""

        def embed(part: Sequence[Image.Image]) -> Tensor:
            inputs = self.image_processor(images=[to_rgb(image) for image in part], return_tensors="pt")
            return self.model.get_image_features(**inputs.to(self.model.device)).pooler_output

        return self._in_batches("pictures", images, IMAGE_BATCH, embed)

    def embed_texts(self, texts: Sequence[str]) -> Tensor:
        """Texts -> unit vectors (N,D)."""
        length = self.model.config.text_config.max_position_embeddings

        def embed(part: Sequence[str]) -> Tensor:
            inputs = self.tokenizer(list(part), padding=True, truncation=True, max_length=length, return_tensors="pt")
            return self.model.get_text_features(**inputs.to(self.model.device)).pooler_output

        return self._in_batches("texts", texts, TEXT_BATCH, embed)

    @torch.no_grad()
    def _in_batches(self, what: str, items: Sequence, size: int, embed: Callable[[Sequence], Tensor]) -> Tensor:
        parts = [items[start : start + size] for start in range(0, len(items), size)]
        vectors = [embed(part) for part in track(f"{self.name} of {what}", parts, visible=len(parts) > SHOWN_BATCHES)]
        return F.normalize(torch.cat(vectors), dim=-1) if vectors else torch.empty(0, self.model.config.projection_dim)


def _load_clip(name: str, offline: bool) -> tuple[CLIPModel, CLIPTokenizer, CLIPImageProcessorPil]:
    """The parts of CLIP; ValueError where transformers would go on with parts that are not the model's."""
    options: dict[str, Any] = {"local_files_only": offline}
    values, _ = CLIPConfig.get_config_dict(name, **options)
    kind = values.get("model_type") if isinstance(values, dict) else None
    if kind != CLIPConfig.model_type:
        raise ValueError(
            f"its config.json is of a {kind!r} model, not of {CLIPConfig.model_type!r}"
            if kind
            else "no model's config.json"
        )
    model, loading = CLIPModel.from_pretrained(name, output_loading_info=True, dtype=torch.float32, **options)
    if loading["missing_keys"]:  # They would be random numbers.
        raise ValueError(f"{len(loading['missing_keys'])} of its weights are missing")
    tokenizer = CLIPTokenizer.from_pretrained(name, **options)
    if len(tokenizer) != model.config.text_config.vocab_size:  # Without its files there is a tokenizer of two tokens.
        raise ValueError(f"its tokenizer has {len(tokenizer)} tokens, the model {model.config.text_config.vocab_size}")
    return model, tokenizer, CLIPImageProcessorPil.from_pretrained(name, **options)


def agreement(scorer: Scorer, images: Sequence[Image.Image], texts: Sequence[str]) -> Tensor:
    """CLIP score (N,) of N pictures with a text each: 100 max(cosine, 0).

    It is the score of arXiv 2104.08718 with a factor of 100 where the paper has 2.5, and no "A photo depicts" before
    the text.
    """
    return _scores(scorer.embed_images(images), scorer.embed_texts(texts))


def clip_scores(
    scorer: Scorer,
    images: Sequence[Image.Image | None],
    predicted_texts: Sequence[str | None],
    true_texts: Sequence[str | None],
    lengths: Sequence[int],
    seed: int = 0,
    true_images: Sequence[Image.Image | None] | None = None,
) -> dict[str, Figure]:
    """Mean `agreement` of N pictures with the predicted texts, `<scorer>(pp)`, and with the true texts, `<scorer>(pg)`.

    `lengths` are the stories' numbers of steps; pairs of which either is None are left out. The floor is that of the
    same pictures with texts of other stories, the ceiling that of the true pictures with the true texts, where those
    are given.
    """
    stories = np.repeat(np.arange(len(lengths)), lengths)
    drawn, true = _embed_present(images, scorer.embed_images), _embed_present(true_texts, scorer.embed_texts)
    predicted = _embed_present(predicted_texts, scorer.embed_texts)
    ceiling = None
    if true_images is not None:
        ceiling = _agreement_figure(_embed_present(true_images, scorer.embed_images), true, stories, seed).to_dict()[
            "value"
        ]
    return {
        f"{scorer.name}({name})": _agreement_figure(drawn, texts, stories, seed, ceiling)
        for name, texts in (("pp", predicted), ("pg", true))
    }


def _embed_present(items: Sequence, embed: Callable[[Sequence], Tensor]) -> Tensor:
    """Vectors (N,D) in which those of absent items are NaN, as is all that is computed from them."""
    present = [item for item in items if item is not None]
    vectors = embed(present).float().cpu() if present else torch.empty(0, 1)
    rows = torch.full((len(items), vectors.shape[1]), torch.nan)
    rows[torch.tensor([item is not None for item in items], dtype=torch.bool)] = vectors
    return rows


def _scores(image_embeds: Tensor, text_embeds: Tensor) -> Tensor:
    return 100 * (image_embeds * text_embeds).sum(1).clamp(min=0)


def _agreement_figure(
    image_embeds: Tensor, text_embeds: Tensor, stories: NDArray, seed: int, ceiling: float | None = None
) -> Figure:
    others = rows_of_other_stories(stories, seed)
    wrong = _scores(image_embeds, text_embeds[others]) if others is not None else torch.empty(0)
    wrong = wrong[wrong.isfinite()]
    floor = wrong.double().mean().item() if len(wrong) else None
    scores = _scores(image_embeds, text_embeds).double().numpy()
    return _mean(scores, stories, seed, floor, ceiling)


def _mean(values: NDArray, stories: NDArray, seed: int, floor: float | None, ceiling: float | None) -> Figure:
    """Mean over rows, without those that are NaN."""
    present = np.isfinite(values)
    counts = np.bincount(stories[present])
    return bootstrap_mean(np.bincount(stories[present], weights=values[present]), counts, seed, floor, ceiling)


def retrieval(
    scorer: Scorer,
    images: Sequence[Image.Image | None],
    texts: Sequence[str | None],
    lengths: Sequence[int],
    seed: int = 0,
) -> dict[str, Figure]:
    """How often the right one is among the nearest 1, 5 and 10 of all N: `text to image R@k` and `image to text R@k`.

    `lengths` are the stories' numbers of steps; pairs of which either is None are left out. Ties, such as equal texts,
    count by the chance that the right one comes first: a scorer to which all look alike gets chance, k / N, which is
    the floor. Compare at equal N only.
    """
    rows = [row for row, pair in enumerate(zip(images, texts, strict=True)) if None not in pair]
    stories = np.repeat(np.arange(len(lengths)), lengths)[rows]
    drawn = _embed_present([images[row] for row in rows], scorer.embed_images)
    told = _embed_present([texts[row] for row in rows], scorer.embed_texts)
    figures = {}
    for name, queries, targets in (("text to image", told, drawn), ("image to text", drawn, told)):
        nearer, alike = _ranks(queries, targets)
        for rank in RECALL_RANKS:
            chance = min(1.0, rank / len(rows)) if rows else None
            found = ((rank - nearer) / alike).clamp(0, 1).double().numpy()
            figures[f"{name} R@{rank}"] = _mean(found, stories, seed, chance, ceiling=1.0)
    return figures


def _ranks(queries: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
    """For query i of (N,D), how many targets (N,D) are nearer than target i, and how many as near, itself among them."""
    nearer, alike = [torch.empty(0)], [torch.empty(0)]
    for start in range(0, len(queries), RANK_ROWS):
        cosines = queries[start : start + RANK_ROWS] @ targets.T
        ahead = cosines - cosines.diagonal(start)[:, None]
        nearer.append((ahead > SAME_COSINE).sum(1))
        alike.append((ahead.abs() <= SAME_COSINE).sum(1))
    return torch.cat(nearer), torch.cat(alike)
