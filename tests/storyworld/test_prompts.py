"""Prompts: every story fulfils its own, and long ones fit into 64 tokens."""

import re

from modules.config import StoryConfig
from modules.storyworld import COLORS, StoryWorld, mentioned
from modules.storyworld.labels import GARMENTS
from modules.text_decoder.tokenizers import StoryTokenizer, train_tokenizer

WORLD = StoryWorld(3000, seed=4)
STORIES = [WORLD._generate(index) for index in range(len(WORLD))]
PLOTS = [WORLD._plots(WORLD._rng(index))[0] for index in range(len(WORLD))]
WORN = re.compile(f"(?i)\\b({'|'.join(COLORS)}) ({'|'.join(set(GARMENTS.values()))})\\b")


def test_stories_fulfil_their_prompts():
    for (prompt, _), plot in zip(STORIES, PLOTS, strict=True):
        pages, asked = plot.pages, mentioned(prompt)
        actors = {actor for page in pages for actor in page.cast}
        assert plot.hero.kind in asked["characters"], prompt
        assert asked["objects"] == {plot.object}, prompt
        assert asked["places"] <= {page.place for page in pages}, prompt
        assert asked["weathers"] <= {page.weather for page in pages}, prompt
        assert asked["actions"] <= {page.action for page in pages}, prompt
        assert {color.lower() for color, _ in WORN.findall(prompt)} <= {actor.color for actor in actors}, prompt
        named = {plot.hero.kind, plot.friend.kind} if plot.named else {plot.hero.kind}
        assert asked["characters"] == named <= {actor.kind for actor in actors}, prompt


def test_a_colour_before_an_object_dresses_nobody():
    colored = [
        (re.search(rf"(?i)({'|'.join(COLORS)}) {plot.object}", prompt), plot)
        for (prompt, _), plot in zip(STORIES, PLOTS, strict=True)
    ]
    found = [(match[1].lower(), plot) for match, plot in colored if match]
    assert len(found) > len(STORIES) / 20
    assert sum(color == plot.hero.color for color, plot in found) < len(found) / 3


def test_most_prompts_name_a_place_or_a_friend():
    asked = [mentioned(prompt) for prompt, _ in STORIES]
    assert sum(bool(found["places"]) for found in asked) > len(STORIES) / 3
    assert sum(len(found["characters"]) == 2 for found in asked) > len(STORIES) / 2
    assert sum(". " in prompt or ", and " in prompt for prompt, _ in STORIES) > len(STORIES) / 10


def test_prompts_and_texts_fit_into_the_preset():
    config = StoryConfig()
    tokenizer = StoryTokenizer(train_tokenizer(WORLD.texts(), config.vocab_size), ())
    prompts = [len(tokenizer.encode(prompt, 1000)) for prompt, _ in STORIES]
    assert 45 < max(prompts) <= config.max_prompt_length == 64
    texts = [text for _, pages in STORIES for text, _ in pages]
    assert max(len(tokenizer.encode(text, 1000)) for text in texts) <= config.text_decoder.max_length
