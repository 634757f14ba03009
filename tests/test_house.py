"""Rules of the house that no linter checks: sizes of files and functions, docstrings, names of tests."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from functools import cache
from pathlib import Path

ROOT = Path(__file__).parents[1]
FILE_LINES, FUNCTION_LINES, TEST_NAME_LENGTH = 300, 35, 60

# What is still beyond the limits. These lists only get shorter.
LONG_FILES: set[str] = {
    "tests/image_decoder/test_image_decoder_pretrained.py",
    "tests/presentation/test_visualize.py",
    "tests/text_decoder/test_text_decoder_pretrained.py",
}
LONG_FUNCTIONS: set[str] = {
    "tests/support/hub_folders.py::write_stable_diffusion",
    "tests/support/tiny_presets.py::tiny_preset",
}


@cache
def sources(*folders: str) -> dict[str, ast.Module]:
    """Return the syntax trees of all Python files of the given folders by path; by default of the whole repository."""
    paths = [path for folder in folders or ("modules", "benchmarks", "tests") for path in (ROOT / folder).rglob("*.py")]
    paths += [] if folders else ROOT.glob("*.py")
    return {path.relative_to(ROOT).as_posix(): ast.parse(path.read_text(encoding="utf-8")) for path in sorted(paths)}


def functions(*folders: str) -> Iterator[tuple[str, ast.FunctionDef | ast.AsyncFunctionDef]]:
    for path, tree in sources(*folders).items():
        for node in ast.walk(tree):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                yield f"{path}::{node.name}", node


def body_lines(function: ast.FunctionDef | ast.AsyncFunctionDef) -> int:
    """Return the lines of a function's body, signature and docstring left out."""
    body = function.body[1:] if ast.get_docstring(function, clean=False) is not None else function.body
    return body[-1].end_lineno - body[0].lineno + 1 if body else 0


def test_files_are_short():
    lengths = {path: len((ROOT / path).read_text(encoding="utf-8").splitlines()) for path in sources()}
    assert {path for path, length in lengths.items() if length > FILE_LINES} <= LONG_FILES


def test_functions_are_short():
    lengths = {name: body_lines(node) for name, node in functions()}
    assert {name for name, length in lengths.items() if length > FUNCTION_LINES} <= LONG_FUNCTIONS


def test_every_file_has_a_docstring():
    assert [path for path, tree in sources().items() if tree.body and not ast.get_docstring(tree)] == []


def test_the_formatter_is_never_turned_off():
    marks = [f"# fmt: {word}" for word in ("skip", "off")]
    texts = {path: (ROOT / path).read_text(encoding="utf-8") for path in sources()}
    assert [path for path, text in texts.items() if any(mark in text for mark in marks)] == []


def test_names_of_tests_are_short():
    names = {name for name, node in functions("tests") if node.name.startswith("test_")}
    assert sorted(name for name in names if len(name.partition("::")[2]) > TEST_NAME_LENGTH) == []
