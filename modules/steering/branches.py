"""Branches: a story that forks at a page, as a tree of plans, which grows together where two plans have the same page.

A node is a page with its codes. The pages of the story itself keep their texts and pictures.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, field, replace

import torch
from PIL import Image
from torch import Tensor

from modules.common.errors import UserError
from modules.common.progress import progress_line
from modules.generation.pipeline import StoryPipeline
from modules.layers.seeding import derive_seed
from modules.steering.plan import Plan, drawn_plan
from modules.steering.planned_story import PlannedStory, codes_of
from modules.steering.rendering import Codes

MAX_ENDINGS = 64
DRAWS_PER_BRANCH = 6  # Plans drawn for every branch, to choose those that differ.
RENDERED_AT_ONCE = 16


@dataclass(frozen=True)
class BranchPage:
    """A page of a branched story: `page` is its number from 0, `next` the ids of the pages that may follow.

    `caption` is what the choice of this page is called; without one, its text.
    """

    id: str
    page: int
    codes: tuple[int, ...]
    text: str
    image: Image.Image
    next: tuple[str, ...]
    caption: str = ""


@dataclass(frozen=True)
class BranchedStory:
    """Pages by their ids, those of the story itself first. `start` are the ids of the first pages, `endings` the plans
    of the paths by the ids of their last pages: the first path of each.
    """

    prompt: str
    pages: dict[str, BranchPage]
    start: tuple[str, ...]
    endings: dict[str, Plan]


@dataclass
class _Node:
    """A page while the tree grows: the codes of all pages up to it, and those that follow it."""

    path: Codes
    children: list[_Node] = field(default_factory=list)
    id: str = ""

    @property
    def page(self) -> int:
        return len(self.path) - 1

    def plan(self) -> Codes:
        """Return the codes of the whole story along the first of the pages that follow, each time."""
        path, node = self.path, self
        while node.children:
            node = node.children[0]
            path = (*path, node.path[-1])
        return path


def branch(
    pipeline: StoryPipeline,
    story: PlannedStory,
    page: int,
    num_branches: int = 2,
    depth: int = 1,
    seed: int | None = None,
) -> BranchedStory:
    """Let a story fork into `num_branches` at a page, and again at each of the `depth` - 1 pages after it.

    Every path then goes on to as many pages as the story has. A path that comes to a page that another path has, with
    the same codes, goes on with that one. Raises UserError for more than 64 endings, or fewer than 2 branches.
    """
    num_pages = story.plan.num_pages
    if num_branches < 2 or depth < 1:
        raise UserError(f"a fork has 2 branches or more, at 1 page or more; got {num_branches} and {depth}")
    if num_branches ** min(depth, num_pages - page) > MAX_ENDINGS:
        raise UserError(f"{num_branches} branches at {depth} pages make more than {MAX_ENDINGS} endings: ask for fewer")
    own = seed if seed is not None else derive_seed(story.plan.settings.seed, "branch", page)
    levels = _grow(pipeline, story, page, num_branches, depth, own)
    for number, level in enumerate(levels, 1):
        for index, node in enumerate(level):
            node.id = str(number) if len(level) == 1 else f"{number}{_letters(index)}"
    pages = _render(pipeline, story, [node for level in levels for node in level], own)
    plan, fingerprint = story.plan, story.plan.fingerprint
    endings = {
        node.id: drawn_plan(plan.prompt, node.path, plan.codebook_size, fingerprint, plan.settings)
        for node in levels[-1]
    }
    return BranchedStory(plan.prompt, pages, tuple(node.id for node in levels[0]), endings)


def _grow(
    pipeline: StoryPipeline, story: PlannedStory, page: int, num_branches: int, depth: int, seed: int
) -> list[list[_Node]]:
    """Return the nodes of every page (T), the story's own one first."""
    codes, levels = story.plan.codes, list[list[_Node]]()
    frontier: list[_Node] = [_Node(())]  # Stands before the first page.
    with progress_line("branches: pages planned", len(codes) - page) as line:
        for number in range(len(codes)):
            found: dict[tuple[int, ...], _Node] = {}
            for index, node in enumerate(frontier):
                is_own = node.path == codes[:number]
                if number < page:
                    rows = [codes[number]]
                else:
                    count = num_branches if number < page + depth else 1
                    known = [codes[number]] if is_own else []
                    draw_seed = derive_seed(seed, number, index)
                    rows = _options(pipeline, story, node.path, count, known, set(found), draw_seed)
                for row in rows:
                    child = found.setdefault(row, _Node((*node.path, row)))
                    node.children.append(child)
            frontier = list(found.values())
            levels.append(frontier)
            line.update(max(0, number + 1 - page))
    return levels


def _options(
    pipeline: StoryPipeline,
    story: PlannedStory,
    path: Codes,
    count: int,
    known: Sequence[tuple[int, ...]],
    existing: set[tuple[int, ...]],
    seed: int,
) -> list[tuple[int, ...]]:
    """Return `count` different next pages after a path: the `known` ones first, and then those of the drawn ones whose
    texts differ most. A single one is one that another path has already, if it was drawn.

    There are fewer where all that is drawn is alike.
    """
    plan, chosen = story.plan, list(known[:count])
    if len(chosen) == count:
        return chosen
    remaining = plan.num_pages - len(path)
    history = torch.tensor(path) if path else None
    settings = replace(plan.settings, seed=seed, temperature=max(plan.settings.temperature, 0.8 if count > 1 else 0.0))
    num_plans = DRAWS_PER_BRANCH * count
    drawn = pipeline.plan(plan.prompt, remaining, codes=history, num_plans=num_plans, settings=settings).codes.cpu()
    rows = list(dict.fromkeys(codes_of(drawn[:, 0])))
    if count == 1:
        return [next((row for row in rows if row in existing), rows[0])]
    texts = dict(zip(codes_of(drawn[:, 0]), map(_words, _first_texts(pipeline, path, drawn)), strict=True))
    told = [_words(story.texts[len(path)])] if known else []
    while len(chosen) < count and (left := [row for row in rows if row not in chosen]):
        best = max(left, key=lambda row: min((_difference(texts[row], other) for other in told), default=0.0))
        chosen.append(best)
        told.append(texts[best])
    return chosen


def _words(text: str) -> frozenset[str]:
    return frozenset(re.findall(r"\w+", text.lower()))


def _difference(words: frozenset[str], others: frozenset[str]) -> float:
    """Return the share of the words of two texts that only one of them has."""
    return len(words ^ others) / max(1, len(words | others))


def difference_of_texts(text: str, other: str) -> float:
    """Return the share of the words of two texts that only one of them has."""
    return _difference(_words(text), _words(other))


def _first_texts(pipeline: StoryPipeline, path: Codes, drawn: Tensor) -> list[str]:
    """Return the text of the page after a path for each of the plans (R,T',S) that go on from it."""
    before = torch.tensor(path, dtype=drawn.dtype).view(len(path), drawn.shape[-1]).expand(len(drawn), -1, -1)
    return _texts(pipeline, torch.cat([before, drawn], dim=1), [len(path)] * len(drawn))


@torch.no_grad()
def _texts(pipeline: StoryPipeline, plans: Tensor, pages: Sequence[int]) -> list[str]:
    """Return the text of one page, as `pages` (R,) say, of each of R plans (R,T,S)."""
    code_embeds = pipeline.embed(plans.flatten(0, 1))
    window = pipeline.model.window(code_embeds, [plans.shape[1]] * len(plans))
    rows = torch.arange(len(plans)) * plans.shape[1] + torch.tensor(pages)
    rows = rows.to(pipeline.device)
    ids = pipeline.model.text_decoder.generate(code_embeds[rows], window=None if window is None else window[rows])
    return [pipeline.tokenizer.decode(row) for row in ids]


def _render(pipeline: StoryPipeline, story: PlannedStory, nodes: Sequence[_Node], seed: int) -> dict[str, BranchPage]:
    """Return all pages by id; those that the story does not have are decoded in batches, each in its own plan."""
    num_pages, settings = story.plan.num_pages, replace(story.plan.settings, strength=1.0)
    own = {node.id for node in nodes if node.path == story.plan.codes[: node.page + 1]}
    new, drawn = [node for node in nodes if node.id not in own], dict[str, tuple[str, Image.Image]]()
    with progress_line("branches: pages drawn", len(new)) as line:
        for start in range(0, len(new), RENDERED_AT_ONCE):
            part = new[start : start + RENDERED_AT_ONCE]
            codes = torch.tensor([row for node in part for row in node.plan()])
            pages = [index * num_pages + node.page for index, node in enumerate(part)]
            lengths, batch = [num_pages] * len(part), replace(settings, seed=derive_seed(seed, "drawn", start))
            texts, images = pipeline.render(codes, lengths=lengths, pages=pages, settings=batch)
            drawn |= {node.id: page for node, *page in zip(part, texts, images, strict=True)}  # type: ignore[misc]
            line.update(start + len(part))
    found = {}
    for node in nodes:
        text, image = (story.texts[node.page], story.images[node.page]) if node.id in own else drawn[node.id]
        following = tuple(child.id for child in node.children)
        found[node.id] = BranchPage(node.id, node.page, node.path[-1], text, image, following)
    return found


def _letters(index: int) -> str:
    """Return a, b, ..., z, ba, bb and so on."""
    return ("" if index < 26 else _letters(index // 26)) + chr(ord("a") + index % 26)
