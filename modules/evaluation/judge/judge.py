"""The judge, an attribute classifier for story-world pictures, which also scores how well a text matches a picture.

A ResNet trained from scratch on real renders (`train_judge`). It has never seen a generated picture; its accuracy on
real renders is the ceiling of every metric that uses it.
"""

from __future__ import annotations

import dataclasses
import json
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from PIL import Image
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn
from transformers import ResNetConfig, ResNetModel

from modules.common.errors import UserError
from modules.common.files import read_json
from modules.common.limits import LAYERS, SIZE, check_settings, limited
from modules.common.sums import MANIFEST, damage, write_sums
from modules.common.tensor_files import save_tensors
from modules.config import config_from_dict
from modules.data.pixels import to_pixels
from modules.storyworld import ACTIONS, CHARACTERS, COLORS, OBJECTS, PLACES, WEATHERS

SINGLE: dict[str, Sequence[str | None]] = {  # Attributes with one label a page.
    "place": PLACES,
    "object": (*OBJECTS, None),
    "weather": WEATHERS,
    "action": ACTIONS,
}
NOT_SHOWN = -100  # The label that cross_entropy ignores.
BATCH = 256
CONFIG, WEIGHTS = "config.json", "model.safetensors"


@dataclass(frozen=True)
class JudgeConfig:
    """Sizes of the judge; `words` is the vocabulary of the texts that it embeds."""

    image_size: int = limited(96, SIZE)
    hidden_sizes: tuple[int, ...] = limited((24, 40, 64, 96), SIZE)
    blocks: int = limited(2, LAYERS)  # At each resolution.
    embed_dim: int = limited(64, SIZE)
    words: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        check_settings(self, "judge")


class Judge(nn.Module):
    """A picture -> logits of every attribute; a picture and a text -> unit vectors, close if they match.

    The embeddings are trained with the sigmoid loss of SigLIP (arXiv 2303.15343).
    """

    name = "judge"

    def __init__(self, config: JudgeConfig) -> None:
        super().__init__()
        self.config = config
        self.trunk = ResNetModel(
            ResNetConfig(
                embedding_size=config.hidden_sizes[0],
                hidden_sizes=list(config.hidden_sizes),
                depths=[config.blocks] * len(config.hidden_sizes),
                layer_type="basic",
            )
        )
        width = config.hidden_sizes[-1]
        cells = (config.image_size // 2 ** (len(config.hidden_sizes) + 1)) ** 2
        self.sizes = {"characters": len(CHARACTERS), "colors": len(CHARACTERS) * len(COLORS)}
        self.sizes |= {name: len(labels) for name, labels in SINGLE.items()}
        # The heads see all cells, not their mean, because actions depend on where the characters stand.
        self.read_head = nn.Linear(width * cells, sum(self.sizes.values()))
        self.image_head = nn.Linear(width * cells, config.embed_dim)
        self.word_embed = nn.EmbeddingBag(
            len(config.words) + 1, config.embed_dim, mode="mean", padding_idx=len(config.words)
        )
        self.text_head = nn.Sequential(nn.Linear(config.embed_dim, 128), nn.GELU(), nn.Linear(128, config.embed_dim))
        self.log_scale, self.bias = nn.Parameter(torch.tensor(2.3)), nn.Parameter(torch.tensor(-5.0))
        self._word_ids = {word: index for index, word in enumerate(config.words)}

    def forward(self, pixels: Tensor, word_ids: Tensor, targets: Mapping[str, Tensor]) -> Tensor:
        """Return the training loss () of pixels (N,3,H,W) in [-1,1], word_ids (N,L) and the `targets_of` N pages.

        It is the sum of the attributes' cross-entropies and the sigmoid matching loss, in nats a page.
        """
        cells = self._cells(pixels)
        logits = self._logits(cells)
        loss = F.binary_cross_entropy_with_logits(logits["characters"], targets["characters"]) * len(CHARACTERS)
        colors = logits["colors"].unflatten(1, (len(CHARACTERS), len(COLORS)))
        loss = loss + F.cross_entropy(colors.flatten(0, 1), targets["colors"].flatten(), ignore_index=NOT_SHOWN)
        loss = loss + sum(F.cross_entropy(logits[name], targets[name]) for name in SINGLE)
        matches = self._embed(self.image_head, cells) @ self._embed_words(word_ids).T * self.log_scale.exp() + self.bias
        signs = 2 * torch.eye(len(matches), device=matches.device) - 1
        return loss - F.logsigmoid(matches * signs).sum(1).mean()

    @torch.no_grad()
    def read(self, images: Sequence[Image.Image]) -> list[dict[str, Any]]:
        """Predict the attributes of N pictures.

        Each is a dict: characters (set of kinds), colors (kind -> colour), place, object (or None), weather, action.
        """
        predictions = []
        for pixels in self._batches(images):
            logits = self._logits(self._cells(pixels))
            colors = logits["colors"].unflatten(1, (len(CHARACTERS), len(COLORS))).argmax(-1).tolist()
            best = {name: logits[name].argmax(-1).tolist() for name in SINGLE}
            for row, shown in enumerate((logits["characters"] > 0).tolist()):
                numbers = [number for number, is_shown in enumerate(shown) if is_shown]
                prediction: dict[str, Any] = {
                    "characters": {CHARACTERS[number] for number in numbers},
                    "colors": {CHARACTERS[number]: COLORS[colors[row][number]] for number in numbers},
                }
                predictions.append(prediction | {name: labels[best[name][row]] for name, labels in SINGLE.items()})
        return predictions

    @torch.no_grad()
    def features(self, images: Sequence[Image.Image]) -> Tensor:
        """Return the trunk's pooled features (N,F), for Fréchet and kernel distances."""
        return torch.cat([self.trunk(pixels).pooler_output.flatten(1) for pixels in self._batches(images)])

    @torch.no_grad()
    def embed_images(self, images: Sequence[Image.Image]) -> Tensor:
        """Return unit vectors (N,D) of N pictures."""
        return torch.cat([self._embed(self.image_head, self._cells(pixels)) for pixels in self._batches(images)])

    @torch.no_grad()
    def embed_texts(self, texts: Sequence[str]) -> Tensor:
        """Return unit vectors (N,D) of N texts; words outside the judge's vocabulary are ignored."""
        return self._embed_words(self.word_ids(texts).to(self.bias.device))

    def word_ids(self, texts: Sequence[str]) -> Tensor:
        """Return word ids (N,L), padded with the id after the last word's."""
        rows = [[self._word_ids[word] for word in split_words(text) if word in self._word_ids] for text in texts]
        width = max(1, *map(len, rows)) if rows else 1
        padding = len(self.config.words)
        return torch.tensor([row + [padding] * (width - len(row)) for row in rows]).view(len(rows), width)

    def _batches(self, images: Sequence[Image.Image]) -> Iterator[Tensor]:
        for start in range(0, len(images), BATCH):
            yield to_pixels(images[start : start + BATCH], self.config.image_size).to(self.bias.device)

    def _cells(self, pixels: Tensor) -> Tensor:
        return self.trunk(pixels).last_hidden_state.flatten(1)

    def _logits(self, cells: Tensor) -> dict[str, Tensor]:
        parts = self.read_head(cells).float().split(list(self.sizes.values()), dim=1)
        return dict(zip(self.sizes, parts, strict=True))

    def _embed(self, head: nn.Module, vectors: Tensor) -> Tensor:
        return F.normalize(head(vectors).float(), dim=-1)

    def _embed_words(self, word_ids: Tensor) -> Tensor:
        return self._embed(self.text_head, self.word_embed(word_ids))

    def save(self, folder: Path) -> None:
        """Write config.json and model.safetensors, in float16."""
        folder.mkdir(parents=True, exist_ok=True)
        (folder / CONFIG).write_text(json.dumps(dataclasses.asdict(self.config)) + "\n", encoding="utf-8")
        state = {
            name: value.half() if value.is_floating_point() else value for name, value in self.state_dict().items()
        }
        save_tensors({name: value.contiguous() for name, value in state.items()}, folder / WEIGHTS)
        write_sums(folder, (CONFIG, WEIGHTS))

    @classmethod
    def from_pretrained(cls, folder: str | Path) -> Judge:
        """Load a judge's folder, in float32. Raises UserError if the folder contains no judge."""
        folder = Path(folder)
        if (folder / MANIFEST).exists() and (problem := damage(folder, (CONFIG, WEIGHTS), (CONFIG, WEIGHTS))):
            raise UserError(f"the judge in {folder} is damaged ({problem}): copy it anew, or train one by train_judge")
        try:
            values = read_json(folder / CONFIG, "config file")
            judge = cls(config_from_dict(JudgeConfig, values, str(folder / CONFIG)))
            state = load_file(folder / WEIGHTS)
            judge.load_state_dict(
                {name: value.float() if value.is_floating_point() else value for name, value in state.items()}
            )
        except (OSError, UserError, ValueError, RuntimeError, SafetensorError) as error:
            reason = " ".join(str(error).split())[:200]
            raise UserError(
                f"no judge at {folder} ({reason}): train one with `story_generative_model.py train_judge`"
            ) from error
        return judge.eval().requires_grad_(False)


def split_words(text: str) -> list[str]:
    """Return the words of a text in lower case: runs of the letters a to z."""
    return re.findall(r"[a-z]+", text.lower())


def targets_of(pages: Sequence[Mapping[str, Any]]) -> dict[str, Tensor]:
    """Return the targets of N pages' attributes: characters (N,10) in {0,1}, colors (N,10), and single labels (N,)."""
    characters = torch.zeros(len(pages), len(CHARACTERS))
    colors = torch.full((len(pages), len(CHARACTERS)), NOT_SHOWN)
    for row, page in enumerate(pages):
        for kind, color in zip(page["characters"], page["colors"], strict=True):
            characters[row, CHARACTERS.index(kind)] = 1
            colors[row, CHARACTERS.index(kind)] = COLORS.index(color)
    single = {name: torch.tensor([labels.index(page[name]) for page in pages]) for name, labels in SINGLE.items()}
    return {"characters": characters, "colors": colors, **single}
