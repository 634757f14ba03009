"""The tokenizer trained with a model: exact, deterministic, whole."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from modules.common.errors import UserError
from modules.text_decoder.tokenizers import SPECIAL_TOKENS, StoryTokenizer, train_tokenizer

TEXTS = [
    "Mia the fox found a red kite.",
    "The red kite flew. Mia\u2019s kite!",
    "It wasn't far, said the café owner.",
] * 5
HARD_TEXTS = [
    "",
    " ",
    "   ",
    "a",
    " a",
    "a ",
    "\n\nx\n",
    "tab\tand\r\nlines",
    "😀👩‍👩‍👧 fun",
    "مرحبا بالعالم",
    "e\u0301 ﬁ ½",
    "\u2581low",
    "\x00\x7f",
]
HARD_TEXTS += [
    "<eos> and <pad><bos>",
    "\ufeffbom",
    "日本語の本",
    "हिन्दी",
    "a" * 300,
    "\u2028line",
    "don't “do” it…",
    "\U0010ffff",
]


@pytest.fixture(scope="module")
def tokenizer() -> StoryTokenizer:
    return StoryTokenizer.train(iter(TEXTS), 320)


@pytest.mark.parametrize("text", HARD_TEXTS)
def test_decode_inverts_encode(tokenizer, text):
    ids = tokenizer.encode(text, 10_000)
    assert (ids[0], ids[-1]) == (1, 2) and all(id > 2 for id in ids[1:-1])
    assert tokenizer.decode(ids) == text


def test_decode_inverts_encode_on_random_unicode(tokenizer):
    rng = np.random.default_rng(0)
    for _ in range(300):
        points = rng.choice(
            [rng.integers(32, 127), rng.integers(0, 0xD800), rng.integers(0xE000, 0x110000)], rng.integers(1, 12)
        )
        text = "".join(map(chr, points)) + " " * int(rng.integers(0, 3))
        assert tokenizer.decode(tokenizer.encode(text, 10_000)) == text


def test_a_word_has_the_same_tokens_everywhere(tokenizer):
    alone, within = tokenizer.encode("kite", 50), tokenizer.encode("red kite", 50)
    assert within[-len(alone) + 1 :] == alone[1:]


def test_truncation_keeps_eos_and_decode_stops_there(tokenizer):
    text = "Mia the fox found a red kite."
    ids = tokenizer.encode(text, 6)
    assert len(ids) == 6 and ids[-1] == tokenizer.eos_id and text.startswith(tokenizer.decode(ids))
    assert tokenizer.decode([1, *tokenizer.encode("fox", 20), *tokenizer.encode("kite", 20)]) == "fox"
    assert tokenizer.decode(torch.tensor(tokenizer.encode("fox", 20)[:-1])) == "fox"
    assert tokenizer.decode([]) == ""
    with pytest.raises(ValueError, match="max_length"):
        tokenizer.encode(text, 1)
    with pytest.raises(UserError, match="Unicode"):
        tokenizer.encode("\ud800", 10)


def test_encode_batch_pads_to_the_length_asked_for(tokenizer):
    ids, mask = tokenizer.encode_batch(["fox", "", "The red kite flew far over the hill."], 12)
    assert ids.shape == mask.shape == (3, 12) and ids.dtype == torch.long and mask.dtype == torch.bool
    assert (ids[~mask] == tokenizer.pad_id).all() and (ids[mask] != tokenizer.pad_id).all()
    assert mask.sum(1).tolist()[1:] == [2, 12] and ids[2, -1] == tokenizer.eos_id
    assert tokenizer.decode(ids[0]) == "fox"
    empty, _ = tokenizer.encode_batch([], 12)
    assert empty.shape == (0, 12)


def test_training_is_deterministic_and_keeps_special_tokens(tokenizer):
    again = train_tokenizer(list(TEXTS), 320)
    assert again.to_str() == tokenizer.tokenizer.to_str()
    assert [again.token_to_id(token) for token in SPECIAL_TOKENS] == [0, 1, 2]
    assert 259 < tokenizer.vocab_size <= 320
    assert train_tokenizer([], 259).get_vocab_size() == 259
    with pytest.raises(UserError, match="at least 259"):
        train_tokenizer(TEXTS, 258)


def test_words_and_unseen_words(tokenizer):
    assert list(tokenizer.words) == sorted(set(tokenizer.words)) and {"mia", "mia's", "wasn't", "café", "a"} <= set(
        tokenizer.words
    )
    assert tokenizer.unseen_words("MIA\u2019s fox\u2019s dragon wasn\u2019t a Dragon, cafe\u0301 42 'kite'") == [
        "dragon",
        "42",
    ]


def test_save_and_load(tokenizer, tmp_path):
    tokenizer.save(tmp_path / "model")
    loaded = StoryTokenizer.load(tmp_path / "model")
    assert loaded.words == tokenizer.words and loaded.vocab_size == tokenizer.vocab_size
    for text in (*TEXTS, *HARD_TEXTS):
        assert loaded.encode(text, 64) == tokenizer.encode(text, 64)
    (tmp_path / "model" / "tokenizer.json").write_text("{}")
    for folder in (tmp_path / "model", tmp_path / "none"):
        with pytest.raises(UserError, match="no tokenizer"):
            StoryTokenizer.load(folder)
    with pytest.raises(UserError, match="cannot be written"):
        tokenizer.save(tmp_path / "model" / "words.json")
