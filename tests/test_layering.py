"""Imports run one way: each room of `modules/`, a folder or a file, imports only rooms on floors below its own."""

from __future__ import annotations

import ast
from functools import cache
from pathlib import Path

ROOT = Path(__file__).parents[1]
FILES = {
    ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__"): path
    for path in ROOT.glob("modules/**/*.py")
    if path != ROOT / "modules/__init__.py"
}

# From the bottom up. Rooms of one floor do not know each other.
FLOORS = (
    ("common",),
    ("layers", "story"),
    ("batch", "data", "pretrained", "storyworld"),
    ("downloads", "storyboard", "prior", "text_decoder", "image_decoder"),
    ("config",),
    ("presets", "story_model"),
    ("encoded", "saving"),
    ("generation",),
    ("steering", "training"),
    ("evaluation",),
    ("presentation",),
    ("studio",),
    ("commands",),
)
FLOOR = {room: floor for floor, rooms in enumerate(FLOORS) for room in rooms}
FACTORS = {"storyboard", "prior", "text_decoder", "image_decoder"}


def imported_names(node: ast.AST, package: list[str]) -> list[str]:
    """Return what one statement may import, in full: of `from a import b`, a and a.b."""
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
    """Return the modules of this project that a module imports anywhere in its code, also inside functions."""
    path = FILES[name]
    package = name.split(".") if path.name == "__init__.py" else name.split(".")[:-1]
    nodes = ast.walk(ast.parse(path.read_text(encoding="utf-8")))
    found = {imported for node in nodes for imported in imported_names(node, package)}
    return frozenset(found & FILES.keys()) - {name}


@cache
def reachable(name: str) -> frozenset[str]:
    found, unread = set(), [name]
    while unread:
        new = imports(unread.pop()) - found
        found |= new
        unread += new
    return frozenset(found)


def room_of(name: str) -> str:
    return name.split(".")[1]


def crossings() -> list[tuple[str, str]]:
    """Return the pairs of modules in different rooms, the first of which imports the second."""
    pairs = [(name, other) for name in FILES for other in sorted(imports(name))]
    return [(name, other) for name, other in pairs if room_of(name) != room_of(other)]


def offenders(rooms: set[str], allowed: set[str]) -> list[str]:
    """Return the imports by which `rooms` know of others than themselves and the `allowed` ones."""
    found = [(name, other) for name, other in crossings() if room_of(name) in rooms and room_of(other) not in allowed]
    return sorted(f"{name} imports {other}" for name, other in found)


def test_the_graph_is_read_correctly():
    assert {"modules.layers.transformer", "modules.storyboard.config"} <= imports("modules.storyboard.storyboard")
    assert "modules.layers.kv_cache" in reachable("modules.story_model.story_model")
    assert "modules.storyworld.labels" in imports("modules.storyworld")
    assert "modules.commands.cli" not in reachable("modules.generation.pipeline")


def test_every_room_has_its_floor():
    assert {room_of(name) for name in FILES} == FLOOR.keys()


def test_imports_run_from_higher_floors_to_lower_ones():
    for room, floor in FLOOR.items():
        assert offenders({room}, {below for below in FLOOR if FLOOR[below] < floor}) == []


def test_no_module_imports_itself_through_others():
    assert [name for name in sorted(FILES) if name in reachable(name)] == []


def test_common_code_and_layers_know_no_stories():
    assert offenders({"common"}, set()) == []
    assert offenders({"layers"}, {"common"}) == []


def test_stories_are_plain_nouns():
    assert offenders({"story"}, set()) == []


def test_no_factor_imports_another():
    """They meet in the story model, exchanging plain tensors."""
    assert offenders(FACTORS, {"batch", "common", "layers", "pretrained"}) == []
    assert FACTORS <= {room_of(name) for name in reachable("modules.story_model.story_model")}


def test_data_knows_no_models():
    assert offenders({"data"}, {"common", "story"}) == []
    assert offenders({"downloads"}, {"common", "data", "story"}) == []
    assert offenders({"storyworld"}, {"common", "story"}) == []


def test_generation_needs_no_training():
    assert [
        name for name in reachable("modules.generation.pipeline") if room_of(name) in {"training", "evaluation"}
    ] == []


def test_settings_are_read_without_torch_models():
    """Flags and presets answer at once: a configuration reads the configurations of the factors and no more."""
    heavy = {"layers", "pretrained", "story_model", "batch"}
    assert [name for name in reachable("modules.presets") if room_of(name) in heavy] == []
