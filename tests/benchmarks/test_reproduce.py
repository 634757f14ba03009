"""The check of all documented figures: documents against assets/figures.json, and that file against the commands."""

from __future__ import annotations

import copy
import json

import pytest

from tests.support.benchmarks import load

reproduce = load("reproduce")
FIGURES = json.loads(reproduce.FIGURES.read_text(encoding="utf-8"))
OBJECT = "drawn/whole story/object_in_texts"


def test_the_documents_have_the_figures_of_their_commands():
    assert set(FIGURES) == set(reproduce.SOURCES)
    assert len(list(reproduce.documented(FIGURES))) > 60
    assert reproduce.missing_lines(FIGURES) == []


def test_a_changed_figure_is_missing_from_the_documents():
    figures = copy.deepcopy(FIGURES)
    figures[reproduce.EVALUATION]["report"]["bound"]["prior_bits_per_step"]["value"] += 1
    figures["memory, captioner"]["report"]["GiB"]["value"] += 1
    lines = reproduce.missing_lines(figures)
    assert [line.partition(" has no line with: ")[0] for line in lines] == ["README.md"] * 2 + [
        "checkpoints/storyworld/README.md"
    ]


@pytest.mark.parametrize(
    ("value", "is_inside"), [(0.7, True), (0.795, True), (0.9, False), (0.5, False), (None, False)]
)
def test_a_figure_is_compared_with_its_interval(value, is_inside):
    expected = {"drawn": {"object": {"value": 0.7, "low": 0.6, "high": 0.79}, "num_pages": 3}}
    found = {"value": value, "low": value, "high": value}
    lines = reproduce.outside(expected, {"drawn": {"object": found}})
    assert lines == ([] if is_inside else [f"drawn/object: 0.7 [0.6, 0.79] expected, got {value}"])
    assert len(reproduce.outside(expected, {"drawn": {}})) == 1


@pytest.mark.parametrize("name", FIGURES)
def test_every_estimate_of_a_report_is_compared(name):
    report = FIGURES[name]["report"]
    found = dict(reproduce.estimates(report))
    assert found if name.startswith("memory") else len(found) > 200 and OBJECT in found
    assert reproduce.outside(report, report) == []


def test_figures_of_one_story_and_of_few_agree_loosely():
    alone = {"value": 0.0, "low": None, "high": None}
    assert reproduce.outside({"colour": alone}, {"colour": {**alone, "value": 1.0}}) == []
    few = {"value": 0.4, "low": 0.1, "high": 0.8}  # Of few pages: the documented value lies in its interval.
    assert reproduce.outside({"colour": {"value": 0.7, "low": 0.6, "high": 0.79}}, {"colour": few}) == []
    assert len(reproduce.outside({"colour": alone}, {"colour": {**alone, "value": None}})) == 1


@pytest.mark.slow
def test_a_quick_figure_is_reproduced(capfd):
    assert reproduce.reproduce(["memory, captioner"], FIGURES) == []
    assert "memory, captioner: 1 figures, 0 differ" in capfd.readouterr().out
