"""What steering is worth: edits that hold and stay local, exact replays, pages that fit in, branches that differ, and
search.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor

from modules.common.progress import track
from modules.encoded.stories import EncodedStories
from modules.evaluation.judge.attributes import score_agreement
from modules.evaluation.judge.edits import Labels, change_text
from modules.evaluation.judge.judge import Judge
from modules.evaluation.metrics.statistics import Estimate, bootstrap_mean, mean_over_rows
from modules.generation.pipeline import StoryPipeline
from modules.generation.settings import GenerationSettings
from modules.steering.alternatives import TWIN_COSINE, code_probabilities, distinct_codes
from modules.steering.arrange import insert
from modules.steering.branches import branch, difference_of_texts
from modules.steering.edit import set_codes, set_image, set_text
from modules.steering.planned_story import PlannedStory, replay, tell
from modules.steering.search import search
from modules.story import StoryStep
from modules.storyworld import mentioned

NUM_PAGES, NUM_PLANS = 4, 16
Row = dict[str, float]  # Of one story.


@torch.no_grad()
def measure_steering(
    pipeline: StoryPipeline,
    prompts: Sequence[str],
    seed: int = 0,
    judge: Judge | None = None,
    pictures: Sequence[Image.Image | None] = (),
) -> dict[str, Estimate]:
    """Steer a story of each of B prompts, and return how well every operation does, by name.

    With a `judge`, which reads story-world pictures, edits by words and what search gains are included, and edits by
    the `pictures` (B,), each of another story.
    """
    rows, stories = list[Row](), list[tuple[PlannedStory, PlannedStory]]()
    worded, shown, filled = list[Row](), list[Row](), list[tuple[set[str], set[str]]]()
    for index, prompt in enumerate(track("stories steered", prompts)):
        settings = GenerationSettings(seed=seed + index)
        story = tell(pipeline, prompt, NUM_PAGES, settings)
        rows.append(_edit(pipeline, story, index % NUM_PAGES, index % story.plan.num_slots))
        rows[-1]["branches_differ"] = _branch(pipeline, story)
        if judge is None:
            continue
        worded += _edit_text(pipeline, story, index, judge)
        if pictures and (picture := pictures[index]) is not None:
            shown.append(_edit_image(pipeline, story, index % NUM_PAGES, picture, judge))
        filled.append(_infill(pipeline, story))
        best = search(pipeline, prompt, NUM_PAGES, NUM_PLANS, keep=1, settings=settings)[0]
        stories.append((story, replay(pipeline, best.plan)))
    floors = {"edit_fidelity": _mean(rows, "before"), "edit_near": _mean(rows, "near_before")}
    ceilings = {"edit_fidelity": _mean(rows, "found"), "edit_near": _mean(rows, "near_found")}
    names = ("edit_fidelity", "edit_near", "edit_locality", "other_pages_same", "replay_exact", "branches_differ")
    metrics = {name: _estimate(rows, name, seed, floors.get(name, 0.0), ceilings.get(name, 1.0)) for name in names}
    if judge is None:
        return metrics
    if worded:
        metrics["text_edit_obeyed"] = _estimate(worded, "text_edit_obeyed", seed, _mean(worded, "shown_before"))
        metrics["text_edit_kept"] = _estimate(worded, "text_edit_kept", seed)
    if shown:
        metrics["image_edit_told"] = _estimate(shown, "image_edit_told", seed, _mean(shown, "told_before"))
    return metrics | {"infill_cast": _cast_kept(filled, seed), "search_agree": _search_gain(stories, judge, seed)}


@torch.no_grad()
def measure_infill_bits(
    pipeline: StoryPipeline, stories: EncodedStories, codes: Tensor, count: int, seed: int = 0
) -> dict[str, Estimate]:
    """Return how many bits the pages after it save a page that is not the last, of the first `count` stories with their
    codes (N,S); the ceiling is what such a page costs given the past alone. Empty for a prior that is given no pages,
    and for stories of less than three.
    """
    prior, saved, costs = pipeline.model.prior, list[list[float]](), list[float]()
    if prior.given_pages is None:
        return {}
    for index in (index for index in range(count) if stories.lengths[index] >= 3):
        own = codes[list(stories.rows(index))][None].to(pipeline.device)
        prompt = stories.prompt_ids[[index]].to(pipeline.device), stories.prompt_mask[[index]].to(pipeline.device)
        mask, pages = torch.ones_like(own[:, :, 0], dtype=torch.bool), torch.arange(own.shape[1], device=own.device)
        alone = prior.score(own, *prompt, mask).nll[0].sum(-1)[:-1]
        given = [prior.score(own, *prompt, mask, pages[pages != page][None]).nll[0, page].sum() for page in pages[:-1]]
        costs += (alone / math.log(2)).tolist()
        saved.append(((alone - torch.stack(given)) / math.log(2)).tolist())
    sums, counts = [sum(row) for row in saved], [len(row) for row in saved]
    if not saved:
        return {}
    return {"infill_bits_saved": bootstrap_mean(sums, counts, seed, floor=0.0, ceiling=float(np.mean(costs)))}


def _edit(pipeline: StoryPipeline, story: PlannedStory, page: int, slot: int) -> Row:
    """Set one code of a page to the likeliest other one that is no twin of it, read the page again, and replay the
    story.

    `before` is how often the page has the new code already, `found` how often its own codes are read in it; "near"
    allows twins of these codes.
    """
    plan = story.plan
    probabilities = code_probabilities(pipeline, plan, page, slot)
    code = distinct_codes(pipeline, probabilities, plan.codes[page][slot], 1)[-1]
    edited = set_codes(pipeline, story, page, {slot: code})
    steps = [StoryStep(told.texts[page], told.images[page]) for told in (story, edited)]
    old, new = pipeline.encode(steps).cpu()
    others = torch.arange(plan.num_slots) != slot
    again = replay(pipeline, edited.plan)
    near, own_near = (
        _alike(pipeline, new[slot], torch.tensor(code)),
        _alike(pipeline, old, torch.tensor(plan.codes[page])),
    )
    kept = [index for index in range(plan.num_pages) if index != page]
    return {
        "edit_fidelity": float(new[slot] == code),
        "before": float(old[slot] == code),
        "found": float((old == torch.tensor(plan.codes[page])).double().mean()),
        "edit_near": float(near.double().mean()),
        "near_before": float(_alike(pipeline, old[slot], torch.tensor(code)).double().mean()),
        "near_found": float(own_near.double().mean()),
        "edit_locality": float((new == old)[others].double().mean()),
        "other_pages_same": _share_same(story, edited, kept),
        "replay_exact": _share_same(edited, again, range(plan.num_pages)),
    }


def _alike(pipeline: StoryPipeline, codes: Tensor, others: Tensor) -> Tensor:
    """Return which codes (...,) are the others (...,) or twins of these."""
    one, two = (pipeline.embed(value).float().cpu() for value in (codes, others))
    return F.cosine_similarity(one, two, dim=-1) >= TWIN_COSINE


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


def _edit_image(pipeline: StoryPipeline, story: PlannedStory, page: int, picture: Image.Image, judge: Judge) -> Row:
    """Give a page a picture of another story, and return whether its new text tells what the judge reads there."""
    edited, (seen,) = set_image(pipeline, story, page, picture), judge.read([picture])
    told = [_tells(one.texts[page], seen) for one in (story, edited)]
    return {"told_before": float(told[0]), "image_edit_told": float(told[1])}


def _tells(text: str, seen: Labels) -> bool:
    """Return whether a text names somebody, and nobody, no object and no place but those seen."""
    named = mentioned(text)
    known = seen["characters"] | {seen["object"], seen["place"]}
    return bool(named["characters"]) and named["characters"] | named["objects"] | named["places"] <= known


def _infill(pipeline: StoryPipeline, story: PlannedStory) -> tuple[set[str], set[str]]:
    """Write a page into the middle of a story, and return who is named there, and who in the story."""
    place = NUM_PAGES // 2
    new = insert(pipeline, story, place).texts[place]
    return mentioned(new)["characters"], set().union(*(mentioned(text)["characters"] for text in story.texts))


def _cast_kept(filled: Sequence[tuple[set[str], set[str]]], seed: int) -> Estimate:
    """Return the share of those named on new pages who are named in their stories; the floor is by other stories."""
    owners = np.arange(len(filled))
    casts = [[cast for _, cast in filled], [filled[index - 1][1] for index in range(len(filled))]]
    own, others = (
        [len(new & cast) / len(new) if new else math.nan for (new, _), cast in zip(filled, each, strict=True)]
        for each in casts
    )
    floor = mean_over_rows(others, owners, seed).value if len(filled) > 1 else None
    return mean_over_rows(own, owners, seed, floor=floor, ceiling=1.0, is_share=True)


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


def _estimate(rows: Sequence[Row], name: str, seed: int, floor: float = 0.0, ceiling: float = 1.0) -> Estimate:
    values = [row[name] for row in rows]
    return mean_over_rows(values, np.arange(len(rows)), seed, floor=floor, ceiling=ceiling, is_share=True)


def _mean(rows: Sequence[Row], name: str) -> float:
    return float(np.mean([row[name] for row in rows]))
