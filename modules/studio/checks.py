"""What a maker should look at again: warnings of a story's pages, and its cast. For models of the story world only."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Any

from modules.common.errors import UserError
from modules.common.shipped import JUDGE, shipped
from modules.evaluation.judge.judge import Judge
from modules.generation.pipeline import StoryPipeline
from modules.steering.planned_story import PlannedStory
from modules.storyworld import mentioned

PRESETS = ("storyworld", "tiny")  # Their pictures are the judge's.
UNUSUAL = 14.0  # Bits above the mean of the other pages.


class Checker:
    """Reads pictures by the judge, where there is one, and compares them with the texts."""

    def __init__(self, pipeline: StoryPipeline) -> None:
        self.judge: Judge | None = None
        if pipeline.config.preset in PRESETS:
            try:
                self.judge = Judge.from_pretrained(shipped(JUDGE))
            except UserError:
                pass  # An installation without the judge: warnings of bits only.

    def check(self, story: PlannedStory, bits: Sequence[float]) -> dict[str, Any]:
        """Return `warnings`, a list of sentences for each page, and the `cast`: kinds, colours and their pages."""
        warnings: list[list[str]] = [unusual(bits, page) for page in range(len(story.texts))]
        if self.judge is None:
            return {"warnings": warnings, "cast": []}
        named = [mentioned(text) for text in story.texts]
        shown = self.judge.read(story.images)
        cast = find_cast(named, shown)
        for page, (words, picture) in enumerate(zip(named, shown, strict=True)):
            seen = picture["characters"] | {picture["object"]}
            missing = sorted((words["characters"] | words["objects"]) - seen)
            if missing:
                warnings[page].append(f"The text names the {' and the '.join(missing)}; the picture does not show it.")
            warnings[page] += wrong_color(words, picture)
            for member in cast:
                color = picture["colors"].get(member["kind"])
                if member["kind"] in words["characters"] and color not in (None, member["color"]):
                    warnings[page].append(
                        f"The {member['kind']} wears {color} here, and {member['color']} on most pages."
                    )
        return {"warnings": warnings, "cast": cast}


def wrong_color(words: dict[str, Any], picture: dict[str, Any]) -> list[str]:
    """Return a warning if a text names one character and one colour, and the picture shows another colour."""
    if len(words["characters"]) != 1 or len(words["colors"]) != 1:
        return []
    (kind,), (color,) = words["characters"], words["colors"]
    worn = picture["colors"].get(kind)
    return [f"The text says {color}; the {kind} wears {worn} in the picture."] if worn not in (None, color) else []


def find_cast(named: Sequence[dict[str, Any]], shown: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """Return who is named on two pages or more, or on the only one, most often first, with the colour worn most."""
    counts = Counter(kind for page in named for kind in page["characters"])
    cast = []
    for kind, count in counts.most_common():
        colors = Counter(
            page["colors"][kind]
            for words, page in zip(named, shown, strict=True)
            if kind in words["characters"] and kind in page["colors"]
        )
        if count >= min(2, len(named)) and colors:
            pages = [page for page, words in enumerate(named) if kind in words["characters"]]
            cast.append({"kind": kind, "color": colors.most_common(1)[0][0], "pages": pages})
    return cast


def unusual(bits: Sequence[float], page: int) -> list[str]:
    """Return a warning if a page costs far more bits than the others."""
    others = [value for other, value in enumerate(bits) if other != page]
    if not others or bits[page] - sum(others) / len(others) < UNUSUAL:
        return []
    return [f"Unusual: a page like this costs {bits[page]:.0f} bits here, the others {sum(others) / len(others):.0f}."]
