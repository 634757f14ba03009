"""Match of pictures and texts: the cosine of their embeddings by CLIP or by the project's judge."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Protocol, TypeVar, cast

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
from modules.evaluation.metrics.statistics import Estimate, mean_over_rows, rows_of_other_stories, story_of_rows

IMAGE_BATCH, TEXT_BATCH = 32, 256
VISIBLE_BATCHES = 8  # More batches than these take long enough for a progress line.
RECALL_RANKS = (1, 5, 10)
RANK_ROWS = 1024
SAME_COSINE = 1e-5  # A smaller difference is rounding: equal texts in different batches differ by as much.
HUB_ID = re.compile(r"\w[\w.-]*(/\w[\w.-]*)?")
Item = TypeVar("Item", Image.Image, str)


class Scorer(Protocol):
    """Embeds pictures and texts as unit vectors of one space; its name becomes part of the metrics' names."""

    name: str

    def embed_images(self, images: Sequence[Image.Image]) -> Tensor:
        """Return unit vectors (N,D) of N pictures of any size."""

    def embed_texts(self, texts: Sequence[str]) -> Tensor:
        """Return unit vectors (N,D) of N texts."""


class ClipScorer:
    """CLIP (arXiv 2103.00020). Texts are truncated to the model's length, 77 tokens in the published models."""

    name = "CLIP"

    def __init__(self, model: CLIPModel, tokenizer: CLIPTokenizer, image_processor: CLIPImageProcessorPil) -> None:
        self.model = model.eval().requires_grad_(False)
        self.tokenizer, self.image_processor = tokenizer, image_processor

    @classmethod
    def from_pretrained(
        cls, folder_or_hub_id: str | Path, offline: bool = False, device: torch.device | str = "cpu"
    ) -> ClipScorer:
        """Load CLIP in float32 from a local folder or from the Hugging Face Hub (`offline`: from its local cache only).

        Raises:
            UserError: the folder or the name does not exist, the Hub is unreachable or refuses, or a part of the CLIP
                model is missing.
        """
        name = str(folder_or_hub_id)
        if not Path(name).is_dir() and not HUB_ID.fullmatch(name):
            raise UserError(
                f"no folder {name}: give a folder with a CLIP model, or its name on the Hub such as "
                "openai/clip-vit-base-patch32"
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
        """Move to a device and return the scorer."""
        self.model.to(torch.device(device))
        return self

    def embed_images(self, images: Sequence[Image.Image]) -> Tensor:
        """Return unit vectors (N,D) of N pictures, resized and centre-cropped by the model's own preprocessor."""

        def embed(part: Sequence[Image.Image]) -> Tensor:
            inputs = self.image_processor(images=[to_rgb(image) for image in part], return_tensors="pt")
            return self.model.get_image_features(**inputs.to(self.model.device)).pooler_output

        return self._in_batches("pictures", images, IMAGE_BATCH, embed)

    def embed_texts(self, texts: Sequence[str]) -> Tensor:
        """Return unit vectors (N,D) of N texts."""
        length = self.model.config.text_config.max_position_embeddings

        def embed(part: Sequence[str]) -> Tensor:
            inputs = self.tokenizer(list(part), padding=True, truncation=True, max_length=length, return_tensors="pt")
            return self.model.get_text_features(**inputs.to(self.model.device)).pooler_output

        return self._in_batches("texts", texts, TEXT_BATCH, embed)

    @torch.no_grad()
    def _in_batches(
        self, kind: str, items: Sequence[Item], size: int, embed: Callable[[Sequence[Item]], Tensor]
    ) -> Tensor:
        parts = [items[start : start + size] for start in range(0, len(items), size)]
        vectors = [embed(part) for part in track(f"{self.name} of {kind}", parts, visible=len(parts) > VISIBLE_BATCHES)]
        return F.normalize(torch.cat(vectors), dim=-1) if vectors else torch.empty(0, self.model.config.projection_dim)


def _load_clip(name: str, offline: bool) -> tuple[CLIPModel, CLIPTokenizer, CLIPImageProcessorPil]:
    """Load CLIP's parts; raise ValueError where transformers would silently replace a missing part."""
    options: dict[str, Any] = {"local_files_only": offline}
    values, _ = CLIPConfig.get_config_dict(name, **options)
    kind = values.get("model_type") if isinstance(values, dict) else None
    if kind != CLIPConfig.model_type:
        raise ValueError(
            f"its config.json is of a {kind!r} model, not of {CLIPConfig.model_type!r}"
            if kind
            else "no model's config.json"
        )
    loaded: Any = CLIPModel.from_pretrained(name, output_loading_info=True, dtype=torch.float32, **options)
    model, loading = cast(tuple[CLIPModel, dict[str, Any]], loaded)
    if loading["missing_keys"]:  # They would be random numbers.
        raise ValueError(f"{len(loading['missing_keys'])} of its weights are missing")
    tokenizer = CLIPTokenizer.from_pretrained(name, **options)
    vocab_size = model.text_model.config.vocab_size
    if len(tokenizer) != vocab_size:  # Without its files, transformers makes a tokenizer of two tokens.
        raise ValueError(f"its tokenizer has {len(tokenizer)} tokens, the model {vocab_size}")
    return model, tokenizer, CLIPImageProcessorPil.from_pretrained(name, **options)


def match_scores(scorer: Scorer, images: Sequence[Image.Image], texts: Sequence[str]) -> Tensor:
    """Return the CLIP score (N,) of N pictures with a text each: 100 max(cosine, 0).

    ArXiv 2104.08718 has a factor of 2.5 where this has 100, and prepends "A photo depicts" to the text.
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
) -> dict[str, Estimate]:
    """Return mean `match_scores` of N pictures with predicted texts, `<scorer>(pp)`, and true texts, `<scorer>(pg)`.

    `lengths` are the stories' numbers of steps; pairs with a None are left out. The floor is the score of the same
    pictures with texts of other stories; the ceiling is that of `true_images` with the true texts.
    """
    stories = story_of_rows(lengths)
    image_embeds, true = _embed_present(images, scorer.embed_images), _embed_present(true_texts, scorer.embed_texts)
    predicted = _embed_present(predicted_texts, scorer.embed_texts)
    ceiling = None
    if true_images is not None:
        true_embeds = _embed_present(true_images, scorer.embed_images)
        ceiling = _mean_score(true_embeds, true, stories, seed).to_dict()["value"]
    return {
        f"{scorer.name}({name})": _mean_score(image_embeds, texts, stories, seed, ceiling)
        for name, texts in (("pp", predicted), ("pg", true))
    }


def _embed_present(items: Sequence[Item | None], embed: Callable[[Sequence[Item]], Tensor]) -> Tensor:
    """Return vectors (N,D); those of absent items are NaN, as is everything computed from them."""
    present = [item for item in items if item is not None]
    vectors = embed(present).float().cpu() if present else torch.empty(0, 1)
    rows = torch.full((len(items), vectors.shape[1]), torch.nan)
    rows[torch.tensor([item is not None for item in items], dtype=torch.bool)] = vectors
    return rows


def _scores(image_embeds: Tensor, text_embeds: Tensor) -> Tensor:
    return 100 * (image_embeds * text_embeds).sum(1).clamp(min=0)


def _mean_score(
    image_embeds: Tensor, text_embeds: Tensor, stories: NDArray[np.int64], seed: int, ceiling: float | None = None
) -> Estimate:
    others = rows_of_other_stories(stories, seed)
    wrong = _scores(image_embeds, text_embeds[others]) if others is not None else torch.empty(0)
    wrong = wrong[wrong.isfinite()]
    floor = wrong.double().mean().item() if len(wrong) else None
    return mean_over_rows(_scores(image_embeds, text_embeds).double().numpy(), stories, seed, floor, ceiling)


def retrieval(
    scorer: Scorer,
    images: Sequence[Image.Image | None],
    texts: Sequence[str | None],
    lengths: Sequence[int],
    seed: int = 0,
) -> dict[str, Estimate]:
    """Return how often the true item is among the k nearest of all N: `text to image R@k`, `image to text R@k`.

    `lengths` are the stories' numbers of steps; pairs with a None are left out. Ties, such as equal texts, count by the
    chance that the true item comes first, so a scorer that cannot distinguish anything scores k / N, the floor. Compare
    only at equal N.
    """
    pairs = [(row, *pair) for row, pair in enumerate(zip(images, texts, strict=True)) if None not in pair]
    stories = story_of_rows(lengths)[[row for row, _, _ in pairs]]
    image_embeds = _embed_present([image for _, image, _ in pairs], scorer.embed_images)
    text_embeds = _embed_present([text for _, _, text in pairs], scorer.embed_texts)
    estimates = {}
    for name, queries, targets in (
        ("text to image", text_embeds, image_embeds),
        ("image to text", image_embeds, text_embeds),
    ):
        num_nearer, num_tied = _ranks(queries, targets)
        for rank in RECALL_RANKS:
            chance = min(1.0, rank / len(pairs)) if pairs else None
            recalls = ((rank - num_nearer) / num_tied).clamp(0, 1).double().numpy()
            is_share = chance is not None and chance < 1  # Else nothing can be missed.
            estimates[f"{name} R@{rank}"] = mean_over_rows(recalls, stories, seed, chance, 1.0, is_share)
    return estimates


def _ranks(queries: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
    """Return, for query i of (N,D), how many targets (N,D) are nearer than target i, and how many tie (itself too)."""
    num_nearer, num_tied = [torch.empty(0)], [torch.empty(0)]
    for start in range(0, len(queries), RANK_ROWS):
        cosines = queries[start : start + RANK_ROWS] @ targets.T
        ahead = cosines - cosines.diagonal(start)[:, None]
        num_nearer.append((ahead > SAME_COSINE).sum(1))
        num_tied.append((ahead.abs() <= SAME_COSINE).sum(1))
    return torch.cat(num_nearer), torch.cat(num_tied)
