"""Runs of equal codes in a storyboard slot."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace


@dataclass(frozen=True)
class CodeRun:
    """The same code at a slot's steps `start` to `end`, both included; its last run, if any, ended at `previous`."""

    code: int
    start: int
    end: int
    previous: int | None


@dataclass(frozen=True)
class Tie:
    """A line in a code's colour behind a run's tile.

    It connects two runs of that code: it starts at the `right` of the first, reaches the `left` of the second, and
    passes `through` the runs between them.
    """

    code: int
    place: str


def slot_runs(codes: Sequence[int]) -> list[CodeRun]:
    """Return one slot's codes over T steps, equal neighbours merged."""
    runs: list[CodeRun] = []
    ends: dict[int, int] = {}
    for step, code in enumerate(codes):
        if runs and runs[-1].code == code:
            runs[-1] = replace(runs[-1], end=step)
        else:
            runs.append(CodeRun(code, step, step, ends.get(code)))
        ends[code] = step
    return runs


def run_ties(run: CodeRun, runs: Sequence[CodeRun]) -> list[Tie]:
    """Return the lines behind a run's tile: those that reach it, leave it and pass it."""
    return [
        Tie(later.code, "right" if later.previous == run.end else "left" if later is run else "through")
        for later in runs
        if later.previous is not None and later.previous <= run.end <= later.end
    ]


def repeated_codes(plan: Sequence[Sequence[int]]) -> set[int]:
    """Return the codes that T steps of S codes contain more than once, in any slot."""
    return {code for code, count in Counter(code for codes in plan for code in codes).items() if count > 1}
