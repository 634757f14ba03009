"""Families of plots: in each, every event follows from the ones before."""

from __future__ import annotations

from modules.storyworld.episode import Plot
from modules.storyworld.labels import OBJECTS

# The first who is not the hero comes to help, unless the prompt names another.
TOOL_OWNERS = {
    "ladder": ("bear", "girl"),
    "plank": ("pig", "frog"),
    "key": ("cat", "boy"),
    "lantern": ("fox", "rabbit"),
    "umbrella": ("frog", "girl"),
    "sled": ("penguin", "elephant"),
}
PLACE_FRIENDS = {
    "beach": ("elephant", "frog"),
    "forest": ("fox", "bear"),
    "farm": ("pig", "rabbit"),
    "city": ("boy", "cat"),
    "castle": ("girl", "elephant"),
    "mountains": ("penguin", "bear"),
    "kitchen": ("cat", "girl"),
    "moon": ("rabbit", "boy"),
}
OBSTACLE_TOOLS = {"rock": "ladder", "river": "plank", "box": "key", "cave": "lantern"}
WEATHER_TOOLS = {"rain": "umbrella", "snow": "sled", "night": "lantern"}
OBSTACLES = {
    "beach": ("rock", "river", "box", "cave"),
    "forest": ("rock", "river", "box", "cave"),
    "farm": ("river", "box"),
    "city": ("river", "box"),
    "castle": ("rock", "river", "box"),
    "mountains": ("rock", "river", "box", "cave"),
    "kitchen": ("box",),
    "moon": ("rock", "box", "cave"),
}


def quest(plot: Plot) -> None:
    """The hero wants something; the way to it is barred until somebody lends the right tool."""
    obstacle = plot.rng.choice(OBSTACLES[plot.place])
    tool, together = OBSTACLE_TOOLS[obstacle], plot.accompanied
    plot.befriend(TOOL_OWNERS[tool])
    plot.add("want", "want", plot.home, together, object=plot.object)
    plot.go()
    if not together and plot.chance(0.3):
        plot.add("seek", "search", plot.place, object=plot.object)
    plot.add("blocked", "cry", plot.place, object=plot.object, obstacle=obstacle)
    if not together and plot.chance(0.5):
        plot.add("meet", "meet", plot.place, together=True, tool=tool)
    plot.add("use", "use", plot.place, together=True, object=plot.object, tool=tool, obstacle=obstacle)
    plot.end()


def lost(plot: Plot) -> None:
    """The hero loses something, and finds it where it was lost."""
    together = plot.accompanied
    if plot.home != plot.place or plot.chance(0.5):
        plot.add("play", "play", plot.home, together, object=plot.object)
    plot.go()
    plot.add("lose", "lose", plot.place, together, object=plot.object)
    if not together and plot.chance(0.4) and len(plot.pages) < 3:
        plot.add("cry", "cry", plot.place)
    if not together and (plot.named or plot.chance(0.6)):
        plot.befriend(PLACE_FRIENDS[plot.place])
        plot.add("meet", "meet", plot.place, together=True)
    plot.add("search", "search", plot.place, together=True, object=plot.object)
    plot.add("find", "find", plot.place, together=True, object=plot.object)
    plot.end()


def gift(plot: Plot) -> None:
    """The hero finds something and gives it to somebody sad; both go home happy."""
    plot.befriend(PLACE_FRIENDS[plot.place])
    plot.accompanied = False  # They meet only at the place.
    plot.add("discover", "find", plot.home, object=plot.object)
    if plot.chance(0.3):
        plot.add("play", "play", plot.home, object=plot.object)
    plot.go()
    plot.add("friend_cry", "cry", plot.place, together=True)
    plot.add("give", "give", plot.place, together=True, object=plot.object)
    if plot.chance(0.4):
        plot.add("play", "play", plot.place, together=True, object=plot.object)
    plot.end()


def present(plot: Plot) -> None:
    """The hero wants something, and somebody who has it gives it away."""
    plot.befriend(PLACE_FRIENDS[plot.place])
    plot.add("want", "want", plot.home, plot.accompanied, object=plot.object)
    plot.go()
    if not plot.accompanied and plot.chance(0.5):
        plot.add("meet", "meet", plot.place, together=True, object=plot.object)
    plot.add("receive", "give", plot.place, together=True, object=plot.object)
    if plot.chance(0.5):
        plot.add("play", "play", plot.place, together=True, object=plot.object)
    plot.end()


def storm(plot: Plot) -> None:
    """Out with a toy, the hero is surprised by rain, snow or the night, and somebody has the right thing for it."""
    trouble = plot.rng.choice(tuple(WEATHER_TOOLS))
    tool, together = WEATHER_TOOLS[trouble], plot.accompanied
    plot.befriend(TOOL_OWNERS[tool])
    plot.weather = "sunny"
    plot.add("play", "play", plot.home, together, object=plot.object)
    plot.go()
    plot.weather = trouble
    plot.add("trouble", "cry", plot.place, together, object=plot.object)
    if not together and plot.chance(0.5):
        plot.add("meet", "meet", plot.place, together=True, tool=tool)
    plot.add("use", "use", plot.place, together=True, object=plot.object, tool=tool)
    plot.weather = "night" if trouble == "night" else "sunny"
    plot.end()


def trade(plot: Plot) -> None:
    """Somebody has what the hero wants, and parts with it for another thing, which the hero goes and finds."""
    other = plot.rng.choice([name for name in OBJECTS if name != plot.object])
    plot.befriend(PLACE_FRIENDS[plot.place])
    plot.accompanied = False  # They meet only at the place.
    plot.add("want", "want", plot.home, object=plot.object)
    plot.go()
    plot.add("meet", "meet", plot.place, together=True, object=plot.object)
    plot.add("friend_want", "want", plot.place, together=True, object=other)
    plot.add("discover", "find", plot.place, object=other)
    plot.add("give", "give", plot.place, together=True, object=other)
    plot.add("give_back", "give", plot.place, together=True, object=plot.object)
    plot.end(sleep=0.2)


def share(plot: Plot) -> None:
    """Two friends have one thing together, lose it perhaps and find it again, and share it."""
    plot.befriend(PLACE_FRIENDS[plot.home])
    wanted = plot.chance(0.4)
    plot.add(*("want", "want") if wanted else ("discover", "find"), plot.home, together=True, object=plot.object)
    plot.go()
    if not wanted and plot.chance(0.4):
        plot.add("lose", "lose", plot.place, together=True, object=plot.object)
        plot.add("search", "search", plot.place, together=True, object=plot.object)
        wanted = True
    if wanted:
        plot.add("find", "find", plot.place, together=True, object=plot.object)
    plot.add("share", "play", plot.place, together=True, object=plot.object)
    if plot.chance(0.3):
        plot.add("play", "play", plot.place, together=True, object=plot.object)
    plot.end()
