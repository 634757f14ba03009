"""What a prompt asks for is read from its words alone, and agrees with the plot that it was written for."""

import pytest

from modules.storyworld import StoryWorld
from modules.storyworld.wishes import Wish

WORLD = StoryWorld(3000, seed=8)
GIVING, HELPING = {"gift": False, "present": True, "trade": True}, ("quest", "lost", "storm")


@pytest.mark.parametrize(
    ("prompt", "giver"),
    [
        ("Ella gives a red balloon to Lily", ("elephant", "rabbit")),
        ("Lily gives Ella a red balloon.", ("rabbit", "elephant")),
        ("Lily gets a balloon from Ella the elephant", ("elephant", "rabbit")),
        ("LILY IS GIVEN A BALLOON BY ELLA", ("elephant", "rabbit")),
        ("Lily wants a balloon and Ella gives it to her", ("elephant", "rabbit")),
        ("Mia gives away a cake", None),
        ("Nala and Pip share a cake", None),
        ("Leo gets a kite with the help of Rosie", None),
    ],
)
def test_the_giver_is_found_by_grammar(prompt, giver):
    assert Wish.of(prompt).giver == giver


@pytest.mark.parametrize(
    ("prompt", "helper"),
    [
        ("Rosie helps Leo to get a kite", ("pig", "boy")),
        ("Leo gets a kite with the help of Rosie", ("pig", "boy")),
        ("Leo is helped by Rosie in the rain with his kite", ("pig", "boy")),
        ("Ella gives a balloon to Lily", None),
        ("Leo wants help", None),
    ],
)
def test_the_helper_is_found_by_grammar(prompt, helper):
    assert Wish.of(prompt).helper == helper


def test_colours_are_of_clothes_not_of_things():
    wish = Wish.of("Ella in a blue coat gives a red balloon to a cat. Nala has a pink coat.")
    assert wish.colors == {"elephant": "blue", "cat": "pink"}
    assert wish.characters == ("elephant", "cat")
    assert Wish.of("The dog and a green kite").characters == ()


def test_wishes_agree_with_the_plots():
    found = {"giver": 0, "helper": 0, "colors": 0}
    for index in range(len(WORLD)):
        plot, wish = WORLD._plots(WORLD._rng(index))[0], Wish.of(WORLD.outline(index).prompt)
        actors = (plot.hero, plot.friend) if plot.named else (plot.hero,)
        assert set(wish.characters) == {actor.kind for actor in actors}, wish.text
        assert wish.colors.items() <= {actor.kind: actor.color for actor in actors}.items(), wish.text
        if wish.giver:
            roles = actors[::-1] if GIVING[plot.family] else actors
            assert wish.giver == tuple(actor.kind for actor in roles), wish.text
        if wish.helper:
            assert plot.family in HELPING and wish.helper == (plot.friend.kind, plot.hero.kind), wish.text
        found = {name: count + bool(getattr(wish, name)) for name, count in found.items()}
    assert all(count > len(WORLD) / 12 for count in found.values()), found
