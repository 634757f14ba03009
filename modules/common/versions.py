"""Installed versions that do not fit, reported with the command that mends them."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import suppress
from importlib import metadata
from pathlib import Path

from packaging.requirements import InvalidRequirement, Requirement
from packaging.specifiers import SpecifierSet
from packaging.version import Version

from modules.common.errors import UserError

REQUIREMENTS = Path(__file__).parents[2] / "requirements.txt"
PROJECT = "story-generative-model"
MEND = "pip install -r requirements.txt -c constraints.txt"
_ABOUT_VERSIONS = re.compile(r"\b(versions?|install(ed)?|compatible)\b", re.IGNORECASE)


def check_version(package: str, bounds: str, needed_by: str = "") -> None:
    """Check the installed version of `package` against `bounds` such as ">=0.20,<0.22".

    `needed_by` is the installed package that sets the bounds; by default this program does. Raises UserError.
    """
    problem = _problem(package, SpecifierSet(bounds), needed_by)
    if problem:
        raise UserError(problem)


def version_problem(error: Exception) -> str | None:
    """Return a message where `error` is about missing or unfit packages, None where it has another cause."""
    if not isinstance(error, ImportError) and not _ABOUT_VERSIONS.search(str(error)):
        return None
    for requirement in _requirements():
        with suppress(metadata.PackageNotFoundError):
            metadata.version(requirement.name)
            if problem := _problem(requirement.name, requirement.specifier, ""):
                return problem
    reason = " ".join(str(error).split())[:200]
    return f"the installed packages do not fit together ({reason}): {MEND}"


def _requirements() -> Iterator[Requirement]:
    if REQUIREMENTS.is_file():
        lines = REQUIREMENTS.read_text(encoding="utf-8").splitlines()
    else:  # Installed as a package.
        lines = metadata.requires(PROJECT) or []
    for line in lines:
        try:
            requirement = Requirement(line.partition("#")[0].strip())
        except InvalidRequirement:  # An empty line, a comment or an option such as -r.
            continue
        if requirement.marker is None or requirement.marker.evaluate({"extra": ""}):
            yield requirement


def _problem(package: str, bounds: SpecifierSet, needed_by: str) -> str | None:
    wanted_by = f"{needed_by} {metadata.version(needed_by)}" if needed_by else "this program"
    try:
        installed = Version(metadata.version(package))
    except metadata.PackageNotFoundError:
        return f"{package} is not installed, {wanted_by} needs it: {MEND}"
    if bounds.contains(installed, prereleases=True):
        return None
    lowest = [Version(bound.version) for bound in bounds if bound.operator in (">=", ">", "==", "~=")]
    relation = "too old" if any(installed < version for version in lowest) else "too new"
    return f"{package} {installed} is {relation} for {wanted_by} (which needs {bounds}): {MEND}"
