"""Words that the training texts lack: inflections are read as known forms, misspellings as the nearest known word."""

import time

import pytest

from modules.common.errors import UserError
from modules.text_decoder.nearest_words import FILE, Near
from modules.text_decoder.tokenizers import StoryTokenizer, train_tokenizer
from modules.text_decoder.words import KnownWords, edits, find_words

WORDS = (
    "a an ball balloon celebrates cries elephant finds flies gives hugs kite mountains mia play plays sleeps the to"
    " wants"
)
KNOWN = KnownWords(WORDS.split())


@pytest.mark.parametrize(
    ("word", "form"),
    [
        ("sleep", "sleeps"),
        ("sleeping", "sleeps"),
        ("slept", "sleeps"),
        ("cry", "cries"),
        ("gave", "gives"),
        ("found", "finds"),
        ("hugged", "hugs"),
        ("balloons", "balloon"),
        ("mountain", "mountains"),
        ("celebrating", "celebrates"),
        ("played", "play"),
        ("zeppelin", None),
    ],
)
def test_inflections_are_known(word, form):
    assert KNOWN.inflection(word) == form


@pytest.mark.parametrize(
    ("word", "near"),
    [("ballon", "balloon"), ("elefant", "elephant"), ("elephnat", "elephant"), ("kiet", "kite"), ("zeppelin", None)],
)
def test_misspellings_have_a_nearest_known_word(word, near):
    assert KNOWN.misspelled(word) == near


def test_other_words_are_no_inflections():
    known = KnownWords(["car", "star", "cap", "kite", "celebrate"])
    assert [known.inflection(word) for word in ("cared", "staring", "capes", "kites")] == [None, None, None, "kite"]
    assert known.inflection("celebrated") == known.inflection("celebrates") == "celebrate"


def test_short_words_are_not_guessed():
    assert KNOWN.misspelled("tho") is None and KNOWN.misspelled("ox") is None


def test_a_text_is_read_with_known_words():
    tokenizer = StoryTokenizer(train_tokenizer([WORDS], 300), WORDS.split())
    reading = tokenizer.read("Mia gave the ELEFANT a zeppelin, to sleep.")
    assert reading.text == "Mia gives the ELEPHANT a zeppelin, to sleeps."
    assert reading.replaced == {"elefant": "elephant"} and reading.unknown == ("zeppelin",)
    assert all(word in tokenizer.words for word in find_words(reading.text) if word != "zeppelin")


def test_known_texts_are_read_as_they_are():
    tokenizer = StoryTokenizer(train_tokenizer([WORDS], 300), WORDS.split())
    for text in ("Mia plays to the BALL!", "", "  "):
        assert tokenizer.read(text).text == text and not tokenizer.read(text).replaced


NEAREST = {
    "dragon": (Near("elephant", 0.5), Near("ball", 0.3)),
    "orange": (Near("ball", 0.6),),
    "dinosaur": (Near("elephant", 0.4), Near("kite", 0.2)),
    "ship": (Near("rocket", 0.9),),
}


def test_a_word_near_in_meaning_is_read_instead():
    tokenizer = StoryTokenizer(train_tokenizer([WORDS], 300), WORDS.split(), NEAREST)
    reading = tokenizer.read("A dragon wants an orange on the ship")
    assert reading.text == "An elephant wants a ball on the ship"  # Rockets are unknown too.
    assert reading.replaced == {"dragon": "elephant", "orange": "ball"} and reading.unknown == ("on", "ship")


def test_two_words_stay_two():
    tokenizer = StoryTokenizer(train_tokenizer([WORDS], 300), WORDS.split(), NEAREST)
    assert tokenizer.read("dragons, a dinosaur").text == "elephant, a kite"
    assert tokenizer.read("the elephant hugs the dragon").text == "the elephant hugs the ball"
    assert tokenizer.read("dragon elephant ball").text == "elephant elephant ball"  # None is left.


def test_the_table_is_saved_with_the_tokenizer(tmp_path):
    StoryTokenizer(train_tokenizer([WORDS], 300), WORDS.split(), NEAREST).save(tmp_path)
    assert StoryTokenizer.load(tmp_path).nearest == NEAREST
    (tmp_path / FILE).write_text("dragon\telephant\n")
    with pytest.raises(UserError, match="copy the model folder anew"):
        StoryTokenizer.load(tmp_path)


def test_edits():
    pairs = [("", ""), ("kite", "kite"), ("kite", "kiet"), ("ballon", "balloon"), ("abc", ""), ("cat", "bat")]
    assert [edits(*pair) for pair in pairs] == [0, 0, 1, 1, 3, 1]


def test_a_word_without_end_is_read_at_once():
    started = time.monotonic()
    assert KnownWords({"fox", "kite", "penguin"}).misspelled("x" * 20_000) is None
    assert time.monotonic() - started < 1
