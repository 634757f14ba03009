"""The story world is deterministic and legible, and its events follow from each other."""

import subprocess
import sys
from collections import Counter
from itertools import pairwise
from pathlib import Path

import pytest
from PIL import Image

from modules.common.errors import UserError
from modules.story import Story
from modules.storyworld import ACTIONS, CHARACTERS, COLORS, NAMES, OBJECTS, PLACES, WEATHERS, StoryWorld, mentioned
from modules.storyworld import stage as stage_module
from modules.storyworld.families import OBSTACLE_TOOLS, PLACE_FRIENDS, TOOL_OWNERS, WEATHER_TOOLS
from modules.storyworld.labels import GARMENTS
from modules.storyworld.objects import thing
from modules.storyworld.pen import Pen
from modules.storyworld.scene import draw
from modules.storyworld.templates import TEMPLATES
from modules.storyworld.wording import _key

ROOT = Path(__file__).parents[2]
WORLD = StoryWorld(1500, seed=3)
STORIES = [WORLD._generate(index) for index in range(len(WORLD))]


PLOTS = [WORLD._plots(WORLD._rng(index)) for index in range(len(WORLD))]


def pages_of(story):
    return [page for _, page in story[1]]


def find(pages, event):
    return next((page for page in pages if page.event == event), None)


def test_vocabularies_are_large_and_disjoint():
    sizes = [len(group) for group in (CHARACTERS, PLACES, OBJECTS, COLORS, WEATHERS, ACTIONS)]
    assert all(size >= least for size, least in zip(sizes, (8, 8, 12, 6, 4, 10), strict=True))
    words = [*CHARACTERS, *PLACES, *OBJECTS, *COLORS, *WEATHERS, *ACTIONS, *(name.lower() for name in NAMES.values())]
    assert len(words) == len(set(words))
    seen = Counter()
    for story in STORIES:
        for page in pages_of(story):
            seen.update(
                {
                    page.place,
                    page.weather,
                    page.action,
                    page.object,
                    *(x.kind for x in page.cast),
                    *(x.color for x in page.cast),
                }
            )
    assert all(seen[word] for word in (*CHARACTERS, *PLACES, *OBJECTS, *COLORS, *WEATHERS, *ACTIONS))


def test_same_bytes_from_a_fresh_process():
    code = "from modules.storyworld import StoryWorld; print(StoryWorld(5, seed=7).fingerprint())"
    fresh = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert fresh.stdout.strip() == StoryWorld(5, seed=7).fingerprint()


def test_a_story_depends_on_seed_split_and_index_alone():
    few, many = StoryWorld(3), StoryWorld(300)
    assert few._generate(2) == many._generate(2)
    assert few[2].steps[0].image.tobytes() == many[2].steps[0].image.tobytes()
    assert list(few.texts()) == [text for story in few for text in (story.prompt, *(step.text for step in story.steps))]
    streams = [StoryWorld(200, seed=seed, split=split) for seed, split in ((0, "train"), (0, "test"), (1, "train"))]
    stories = [{repr(world._generate(index)) for index in range(200)} for world in streams]
    assert not stories[0] & stories[1] and not stories[0] & stories[2]
    assert len({world.fingerprint() for world in streams}) == 3


def test_the_world_is_a_story_dataset():
    story = WORLD[0]
    assert isinstance(story, Story) and WORLD.name == "storyworld" and len(WORLD) == 1500
    assert all(step.image.mode == "RGB" and step.image.size == (96, 96) for step in story.steps)
    assert StoryWorld(1, image_size=128)[0].steps[0].image.size == (128, 128)
    with pytest.raises(IndexError):
        WORLD[1500]
    with pytest.raises(UserError, match="num_stories"):
        StoryWorld(0)
    with pytest.raises(UserError, match="image_size"):
        StoryWorld(1, image_size=4)


def test_every_length_from_one_to_eight_occurs():
    lengths = Counter(len(story[1]) for story in STORIES)
    assert set(lengths) == {1, 2, 3, 4, 5, 6, 7, 8}
    assert min(lengths.values()) > len(STORIES) / 50


def test_texts_match_pictures():
    for _, steps in STORIES:
        for text, page in steps:
            found, shown = mentioned(text), page.attributes()
            assert found["characters"] == set(shown["characters"]), text
            assert found["objects"] <= {shown["object"]}, text
            assert shown["object"] is None or found["objects"], text
            assert found["colors"] <= set(shown["colors"]), text
            assert found["places"] <= {shown["place"]}, text
            assert found["weathers"] <= {shown["weather"]}, text
            assert found["actions"] == {shown["action"]}, text


def test_every_template_names_its_action():
    pages = {_key(page): page for story in STORIES for page in pages_of(story)}
    assert set(pages) == set(TEMPLATES)
    assert all(
        mentioned(template)["actions"] == {pages[key].action} for key, forms in TEMPLATES.items() for template in forms
    )


def test_texts_are_short_and_introduce_characters_with_colour():
    words = set()
    for prompt, steps in STORIES:
        known = set()
        words.update(prompt.lower().split())
        for text, page in steps:
            words.update(text.lower().split())
            assert 6 <= len(text.split()) <= 30, text
            for actor in page.cast:
                assert actor.kind in known or f"{actor.color} {GARMENTS[actor.kind]}" in text, text
                known.add(actor.kind)
    assert len({word.strip(".,!?:") for word in words}) < 700


def test_clothes_stay_and_differ():
    for story in STORIES:
        worn = {}
        for page in pages_of(story):
            assert page.cast[0] == pages_of(story)[0].cast[0]
            for actor in page.cast:
                assert worn.setdefault(actor.kind, actor.color) == actor.color
        assert len(worn) <= 2 and len(set(worn.values())) == len(worn)


def test_a_second_episode_follows_an_ending():
    twice = [plots for plots in PLOTS if len(plots) > 1]
    assert len(PLOTS) / 8 < len(twice) < len(PLOTS) / 4
    for first, second in twice:
        assert first.pages[-1].event in ("celebrate", "return", "sleep")
        assert second.hero == first.hero and second.object != first.object
        assert first.friend is None or second.friend == first.friend
    assert {len(plots[1].pages) for plots in twice} >= {1, 2, 3, 4, 5, 6}


def test_many_episodes_make_long_stories():
    world = StoryWorld(5, num_episodes=3)
    assert all(len(world._plots(world._rng(index))) == 3 for index in range(5))


def test_named_friends_are_on_most_pages():
    for plots in PLOTS:
        first = plots[0]
        shown = [first.friend in page.cast for page in first.pages]
        assert not first.named or sum(shown) >= min(2, len(shown)), first.family
    named = [plots[0] for plots in PLOTS if plots[0].named]
    assert len(named) > len(PLOTS) / 2
    assert sum(plot.friend in page.cast for plot in named for page in plot.pages) > 0.6 * sum(
        len(plot.pages) for plot in named
    )
    assert all(plot.friend in plot.pages[0].cast for plot in named if plot.family == "share")


def test_causes_have_their_effects():
    for plot in (plot for plots in PLOTS for plot in plots):
        check_causes(plot)


def check_causes(plot):
    pages, short = plot.pages, len(plot.pages) < 4
    blocked, use, lose, trouble = (find(pages, event) for event in ("blocked", "use", "lose", "trouble"))
    ending = find(pages, "celebrate") or find(pages, "return")
    assert len(pages) == 1 or ending.place == pages[0].place
    if blocked:
        assert use.obstacle == blocked.obstacle and use.tool == OBSTACLE_TOOLS[blocked.obstacle]
        assert use.object == blocked.object == pages[0].object and use.place == blocked.place
    if trouble:
        assert use.tool == WEATHER_TOOLS[trouble.weather] and use.weather == trouble.weather
    if lose and not short:
        found = find(pages, "find")
        assert (lose.place, lose.object) == (found.place, found.object)
    if find(pages, "friend_want"):
        assert find(pages, "friend_want").object == find(pages, "discover").object == find(pages, "give").object
        assert find(pages, "meet").object == find(pages, "give_back").object == pages[0].object
    if find(pages, "friend_cry"):
        assert find(pages, "give").object == pages[0].object
    for before, page in pairwise(pages):
        assert before.place == page.place or page.event in ("walk", "travel", "return"), (before, page)


def test_unnamed_friends_fit_the_tool_or_the_place():
    alone = [plots[0] for plots in PLOTS if not plots[0].named and plots[0].friend]
    for plot in alone:
        use = find(plot.pages, "use")
        place = plot.home if plot.family == "share" else plot.place
        kinds = TOOL_OWNERS[use.tool] if use else PLACE_FRIENDS[place]
        assert plot.friend.kind == next(kind for kind in kinds if kind != plot.hero.kind)
    assert len(alone) > len(PLOTS) / 5


def test_objects_fill_a_fifth_of_the_height(monkeypatch):
    def painted(name, image_size):
        solid = Image.new("RGBA", thing(name, image_size).size, (255, 0, 255, 0))
        solid.putalpha(thing(name, image_size).getchannel("A").point(lambda alpha: 255 if alpha > 127 else 0))
        return solid

    monkeypatch.setattr(stage_module, "thing", painted)
    for story in STORIES[:150]:
        for page in pages_of(story):
            if page.object:
                picture = draw(page, 96)
                rows = {
                    index // 96 for index, pixel in enumerate(picture.get_flattened_data()) if pixel == (255, 0, 255)
                }
                assert len(rows) >= 96 / 5, page


def test_names_count_for_their_kind_in_any_case():
    found = mentioned("MIA in a red dress looks for her lost Ball on the beach, on a snowy day.")
    assert found["characters"] == {"girl"} and found["colors"] == {"red"} and found["objects"] == {"ball"}
    assert found["places"] == {"beach"} and found["weathers"] == {"snow"} and found["actions"] == {"search"}


def test_pages_are_composed_of_cached_sprites(monkeypatch):
    """This makes drawing fast: nothing is rendered twice."""
    pages = [page for story in STORIES[:300] for page in pages_of(story)]
    first = [draw(page, 96).tobytes() for page in pages]
    monkeypatch.setattr(Pen, "__init__", lambda *_: pytest.fail("a sprite was rendered again"))
    assert [draw(page, 96).tobytes() for page in pages] == first
