"""Branched stories: every path can be walked to its end, and the story itself is one of them."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from modules.common.errors import UserError
from modules.presentation.story.branching import write_branches
from modules.presentation.text import clean
from modules.steering.branches import BranchedStory, branch
from tests.support.html_pages import Collector


def paths(story: BranchedStory) -> list[list[str]]:
    found, unfinished = [], [[name] for name in story.start]
    while unfinished:
        path = unfinished.pop()
        following = story.pages[path[-1]].next
        unfinished += [[*path, name] for name in following]
        found += [] if following else [path]
    return found


@pytest.fixture(scope="module")
def branched(tiny_pipeline, story) -> BranchedStory:
    return branch(tiny_pipeline, story, 1, num_branches=2, depth=2)


def test_every_path_has_all_pages_and_an_end(branched, story):
    walks = paths(branched)
    assert len(walks) == 4 and all(len(walk) == 4 for walk in walks)
    assert {walk[-1] for walk in walks} == set(branched.endings)
    assert [branched.pages[name].page for name in walks[0]] == [0, 1, 2, 3]
    assert {name for walk in walks for name in walk} == set(branched.pages)
    for walk in walks:
        own = [branched.pages[name].codes for name in walk]
        assert len(own) == 4
    assert any(branched.endings[name].codes == story.plan.codes for name in branched.endings)


def test_the_story_itself_keeps_its_pages(branched, story):
    own = [page for page in branched.pages.values() if page.image in story.images]
    assert [page.text for page in own] == list(story.texts)
    assert [page.codes for page in own] == list(story.plan.codes)


def test_branches_are_deterministic_and_follow_the_seed(tiny_pipeline, story):
    first, again, other = (branch(tiny_pipeline, story, 3, seed=seed) for seed in (None, None, 77))
    pages = [[(page.id, page.text, page.image.tobytes()) for page in some.pages.values()] for some in (first, again)]
    assert pages[0] == pages[1]
    assert {page.codes for page in other.pages.values()} != {page.codes for page in first.pages.values()}


def test_paths_that_meet_go_on_together(tiny_pipeline, story, monkeypatch):
    """Where every plan has the same page, there is one such page."""
    from modules.steering import branches

    options = branches._options

    def same_end(pipeline, given, path, count, known, existing, seed):
        return [given.plan.codes[3]] if len(path) == 3 else options(pipeline, given, path, count, known, existing, seed)

    monkeypatch.setattr(branches, "_options", same_end)
    met = branch(tiny_pipeline, story, 2, num_branches=3, depth=1)
    assert [page.id for page in met.pages.values() if page.page == 3] == ["4"]
    assert len(paths(met)) == 3 and len(met.endings) == 1


def test_a_fork_at_the_first_page(tiny_pipeline, story):
    first = branch(tiny_pipeline, story, 0, num_branches=3)
    assert len(first.start) == 3 and len(paths(first)) == 3


@pytest.mark.parametrize(
    ("options", "message"), [({"num_branches": 1}, "2 branches or more"), ({"depth": 0}, "2 branches")]
)
def test_bad_forks_are_refused(tiny_pipeline, story, options, message):
    with pytest.raises(UserError, match=message):
        branch(tiny_pipeline, story, 1, **options)
    with pytest.raises(UserError, match="more than 64 endings"):
        branch(tiny_pipeline, story, 0, num_branches=8, depth=3)


@pytest.fixture(scope="module")
def files(branched, tmp_path_factory) -> dict[str, Path]:
    return {path.name: path for path in write_branches(tmp_path_factory.mktemp("branches"), branched)}


def test_the_book_links_every_page(branched, files):
    seen = Collector(files["book.html"].read_text(encoding="utf-8"))
    places = {f"#{name}" for name in seen.values("id")}
    assert set(seen.values("href")) <= places and places == {"#start", *(f"#page-{name}" for name in branched.pages)}
    assert {f"#page-{name}" for page in branched.pages.values() for name in page.next} <= set(seen.values("href"))
    assert all(source.startswith("data:image/png") for source in seen.values("src"))
    assert all(clean(page.text) in "".join(seen.text) for page in branched.pages.values())


def test_twee_and_json_tell_the_same_tree(branched, files):
    record = json.loads(files["branches.json"].read_text(encoding="utf-8"))
    assert {page["id"]: page["next"] for page in record["pages"]} == {
        page.id: list(page.next) for page in branched.pages.values()
    }
    assert all(page["image_path"] in files for page in record["pages"])
    twee = files["story.twee"].read_text(encoding="utf-8")
    for page in branched.pages.values():
        passage = twee.split(f":: Page {page.id}\n")[1].split("\n\n\n")[0]
        assert all(f"->Page {name}]]" in passage for name in page.next)
    assert ":: StoryData" in twee and '"ifid"' in twee
