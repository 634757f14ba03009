"""The environment is that of constraints.txt; an installation elsewhere finds its weights and generates."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tomllib
from importlib.metadata import PackageNotFoundError, distribution, requires, version
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.version import Version

from tests.support.commands import run

ROOT = Path(__file__).parents[1]


def requirements(name: str) -> list[Requirement]:
    """Return the requirements that a file lists itself."""
    lines = (ROOT / name).read_text(encoding="utf-8").splitlines()
    return [Requirement(line) for line in lines if line and not line.startswith(("#", "-r"))]


def installed(name: str) -> Version | None:
    try:
        return Version(Version(version(name)).public)  # Without the local part: torch 2.13.0+cpu is 2.13.0.
    except PackageNotFoundError:
        return None


def unmet(needed: list[Requirement], seen: set[tuple[str, frozenset[str]]]) -> list[str]:
    """Return the requirements that the environment does not meet, those of the packages themselves included."""
    problems = []
    for one in needed:
        key = (one.name.lower(), frozenset(one.extras))
        if key in seen:
            continue
        seen.add(key)
        found = installed(one.name)
        if found is None or not one.specifier.contains(found, prereleases=True):
            problems.append(f"{one}, found {found}")
            continue
        further = [Requirement(line) for line in requires(one.name) or []]
        extras = one.extras or {""}
        further = [r for r in further if r.marker is None or any(r.marker.evaluate({"extra": e}) for e in extras)]
        problems += unmet(further, seen)
    return problems


@pytest.mark.skipif("OTHER_VERSIONS" in os.environ, reason="an environment of other versions, as test-newest makes it")
def test_the_environment_is_that_of_the_constraints():
    locked = {one.name: Version(str(one.specifier).removeprefix("==")) for one in requirements("constraints.txt")}
    found = {name: installed(name) for name in locked}
    other = [
        f"{name} {found[name]}, locked {locked[name]}" for name in locked if found[name] not in (None, locked[name])
    ]
    assert other == [], "run: pip install -r requirements-dev.txt -c constraints.txt"


@pytest.mark.skipif("OTHER_VERSIONS" in os.environ, reason="an environment of other versions, as test-newest makes it")
def test_all_requirements_are_met():
    assert unmet(requirements("requirements.txt"), set()) == []


def test_requirements_have_both_bounds_and_a_locked_version():
    locked = {one.name.lower(): one.specifier for one in requirements("constraints.txt")}
    for one in requirements("requirements.txt") + requirements("requirements-dev.txt"):
        operators = {clause.operator for clause in one.specifier}
        assert operators in ({"=="}, {">=", "<"}), one
        (pinned,) = locked[one.name.lower()]
        assert one.specifier.contains(pinned.version), one


def test_the_lock_names_versions_alone():
    text = (ROOT / "constraints.txt").read_text(encoding="utf-8")
    assert text.startswith("# ") and "+" not in text and "/" not in text and "@" not in text
    assert all(len(one.specifier) == 1 for one in requirements("constraints.txt"))
    assert str(next(one for one in requirements("constraints.txt") if one.name == "torch")) == "torch==2.13.0"


def test_the_console_scripts_can_be_called():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    assert project["scripts"] == {
        "story-generative-model": "story_generative_model:main",
        "download-story-data": "download_data:main",
    }


# An installation


@pytest.fixture(scope="module")
def installation(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An environment of what requirements.txt asks for and no more, in which pip installs a copy of the project."""
    folder = tmp_path_factory.mktemp("installation")
    names = ("modules", "checkpoints/storyworld", "checkpoints/judge", "assets/architectures")
    for name in names:
        shutil.copytree(ROOT / name, folder / "source" / name, ignore=shutil.ignore_patterns("__pycache__"))
    for pattern in ("*.py", "*.txt", "pyproject.toml", "README.md", "LICENSE"):
        for path in ROOT.glob(pattern):
            shutil.copy(path, folder / "source")
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", folder / "venv"], check=True)
    link_requirements(folder / "venv")
    # Built with this environment's setuptools, after a look whether it will do: one of its own would be downloaded.
    pip("wheel", "--no-deps", "--no-build-isolation", "--check-build-dependencies", "-w", folder, folder / "source")
    (wheel,) = folder.glob("*.whl")
    for command in (("install", "--no-deps", "--no-index", wheel), ("check",)):
        pip("--python", folder / "venv", *command)
    shutil.rmtree(folder / "source")
    return folder / "venv/bin"


def pip(*words: object) -> None:
    command = [sys.executable, "-m", "pip", "--disable-pip-version-check", *map(str, words)]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr


def link_requirements(environment: Path) -> None:
    """Link, into an empty environment, the installed packages that requirements.txt asks for, and what these need.

    To install them takes a minute and a gigabyte. With `--no-deps` pip writes to none of them.
    """
    seen: set[tuple[str, frozenset[str]]] = set()
    assert unmet(requirements("requirements.txt"), seen) == []
    (site,) = environment.glob("lib/python*/site-packages")
    for name, _ in seen:
        found = distribution(name)
        for top in {file.parts[0] for file in found.files or ()} - {"..", "__pycache__"}:
            if not (site / top).exists():
                (site / top).symlink_to(Path(found.locate_file(top)).resolve())


def call(program: Path, *words: object, folder: Path) -> subprocess.CompletedProcess[str]:
    command = [str(program), *map(str, words)]
    return subprocess.run(command, cwd=folder, capture_output=True, text=True, env=os.environ | {"HF_HUB_OFFLINE": "1"})


@pytest.mark.slow
def test_an_installation_generates_from_another_folder(installation, tmp_path):
    """With the shipped weights and the shipped judge, the same story as from the repository."""
    quick = ("--num_steps", 2, "--num_inference_steps", 4)
    flags = ("generate", "--prompt", "Rusty the fox wants a kite", "--seed", 2, *quick, "--output")
    told = call(installation / "story-generative-model", *flags, tmp_path / "a", folder=tmp_path)
    assert told.returncode == 0, told.stderr
    assert json.loads((tmp_path / "a/story.json").read_text())["steps"]
    assert "<img" in (tmp_path / "a/book.html").read_text()
    assert run(*flags, tmp_path / "b") == 0
    assert (tmp_path / "a/generated.png").read_bytes() == (tmp_path / "b/generated.png").read_bytes()


@pytest.mark.slow
def test_an_installation_finds_all_its_files(installation, tmp_path):
    """Templates of pages, known architectures and the second program."""
    made = call(installation / "download-story-data", "storyworld", "--stories", 2, folder=tmp_path)
    assert made.returncode == 0, made.stderr
    assert (tmp_path / "data/train/stories.jsonl").is_file()
    (packages,) = installation.parent.glob("lib/python*/site-packages")
    for pattern in ("**/*.html", "**/*.css", "**/*.js", "**/*.ttf"):
        in_repository = {path.relative_to(ROOT) for path in (ROOT / "modules").glob(pattern)}
        assert in_repository <= {path.relative_to(packages) for path in (packages / "modules").glob(pattern)}
    plan = ("train", "--preset", "gpt2-sd15", "--data", "data", "--phases", "joint", "--dry_run")
    assert call(installation / "story-generative-model", *plan, folder=tmp_path).returncode == 0
