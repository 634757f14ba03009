"""What a maker should look at again: warnings of a story's pages, and its cast. For models of the story world only."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from modules.common.errors import UserError
from modules.common.shipped import JUDGE, shipped
from modules.evaluation.judge.judge import Judge
from modules.generation.pipeline import StoryPipeline
from modules.steering.locks import Locks
from modules.steering.planned_story import PlannedStory
from modules.storyworld import CHARACTERS, COLORS, mentioned

LOCKS_TRIED = 3  # So often an edit is made anew where it changes a character that is locked,
TEXTS_TRIED = 6  # and so often its texts before, without pictures.
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

    def check(
        self, story: PlannedStory, bits: Sequence[float], held: Mapping[str, str] | None = None
    ) -> dict[str, Any]:
        """Return `warnings`, a list of sentences for each page, and the `cast`: kinds, names, colours and their pages.

        `held` are the colours of locked characters by kind.
        """
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
            warnings[page] += wrong_colors(story.texts[page], words, picture)
            for member in cast:
                kind, color = member["kind"], picture["colors"].get(member["kind"])
                usual = (held or {}).get(kind, member["color"])
                if kind in words["characters"] and color not in (None, usual):
                    why = f"but is locked to {usual}" if kind in (held or {}) else f"and {usual} on most pages"
                    warnings[page].append(f"The {kind} wears {color} here, {why}.")
        for member in cast:
            member["name"] = name_of(member["kind"], story.texts)
        return {"warnings": warnings, "cast": cast}

    def changes(self, old: PlannedStory, new: PlannedStory, held: Mapping[str, str]) -> int:
        """Return on how many new pages a locked character is missing, or wears another colour; `held` as in `check`."""
        if self.judge is None or not held:
            return 0
        before = dict(enumerate(zip(old.texts, old.images, strict=True)))
        fresh = [
            page
            for page, (text, image) in enumerate(zip(new.texts, new.images, strict=True))
            if before.get(page) != (text, image)
        ]
        shown = self.judge.read([new.images[page] for page in fresh]) if fresh else []
        count = 0
        for page, picture in zip(fresh, shown, strict=True):
            words = mentioned(new.texts[page])["characters"]
            expected = mentioned(old.texts[page])["characters"] if len(old.texts) == len(new.texts) else words
            for kind, color in held.items():
                is_there = kind in words and kind in picture["characters"] and picture["colors"].get(kind) == color
                count += kind in words | expected and not is_there
        return count


def texts_change(old: Sequence[str], new: Sequence[str], held: Mapping[str, str]) -> bool:
    """Return whether new texts leave a locked character out, or give it a colour that it has nowhere in the old ones.

    The pages are the same ones.
    """
    known = {kind: {color, None, *(color_of(kind, text) for text in old)} for kind, color in held.items()}
    for before, text in zip(old, new, strict=True):
        words = mentioned(text)["characters"]
        for kind in held.keys() & (words | mentioned(before)["characters"]):
            if text != before and (kind not in words or color_of(kind, text) not in known[kind]):
                return True
    return False


def hold(locks: Locks, texts: Sequence[str], held: Mapping[str, str], carriers: Sequence[int]) -> Locks:
    """Return locks that also keep the codes in the slots `carriers` of pages whose texts name a locked character."""
    pages = [page for page, text in enumerate(texts) if held.keys() & mentioned(text)["characters"]]
    return replace(locks, codes=locks.codes | {(page, slot) for page in pages for slot in carriers})


def split_locks(words: Sequence[str]) -> tuple[list[str], dict[str, str]]:
    """Return the locks of pages, and the colours of locked characters by kind, of which cast.fox.red is one.

    Raises UserError for a character or a colour that there is not.
    """
    pages, held = [], {}
    for word in words:
        first, _, rest = word.partition(".")
        if first != "cast":
            pages.append(word)
            continue
        kind, _, color = rest.partition(".")
        if kind not in CHARACTERS or color not in COLORS:
            raise UserError(f'"{word}": there is no such character or colour: write cast.KIND.COLOUR')
        held[kind] = color
    return pages, held


def name_of(kind: str, texts: Sequence[str]) -> str:
    """Return the name that a character of a kind has in the texts, such as Rusty in "Rusty the fox"; or none."""
    names = Counter(re.findall(rf"\b([A-Z]\w*) the {re.escape(kind)}\b", " ".join(texts)))
    return names.most_common(1)[0][0] if names else ""


def color_of(kind: str, text: str) -> str | None:
    """Return the colour that a text gives a character, as "the fox in his red coat" does; None if it gives none."""
    found = re.search(rf"\b{re.escape(kind)} in (?:an?|the|his|her) (\w+) ", text)
    return found[1] if found and found[1] in COLORS else None


def wrong_colors(text: str, words: dict[str, Any], picture: dict[str, Any]) -> list[str]:
    """Return a warning for each character that wears another colour in the picture than its text says.

    A colour belongs to the character before it, as in "the fox in a red coat", or, if it is the only one, to the only
    character.
    """
    found = []
    for kind in sorted(words["characters"]):
        said, worn = color_of(kind, text), picture["colors"].get(kind)
        if said is None and len(words["characters"]) == len(words["colors"]) == 1:
            (said,) = words["colors"]
        if None not in (said, worn) and said != worn:
            found.append(f"The text says {said}; the {kind} wears {worn} in the picture.")
    return found


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
    return [f"Unusual: this page costs {bits[page]:.0f} bits, the others {sum(others) / len(others):.0f} on average."]
