"""Text to tokens and back: by the tokenizer trained with the model, or by that of a pretrained language model."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path

import torch
from torch import Tensor

from modules.config import StoryConfig
from modules.pretrained import load_tokenizer
from modules.text_decoder import WHAT, special_ids_of
from modules.tokenizer import StoryTokenizer

FOLDER = "tokenizer"


class PretrainedVocabulary:
    """A pretrained language model's tokenizer, with the verbs of `StoryTokenizer`. Raises UserError where it cannot be read."""

    def __init__(self, source: str, *, offline: bool = False) -> None:
        self.tokenizer = load_tokenizer(source, WHAT, offline=offline)
        self.pad_id, self.bos_id, self.eos_id = special_ids_of(self.tokenizer)

    @property
    def vocab_size(self) -> int:
        """The number of ids, special tokens included."""
        return len(self.tokenizer)

    def encode(self, text: str, max_length: int) -> list[int]:
        """As `StoryTokenizer.encode`: `<bos>`, the tokens of `text`, `<eos>`, at most `max_length` ids; only the text's end is lost."""
        if max_length < 2:
            raise ValueError(f"max_length must be at least 2 for <bos> and <eos>, got {max_length}")
        ids = self.tokenizer(text, add_special_tokens=False, verbose=False).input_ids
        return [self.bos_id, *ids[: max_length - 2], self.eos_id]

    def encode_batch(self, texts: Sequence[str], max_length: int) -> tuple[Tensor, Tensor]:
        """Texts -> ids (B,L) int64 padded to L = `max_length`, and their mask (B,L) bool; <bos> and <eos> may be the id of padding."""
        rows = [self.encode(text, max_length) for text in texts]
        ids = torch.full((len(rows), max_length), self.pad_id, dtype=torch.long)
        for row, encoded in enumerate(rows):
            ids[row, : len(encoded)] = torch.tensor(encoded)
        lengths = torch.tensor([len(encoded) for encoded in rows])
        return ids, torch.arange(max_length) < lengths[:, None]

    def decode(self, ids: Sequence[int] | Tensor) -> str:
        """The text of one sequence of ids (L,): up to the first `<eos>` after its start, without special tokens."""
        ids = ids.tolist() if isinstance(ids, Tensor) else list(ids)
        ids = ids[1:] if ids[:1] == [self.bos_id] else ids
        if self.eos_id in ids:
            ids = ids[: ids.index(self.eos_id)]
        return self.tokenizer.decode(ids, skip_special_tokens=True, clean_up_tokenization_spaces=False).strip()

    def unseen_words(self, text: str) -> list[str]:
        """None: it was trained on the web."""
        return []

    def save(self, folder: str | Path) -> None:
        """Write the tokenizer's files into a folder of its own within `folder`."""
        self.tokenizer.save_pretrained(Path(folder) / FOLDER)


Vocabulary = StoryTokenizer | PretrainedVocabulary


def make_vocabulary(config: StoryConfig, texts: Iterable[str], *, offline: bool = False) -> Vocabulary:
    """The pretrained language model's, or one trained on `texts`."""
    if config.text_decoder.source:
        return PretrainedVocabulary(config.text_decoder.source, offline=offline)
    return StoryTokenizer.train(texts, config.vocab_size)


def load_vocabulary(folder: Path, config: StoryConfig) -> Vocabulary:
    """Read what `save` wrote. Raises UserError where a file is missing or broken."""
    return PretrainedVocabulary(str(folder / FOLDER), offline=True) if config.text_decoder.source else StoryTokenizer.load(folder)
