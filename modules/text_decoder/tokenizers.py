"""Tokenizers: byte-level BPE trained on the stories, and those of pretrained language models."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Sequence
from functools import cached_property
from pathlib import Path
from typing import cast

import torch
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers
from torch import Tensor

from modules.common.errors import UserError
from modules.pretrained.source import PretrainedSource
from modules.text_decoder.config import TextDecoderConfig
from modules.text_decoder.language_model import special_ids_of
from modules.text_decoder.nearest_words import NONE, NearestWords, load_nearest_words, save_nearest_words
from modules.text_decoder.words import KnownWords, Reading, find_words

SPECIAL_TOKENS = ("<pad>", "<bos>", "<eos>")
MIN_VOCAB_SIZE = len(SPECIAL_TOKENS) + 256
TOKENIZER_FILE = "tokenizer.json"
WORDS_FILE = "words.json"
FOLDER = "tokenizer"  # Of a pretrained tokenizer, in a model folder.


def train_tokenizer(texts: Iterable[str], vocab_size: int) -> Tokenizer:
    """Train byte-level BPE on `texts`; the same texts give the same tokenizer.

    The alphabet contains all 256 bytes, so no text is unknown. A space is added before every text and removed again, so
    a word has the same tokens at the start of a text as within it. A small corpus may give fewer tokens than
    `vocab_size`.

    Raises:
        UserError: `vocab_size` is too small for the bytes and the special tokens.
    """
    if vocab_size < MIN_VOCAB_SIZE:
        raise UserError(
            f"vocab_size must be at least {MIN_VOCAB_SIZE} (256 bytes and {len(SPECIAL_TOKENS)} special tokens),"
            f" got {vocab_size}"
        )
    tokenizer = Tokenizer(models.BPE())
    tokenizer.normalizer = normalizers.Prepend(" ")
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.Sequence([decoders.ByteLevel(), decoders.Strip(" ", left=1, right=0)])
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size,
        special_tokens=list(SPECIAL_TOKENS),
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts, trainer=trainer)
    return tokenizer


class StoryTokenizer:
    """A tokenizer with the special tokens `<pad>` = 0, `<bos>` = 1, `<eos>` = 2, and the words of its training texts.

    A special token written out in a text is plain text: only `encode` adds special tokens.
    """

    pad_id, bos_id, eos_id = 0, 1, 2

    def __init__(self, tokenizer: Tokenizer, words: Iterable[str] = (), nearest: NearestWords = NONE) -> None:
        ids = tuple(tokenizer.token_to_id(token) for token in SPECIAL_TOKENS)
        if ids != (self.pad_id, self.bos_id, self.eos_id):
            raise UserError(f"the tokenizer must have {', '.join(SPECIAL_TOKENS)} as ids 0, 1, 2, got {ids}")
        tokenizer.encode_special_tokens = True
        self.tokenizer = tokenizer
        self.words, self.nearest = tuple(sorted(set(words))), nearest
        self._seen = frozenset(self.words)

    @classmethod
    def train(cls, texts: Iterable[str], vocab_size: int) -> StoryTokenizer:
        """Train on `texts` in one pass, as `train_tokenizer` does, and remember their words."""
        words: set[str] = set()

        def collect_words() -> Iterator[str]:
            for text in texts:
                words.update(find_words(text))
                yield text

        return cls(train_tokenizer(collect_words(), vocab_size), words)

    @property
    def vocab_size(self) -> int:
        """The number of ids, special tokens included."""
        return self.tokenizer.get_vocab_size()

    def encode(self, text: str, max_length: int) -> list[int]:
        """Return `<bos>`, the tokens of `text`, `<eos>`: at most `max_length` ids; a longer text loses its end, never
        its `<eos>`.

        Raises:
            ValueError: `max_length` is below 2.
            UserError: the text is not valid Unicode.
        """
        if max_length < 2:
            raise ValueError(f"max_length must be at least 2 for <bos> and <eos>, got {max_length}")
        try:
            ids = self.tokenizer.encode(text, add_special_tokens=False).ids
        except (UnicodeEncodeError, TypeError):
            raise UserError(f"the text {text!r} is not valid Unicode text") from None
        return [self.bos_id, *ids[: max_length - 2], self.eos_id]

    def encode_batch(self, texts: Sequence[str], max_length: int) -> tuple[Tensor, Tensor]:
        """Return ids (N,L) int64 padded with `<pad>` to L = `max_length`, and their mask (N,L) bool, True on tokens."""
        ids = torch.full((len(texts), max_length), self.pad_id, dtype=torch.long)
        mask = torch.zeros(len(texts), max_length, dtype=torch.bool)
        for row, text in enumerate(texts):
            encoded = self.encode(text, max_length)
            ids[row, : len(encoded)] = torch.tensor(encoded)
            mask[row, : len(encoded)] = True
        return ids, mask

    def decode(self, ids: Sequence[int] | Tensor) -> str:
        """Return the text of one sequence of ids (L,): up to the first `<eos>`, without special tokens."""
        ids = ids.tolist() if isinstance(ids, Tensor) else list(ids)
        if self.eos_id in ids:
            ids = ids[: ids.index(self.eos_id)]
        return self.tokenizer.decode(ids, skip_special_tokens=True)

    def unseen_words(self, text: str) -> list[str]:
        """Return the words of `text` that the training texts lack, each once, in order; possessives do not count."""
        words = dict.fromkeys(find_words(text))
        return [word for word in words if word not in self._seen and word.removesuffix("'s") not in self._seen]

    def read(self, text: str) -> Reading:
        """Return a text with known words in place of those near in inflection, meaning or spelling."""
        return self._known.read(text, self.unseen_words(text))

    @cached_property
    def _known(self) -> KnownWords:
        return KnownWords(self.words, self.nearest)

    def save(self, folder: str | Path) -> None:
        """Write `tokenizer.json`, `words.json` and a table of nearest words into `folder`, created if it is missing.

        Raises:
            UserError: the folder cannot be written.
        """
        folder = Path(folder)
        try:
            folder.mkdir(parents=True, exist_ok=True)
            (folder / TOKENIZER_FILE).write_text(self.tokenizer.to_str(pretty=True), encoding="utf-8")
            (folder / WORDS_FILE).write_text(json.dumps(self.words, ensure_ascii=False), encoding="utf-8")
            if self.nearest:
                save_nearest_words(folder, self.nearest)
        except OSError as error:
            raise UserError(f"the tokenizer cannot be written to {folder}: {error}") from None

    @classmethod
    def load(cls, folder: str | Path) -> StoryTokenizer:
        """Read what `save` wrote.

        Raises:
            UserError: a file is missing or broken.
        """
        folder = Path(folder)
        try:
            words = json.loads((folder / WORDS_FILE).read_text(encoding="utf-8"))
            tokenizer = Tokenizer.from_str((folder / TOKENIZER_FILE).read_text(encoding="utf-8"))
        except Exception as error:
            raise UserError(f"no tokenizer can be read from {folder}: {error}") from None
        if not isinstance(words, list) or not all(isinstance(word, str) for word in words):
            raise UserError(f"{folder / WORDS_FILE} must be a list of words")
        return cls(tokenizer, words, load_nearest_words(folder))


class PretrainedVocabulary:
    """A pretrained language model's tokenizer, with the methods of `StoryTokenizer`."""

    def __init__(self, source: PretrainedSource) -> None:
        """Read the tokenizer. Raises UserError where it is missing, broken or has no token for the end of a text."""
        self.tokenizer = source.tokenizer
        self.pad_id, self.bos_id, self.eos_id = special_ids_of(self.tokenizer)

    @property
    def vocab_size(self) -> int:
        """The number of ids, special tokens included."""
        return len(self.tokenizer)

    def encode(self, text: str, max_length: int) -> list[int]:
        """Return `<bos>`, the tokens of `text`, `<eos>`: at most `max_length` ids; a longer text loses its end.

        Raises ValueError where `max_length` is below 2.
        """
        if max_length < 2:
            raise ValueError(f"max_length must be at least 2 for <bos> and <eos>, got {max_length}")
        ids = self.tokenizer(text, add_special_tokens=False, verbose=False).input_ids
        return [self.bos_id, *ids[: max_length - 2], self.eos_id]

    def encode_batch(self, texts: Sequence[str], max_length: int) -> tuple[Tensor, Tensor]:
        """Return ids (N,L) int64 padded to L = `max_length`, and their mask (N,L) bool, True on tokens.

        Padding may have the same id as <bos> and <eos>.
        """
        rows = [self.encode(text, max_length) for text in texts]
        ids = torch.full((len(rows), max_length), self.pad_id, dtype=torch.long)
        for row, encoded in enumerate(rows):
            ids[row, : len(encoded)] = torch.tensor(encoded)
        lengths = torch.tensor([len(encoded) for encoded in rows])
        return ids, torch.arange(max_length) < lengths[:, None]

    def decode(self, ids: Sequence[int] | Tensor) -> str:
        """Return the text of ids (L,) up to the first `<eos>` after the start, without special tokens."""
        ids = ids.tolist() if isinstance(ids, Tensor) else list(ids)
        ids = ids[1:] if ids[:1] == [self.bos_id] else ids
        if self.eos_id in ids:
            ids = ids[: ids.index(self.eos_id)]
        text = self.tokenizer.decode(ids, skip_special_tokens=True, clean_up_tokenization_spaces=False)
        return cast(str, text).strip()

    def unseen_words(self, _text: str) -> list[str]:
        """Return no words: a pretrained tokenizer was trained on texts of the web."""
        return []

    def read(self, text: str) -> Reading:
        """Return the text as it is."""
        return Reading(text)

    def save(self, folder: str | Path) -> None:
        """Write the tokenizer's files into the subfolder `tokenizer` of `folder`."""
        self.tokenizer.save_pretrained(Path(folder) / FOLDER)


Vocabulary = StoryTokenizer | PretrainedVocabulary


def make_vocabulary(
    config: TextDecoderConfig, vocab_size: int, texts: Iterable[str], source: PretrainedSource | None = None
) -> Vocabulary:
    """Return the vocabulary of the pretrained language model, or one of `vocab_size` tokens trained on `texts`.

    `source` is by default the one that the config names.
    """
    if config.source:
        return PretrainedVocabulary(source or PretrainedSource(config.source, "text_decoder.source"))
    return StoryTokenizer.train(texts, vocab_size)


def load_vocabulary(folder: Path, config: TextDecoderConfig) -> Vocabulary:
    """Read what `save` wrote. Raises UserError where a file is missing or broken."""
    if config.source:
        return PretrainedVocabulary(PretrainedSource(str(folder / FOLDER), "text_decoder.source", offline=True))
    return StoryTokenizer.load(folder)
