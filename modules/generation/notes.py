"""What a model cannot take into account in a user's texts, in sentences for the user."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

from modules.text_decoder.tokenizers import Vocabulary

if TYPE_CHECKING:
    from modules.config import StoryConfig


def input_notes(
    tokenizer: Vocabulary, config: StoryConfig, prompt: str = "", texts: Sequence[str | None] = ()
) -> tuple[str, ...]:
    """Return notes on the words of a prompt and of given pages' texts, and on texts that are too long."""
    given = [text for text in texts if text is not None]
    reading = tokenizer.read(prompt)
    unknown = _unique([*reading.unknown, *(word for text in given for word in tokenizer.unseen_words(text))])
    notes = [
        f'the model was not trained on "{word}" and reads "{instead}" instead'
        for word, instead in reading.replaced.items()
    ]
    if unknown:
        notes.append(f"the model was not trained on {', '.join(unknown)}; the story may differ from the prompt there")
    limits = (
        ("the prompt", config.max_prompt_length, [reading.text]),
        ("a page's text", config.text_decoder.max_length, given),
    )
    for name, length, long in limits:
        if any(len(tokenizer.encode(text, sys.maxsize)) > length for text in long):
            notes.append(f"the model reads the first {length - 2} tokens of {name}; the rest is ignored")
    return tuple(notes)


def _unique(words: Iterable[str]) -> list[str]:
    return list(dict.fromkeys(words))
