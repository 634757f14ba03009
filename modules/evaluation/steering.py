"""What steering is worth: edits that hold and stay local, exact replays, branches that differ, and search."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch

from modules.common.progress import track
from modules.evaluation.judge.attributes import score_agreement
from modules.evaluation.judge.edits import change_text
from modules.evaluation.judge.judge import Judge
from modules.evaluation.metrics.statistics import Estimate, mean_over_rows
from modules.generation.pipeline import StoryPipeline
from modules.generation.settings import GenerationSettings
from modules.steering.alternatives import code_probabilities, distinct_codes
from modules.steering.branches import branch, difference_of_texts
from modules.steering.edit import set_codes, set_text
from modules.steering.planned_story import PlannedStory, replay, tell
from modules.steering.search import search
from modules.story import StoryStep

NUM_PAGES, NUM_PLANS = 4, 16
Row = dict[str, float]  # Of one story.


@torch.no_grad()
def measure_steering(
    pipeline: StoryPipeline, prompts: Sequence[str], seed: int = 0, judge: Judge | None = None
) -> dict[str, Estimate]:
    """Steer a story of each of B prompts, and return how well every operation does, by name.

    With a `judge`, which reads story-world pictures, edits by words and what search gains are included.
    """
    rows, stories = list[Row](), list[tuple[PlannedStory, PlannedStory]]()
    worded: list[Row] = []
    for index, prompt in enumerate(track("stories steered", prompts)):
        settings = GenerationSettings(seed=seed + index)
        story = tell(pipeline, prompt, NUM_PAGES, settings)
        rows.append(_edit(pipeline, story, index % NUM_PAGES, index % story.plan.num_slots))
        rows[-1]["branches_differ"] = _branch(pipeline, story)
        if judge is not None:
            worded += _edit_text(pipeline, story, index, judge)
            best = search(pipeline, prompt, NUM_PAGES, NUM_PLANS, keep=1, settings=settings)[0]
            stories.append((story, replay(pipeline, best.plan)))
    floors = {"edit_fidelity": _mean(rows, "before"), "edit_locality": 0.0, "branches_differ": 0.0}
    ceilings = {"edit_fidelity": _mean(rows, "found")}
    owners = np.arange(len(rows))
    metrics = {
        name: mean_over_rows(
            [row[name] for row in rows], owners, seed, floor=floors.get(name, 0.0), ceiling=ceilings.get(name, 1.0)
        )
        for name in ("edit_fidelity", "edit_locality", "other_pages_same", "replay_exact", "branches_differ")
    }
    if judge is None:
        return metrics
    if worded:
        for name, floor in (("text_edit_obeyed", _mean(worded, "shown_before")), ("text_edit_kept", 0.0)):
            metrics[name] = mean_over_rows(
                [row[name] for row in worded], np.arange(len(worded)), seed, floor=floor, ceiling=1.0
            )
    return metrics | {"search_agree": _search_gain(stories, judge, seed)}


def _edit(pipeline: StoryPipeline, story: PlannedStory, page: int, slot: int) -> Row:
    """Set one code of a page to the likeliest other one that is no twin of it, read the page again, and replay the
    story.

    `before` is how often the page has the new code already, `found` how often its own codes are read in it.
    """
    plan = story.plan
    probabilities = code_probabilities(pipeline, plan, page, slot)
    code = distinct_codes(pipeline, probabilities, plan.codes[page][slot], 1)[-1]
    edited = set_codes(pipeline, story, page, {slot: code})
    steps = [StoryStep(told.texts[page], told.images[page]) for told in (story, edited)]
    old, new = pipeline.encode(steps).cpu()
    others = torch.arange(plan.num_slots) != slot
    again = replay(pipeline, edited.plan)
    kept = [index for index in range(plan.num_pages) if index != page]
    return {
        "edit_fidelity": float(new[slot] == code),
        "before": float(old[slot] == code),
        "found": float((old == torch.tensor(plan.codes[page])).double().mean()),
        "edit_locality": float((new == old)[others].double().mean()),
        "other_pages_same": _share_same(story, edited, kept),
        "replay_exact": _share_same(edited, again, range(plan.num_pages)),
    }


def _edit_text(pipeline: StoryPipeline, story: PlannedStory, index: int, judge: Judge) -> list[Row]:
    """Replace one attribute in the words of a page, and let the judge read its new picture; nothing if the words name
    none.
    """
    page = index % NUM_PAGES
    change = change_text(story.texts[page], index)
    if change is None:
        return []
    edited = set_text(pipeline, story, page, change.text)
    before, after = judge.read([told.images[page] for told in (story, edited)])
    return [
        {
            "text_edit_obeyed": float(change.is_obeyed(before, after)),
            "text_edit_kept": float(np.mean(change.kept(before, after))),
            "shown_before": float(change.is_obeyed(before, before)),
        }
    ]


def _share_same(one: PlannedStory, other: PlannedStory, pages: Sequence[int]) -> float:
    """Return the share of pages with equal texts and equal pixels."""
    same = [
        one.texts[page] == other.texts[page] and one.images[page].tobytes() == other.images[page].tobytes()
        for page in pages
    ]
    return float(np.mean(same))


def _branch(pipeline: StoryPipeline, story: PlannedStory) -> float:
    """Return the share of the words of the two pages of a fork that only one of them has; 0 where none was found."""
    fork = [page for page in branch(pipeline, story, NUM_PAGES - 1).pages.values() if page.page == NUM_PAGES - 1]
    return difference_of_texts(fork[0].text, fork[1].text) if len(fork) > 1 else 0.0


def _search_gain(stories: Sequence[tuple[PlannedStory, PlannedStory]], judge: Judge, seed: int) -> Estimate:
    """Return how often the pictures of the best plans show what their texts name; the floor is the first plan drawn."""
    lengths = [NUM_PAGES] * len(stories)
    first, best = (
        score_agreement(texts, judge.read(images), texts, judge.read(images), lengths, seed)["text_and_picture_agree"]
        for texts, images in (
            (
                [text for pair in stories for text in pair[place].texts],
                [image for pair in stories for image in pair[place].images],
            )
            for place in (0, 1)
        )
    )
    return Estimate(best.value, best.low, best.high, floor=first.value, ceiling=1.0)


def _mean(rows: Sequence[Row], name: str) -> float:
    return float(np.mean([row[name] for row in rows]))
