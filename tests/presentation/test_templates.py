"""Templates escape and clean text; shared text wrapping; dataset sheets; imports stay light."""

from __future__ import annotations

import re
import subprocess
import sys

import pytest
from jinja2 import DictLoader, UndefinedError

from modules.data.writing import write_stories
from modules.presentation import templates, theme
from modules.presentation.dataset_sheet import dataset_sheet
from modules.presentation.text import wrap
from modules.story import Story, StoryStep
from tests.support.html_pages import Collector

NASTY = "<script>alert(\"1\")</script> & 'quotes' \x00\ud800"


@pytest.fixture
def render(monkeypatch):
    """`templates.render` of the given source."""

    def render_source(source: str, name: str = "page.html", **data) -> str:
        monkeypatch.setattr(templates._environment(), "loader", DictLoader({name: source}))
        templates._environment().cache.clear()
        return templates.render(name, **data)

    yield render_source
    templates._environment().cache.clear()


def test_strings_are_escaped_and_cleaned(render):
    page = render('<p title="{{ text }}">{{ text }}</p>', text=NASTY)
    assert page.encode() and "<script>" not in page and "\x00" not in page
    assert Collector(page).text == [NASTY[:-2]] and Collector(page).values("title") == [NASTY[:-2]]


def test_markdown_is_cleaned_and_not_escaped(render):
    assert render("{{ text }}", "card.md", text=NASTY) == NASTY[:-2]


def test_undefined_names_are_errors(render):
    with pytest.raises(UndefinedError, match="missing"):
        render("{{ missing }}")


def test_both_themes_define_every_variable_of_the_pages():
    light, dark = theme.css_variables(theme.LIGHT), theme.css_variables(theme.DARK)
    assert light.keys() == dark.keys() and len(set(theme.LIGHT.palette)) == len(set(theme.DARK.palette)) == 10
    folder = templates.Path(templates.__file__).parent
    sources = [path.read_text(encoding="utf-8") for path in [*folder.rglob("*.html"), *folder.rglob("*.css")]]
    used = {name for source in sources for name in re.findall(r"var\(--([\w-]+)\)", source)}
    local = {name for source in sources for name in re.findall(r"--([\w-]+):", source)}
    assert used <= light.keys() | local | {"code-ink", "serif", "sans"}
    assert not re.findall(r"(?<!&)#[0-9a-f]{6}\b", "".join(sources).replace("#b4552d", ""))  # Of printing alone.


def test_dataset_sheets_escape_texts(tmp_path):
    write_stories(tmp_path, [Story("<b>", "<script>alert(1)</script>", (StoryStep("<i>words</i>"),))])
    document = dataset_sheet(tmp_path, 5)
    seen = Collector(document)
    assert "<script>alert(1)</script>" in seen.text and "<i>words</i>" in seen.text and "no picture" in seen.text
    assert not {"script", "b", "i"} & set(seen.tags)
    assert not re.search(r"https?://|url\(|@import", document)


def test_words_wrap_by_the_measure_given():
    assert wrap("a bb  ccc\ndddd", 6, len) == ["a bb", "ccc", "dddd"]
    assert wrap("abcdefgh", 3, len) == ["abc", "def", "gh"]
    assert wrap("one two three four", 5, len, max_lines=2) == ["one", "two…"]
    assert wrap(" \x00 ", 5, len) == []


def test_writing_a_story_imports_no_plots():
    code = (
        "import sys, modules.presentation.story.files\n"
        "print([name for name in ('matplotlib', 'tensorboard', 'scipy', 'jinja2', 'torch') if name in sys.modules])"
    )
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout == "[]\n"
