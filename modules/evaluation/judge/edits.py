"""Edits of story-world texts: one attribute of a page is replaced, and the judge reads whether its new picture shows
this attribute, and the others as before.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from modules.storyworld import CHARACTERS, COLORS, OBJECTS, PLACES, WEATHERS, mentioned
from modules.storyworld.labels import AT, GARMENTS, HARD_TO_SEE, NAMES, SHE, with_article

SINGLE = {"objects": "object", "places": "place", "weathers": "weather"}  # Of a group's label in a judge's prediction.
_DAYS = {"sunny": "One sunny day", "rain": "One rainy day", "snow": "One snowy day", "night": "One night"}
Labels = Mapping[str, Any]


@dataclass(frozen=True)
class Change:
    """A page's new `text`, in which a label of a group, `old`, is replaced by `new`."""

    group: str
    old: str
    new: str
    text: str

    def is_obeyed(self, before: Labels, after: Labels) -> bool:
        """Return whether a new picture shows the new label; a colour, on those who wore the old one."""
        if self.group == "characters":
            return self.new in after["characters"]
        if self.group != "colors":
            return after[SINGLE[self.group]] == self.new
        wearers = [kind for kind, color in before["colors"].items() if color == self.old]
        worn = [after["colors"].get(kind) for kind in wearers] or list(after["colors"].values())
        return set(worn) == {self.new} if wearers else self.new in worn

    def kept(self, before: Labels, after: Labels) -> list[bool]:
        """Return whether each of the other attributes is as before: of the characters in both pictures, the colours."""
        names = [name for name in ("place", "object", "weather", "action") if name != SINGLE.get(self.group)]
        same = [before[name] == after[name] for name in names]
        others = [set(labels["characters"]) - {self.old, self.new} for labels in (before, after)]
        same.append(others[0] == others[1])
        kept = {kind: color for kind, color in before["colors"].items() if (self.group, color) != ("colors", self.old)}
        return same + [after["colors"][kind] == kept[kind] for kind in sorted(kept) if kind in after["colors"]]


def change_text(text: str, turn: int) -> Change | None:
    """Return a page's text with one attribute replaced; `turn` chooses which and by what. None if the text has none
    that can be replaced.
    """
    groups = list(_REPLACE)
    for group in groups[turn % len(groups) :] + groups[: turn % len(groups)]:
        replace, labels = _REPLACE[group]
        for old in sorted(mentioned(text)[group]):
            named = mentioned(text)
            free = [label for label in labels if label not in named[group] and _fits(group, old, label, named)]
            new = free[turn % len(free)]
            changed = replace(text, old, new)
            if changed != text and mentioned(changed)[group] == named[group] - {old} | {new}:
                return Change(group, old, new, changed)
    return None


def _fits(group: str, old: str, new: str, named: Mapping[str, set[str]]) -> bool:
    """Return whether the change can be seen, and takes no other words."""
    if group == "colors":
        return not any((kind, new) in HARD_TO_SEE for kind in named["characters"])
    return group != "characters" or (old in SHE) == (new in SHE)


def _word(text: str, old: str, new: str) -> str:
    text = re.sub(rf"\ban? {old}\b", with_article(new), text)
    return re.sub(rf"\b{old}\b", new, text)


def _place(text: str, old: str, new: str) -> str:
    for phrase, other in ((AT[old], AT[new]), (f"the {old}", f"the {new}")):
        text = text.replace(phrase, other).replace(phrase.capitalize(), other.capitalize())
    return text


def _character(text: str, old: str, new: str) -> str:
    text = _word(re.sub(rf"\b{NAMES[old]}\b", NAMES[new], text), old, new)
    worn = rf"\b((?:{NAMES[new]}|{new})(?: the {new})? in \w+ \w+) {GARMENTS[old]}\b"
    return re.sub(worn, rf"\1 {GARMENTS[new]}", text)


def _weather(text: str, old: str, new: str) -> str:
    return text.replace(_DAYS[old], _DAYS[new])


_REPLACE: dict[str, tuple[Callable[[str, str, str], str], Sequence[str]]] = {
    "colors": (_word, COLORS),
    "objects": (_word, OBJECTS),
    "places": (_place, PLACES),
    "characters": (_character, CHARACTERS),
    "weathers": (_weather, WEATHERS),
}
