"""Stories as `cast_probe.py` reads them: the slots of all pages, before and after quantising, and the labels."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import common  # noqa: F401 - makes `modules` importable.
import torch
from torch import Tensor

from modules.common.progress import track
from modules.evaluation.held_out import encode_stories
from modules.generation.pipeline import StoryPipeline
from modules.storyworld import CHARACTERS, COLORS, OBJECTS, StoryWorld

ATTRIBUTES: Mapping[str, Sequence[str | None]] = {  # What is the same on all pages of a story.
    "hero": CHARACTERS,
    "hero_colour": COLORS,
    "friend": (*CHARACTERS, None),
    "friend_colour": COLORS,
    "object": OBJECTS,
}
ABSENT = -100  # The label of a story without a friend, or without an object; `cross_entropy` ignores it.
ENCODE_BATCH = 128


@dataclass(frozen=True)
class StorySlots:
    """B stories of up to T pages: slots (B,T,S,d) `before` and `after` quantising, and the stories' labels (B,).

    `page_mask` (B,T) is True where there is a page.
    """

    before: Tensor
    after: Tensor
    page_mask: Tensor
    labels: dict[str, Tensor]

    def slots(self, quantised: bool) -> Tensor:
        """Return the slots (B,T,S,d) before or after quantising."""
        return self.after if quantised else self.before


@torch.no_grad()
def read_slots(pipeline: StoryPipeline, world: StoryWorld, title: str) -> StorySlots:
    """Encode stories, texts and pictures together."""
    storyboard, stories = pipeline.model.storyboard, encode_stories(pipeline, world, title)
    before, after = list[Tensor](), list[Tensor]()
    for start in track(f"slots of {title}", range(0, len(stories.texts), ENCODE_BATCH)):
        board = storyboard(stories.steps(slice(start, start + ENCODE_BATCH)).to(pipeline.device))
        before.append(storyboard.quantizer.normalise(board.slots).cpu())
        after.append(storyboard.embed(board.codes).code_embeds.cpu())
    padded = list[Tensor]()
    for rows in (torch.cat(before), torch.cat(after)):
        padded.append(torch.nn.utils.rnn.pad_sequence(rows.split(stories.lengths), batch_first=True))
    page_mask = torch.arange(padded[0].shape[1]) < torch.tensor(stories.lengths)[:, None]
    return StorySlots(padded[0], padded[1], page_mask, label_stories(stories.attributes))


def label_stories(stories: Sequence[Sequence[Mapping[str, Any]]]) -> dict[str, Tensor]:
    """Return the labels (B,) of the pages' attributes of B stories; the object is the first that a page shows."""
    labels: dict[str, list[int]] = {name: [] for name in ATTRIBUTES}
    for pages in stories:
        friends = [(page["characters"][1], page["colors"][1]) for page in pages if len(page["characters"]) > 1]
        friend, color = friends[0] if friends else (None, None)
        found = {
            "hero": pages[0]["hero"],
            "hero_colour": pages[0]["colors"][0],
            "friend": friend,
            "friend_colour": color,
            "object": next((page["object"] for page in pages if page["object"]), None),
        }
        for name, word in found.items():
            labels[name].append(ATTRIBUTES[name].index(word) if word in ATTRIBUTES[name] else ABSENT)
    return {name: torch.tensor(column) for name, column in labels.items()}
