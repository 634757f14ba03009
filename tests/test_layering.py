"""Imports run one way: layers -> factors -> story model -> pipeline, training -> evaluation, presentation -> command
line.
"""

from __future__ import annotations

import ast
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
FILES = {
    ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__"): path
    for path in ROOT.glob("modules/**/*.py")
}

FACTORS = {"storyboard", "prior", "predictor", "text_decoder", "image_decoder", "autoencoder"}
PRETRAINED = {"hub", "pretrained", "freezing", "image_encoders", "text_encoders", "stable_diffusion"}
BELOW_FACTORS = {"encoders", "losses", "sampling", "schedules", "story", "teacher_forcing"} | PRETRAINED  # And layers/.
USES_THE_MODEL = {"story_model", "model_folder", "encoded", "phases", "reliance", "monitor", "pipeline", "training"}
ON_TOP = ("modules.evaluation", "modules.presentation", "modules.commands", "modules.cli")


def within(name: str, *parents: str) -> bool:
    return any(name == parent or name.startswith(parent + ".") for parent in parents)


def imported_names(node: ast.AST, package: list[str]) -> list[str]:
    """What one statement may import, in full: of `from a import b`, a and a.b."""
    if isinstance(node, ast.Import):
        return [alias.name for alias in node.names]
    if not isinstance(node, ast.ImportFrom):
        return []
    source = node.module.split(".") if node.module else []
    if node.level:
        source = package[: len(package) - node.level + 1] + source
    return [".".join(source), *(".".join([*source, alias.name]) for alias in node.names)]


@cache
def imports(name: str) -> frozenset[str]:
    """The modules of this project that a module imports anywhere in its code, also inside functions."""
    path = FILES[name]
    package = name.split(".") if path.name == "__init__.py" else name.split(".")[:-1]
    nodes = ast.walk(ast.parse(path.read_text(encoding="utf-8")))
    found = {imported for node in nodes for imported in imported_names(node, package)}
    return frozenset(found & FILES.keys()) - {name}


def reachable(name: str) -> set[str]:
    seen, waiting = set(), [name]
    while waiting:
        new = imports(waiting.pop()) - seen
        seen |= new
        waiting += new
    return seen


def named(names: set[str]) -> list[str]:
    return sorted(f"modules.{name}" for name in names)


def test_the_graph_is_read_right():
    assert {"modules.layers.transformer", "modules.encoders"} <= imports("modules.storyboard")
    assert "modules.layers.kv_cache" in reachable("modules.story_model")
    assert "modules.storyworld.labels" in imports("modules.storyworld")
    assert set(named(FACTORS | BELOW_FACTORS | USES_THE_MODEL)) <= FILES.keys()


def test_no_module_imports_itself_by_way_of_others():
    assert [name for name in FILES if name in reachable(name)] == []


@pytest.mark.parametrize("name", sorted(name for name in FILES if within(name, "modules.layers")))
def test_layers_know_nothing_of_stories(name):
    assert all(within(other, "modules.layers") for other in imports(name))


@pytest.mark.parametrize("factor", named(FACTORS))
def test_no_factor_imports_another(factor):
    """They meet in the story model, exchanging plain tensors."""
    allowed = named(BELOW_FACTORS)
    assert [other for other in imports(factor) if other not in allowed and not within(other, "modules.layers")] == []


def test_the_story_model_is_made_of_the_factors():
    assert set(named(FACTORS)) <= imports("modules.story_model")


@pytest.mark.parametrize("name", named(FACTORS | BELOW_FACTORS | {"batch", "config"}))
def test_the_model_does_not_know_who_uses_it(name):
    assert reachable(name).isdisjoint(named(USES_THE_MODEL))


def test_the_story_model_does_not_know_who_trains_it_or_tells_with_it():
    assert reachable("modules.story_model").isdisjoint(named(USES_THE_MODEL - {"story_model"}))


def test_telling_does_not_need_training():
    assert reachable("modules.pipeline").isdisjoint(named({"training", "phases", "monitor"}))


@pytest.mark.parametrize("name", sorted(name for name in FILES if not within(name, *ON_TOP)))
def test_evaluation_presentation_and_command_line_are_on_top(name):
    assert [other for other in imports(name) if within(other, *ON_TOP)] == []


def test_nothing_imports_the_command_line():
    commands = [name for name in FILES if within(name, "modules.commands", "modules.cli")]
    assert [
        name for name in FILES if name not in commands and any(within(other, *commands) for other in imports(name))
    ] == []
    assert [name for name in commands if "modules.cli" in imports(name)] == []


@pytest.mark.parametrize("name", sorted(name for name in FILES if within(name, "modules.storyworld")))
def test_the_story_world_knows_stories_alone(name):
    assert [
        other for other in imports(name) if other != "modules.story" and not within(other, "modules.storyworld")
    ] == []


def test_stories_know_nothing():
    assert imports("modules.story") == frozenset()


@pytest.mark.parametrize("name", FILES)
def test_every_file_says_what_it_is(name):
    tree = ast.parse(FILES[name].read_text(encoding="utf-8"))
    assert not tree.body or ast.get_docstring(tree)
