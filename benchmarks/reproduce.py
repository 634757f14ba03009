"""Check every figure of README.md and of the model card against the command that it comes from.

    python benchmarks/reproduce.py --quick
    python benchmarks/reproduce.py
    python benchmarks/reproduce.py --update

assets/figures.json contains what each command reported when the documents were written: values with their 95 %
intervals, and the minutes that it took. First the documents are compared with that file, then the commands run again.
A figure differs if it lies outside the documented interval and the documented value outside the new one; such figures
are listed, and the exit code is 1. `--quick` leaves out the full evaluation. After new weights `--update` writes the
file and the model card.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from common import ROOT

from modules.common.arguments import Parser
from modules.common.files import write_whole
from modules.presentation.model_card import metric_sections

FIGURES = ROOT / "assets/figures.json"
README, CARD = ROOT / "README.md", ROOT / "checkpoints/storyworld/README.md"
PROGRAM = "story_generative_model.py"
PRESETS = (
    "storyworld",
    "gpt2-sd15",
    "storydiffusion",
    "next-step",
    "seed-story",
    "multimodal-gpt2",
    "captioner",
    "picturebooks",
)
EVALUATION, SHORT = "evaluation", "short evaluation"
FULL_COUNTS, SHORT_COUNTS = ("--num_stories", "200", "--num_drawn", "50"), ("--num_stories", "40", "--num_drawn", "8")

# Rows of the table of results in README.md, and where their values are in the report of the evaluation.
RESULTS = {
    "colour of every character, in pictures from true codes": "drawn/true step, text and picture/colour",
    "object, in pictures from true codes": "drawn/true step, text and picture/object",
    "hero keeps its colour through a whole story": "drawn/whole story/hero_colour_persistence",
    "text and picture of a page agree, whole stories": "drawn/whole story/text_and_picture_agree",
    "both characters of the prompt in one text, whole stories": "drawn/whole story/both_in_texts",
}
PLAN_SENTENCE = "A plan costs {bits:.1f} bits a page and saves {nats:.0f} nats net."
Report = Mapping[str, Any]


class Source(NamedTuple):
    """A command of the program that figures come from."""

    words: tuple[str, ...]
    is_quick: bool = True


SOURCES = {
    **{
        f"memory, {preset}": Source(("train", "--preset", preset, "--mixed_precision", "bf16", "--dry_run"))
        for preset in PRESETS
    },
    SHORT: Source(("evaluate", *SHORT_COUNTS)),
    EVALUATION: Source(("evaluate", *FULL_COUNTS), is_quick=False),
}


# -- the documents


def documented(figures: Mapping[str, Report]) -> Iterator[tuple[Path, tuple[str, ...]]]:
    """Yield parts of every line that the documents must contain, with the document."""
    report = figures[EVALUATION]["report"]
    values = dict(estimates(report))
    for label, path in RESULTS.items():
        cells = (_interval(values[path]), _short(values[path]["floor"]), _short(values[path]["ceiling"]))
        yield README, (f"| {label} | {' | '.join(cells)} |",)
    bound = report["bound"]
    bits, nats = bound["prior_bits_per_step"]["value"], bound["net_code_value_text_and_picture"]["value"]
    yield README, (PLAN_SENTENCE.format(bits=bits, nats=nats),)
    for preset in PRESETS:
        gib = figures[f"memory, {preset}"]["report"]["GiB"]["value"]
        yield README, (f"| `{preset}`", f"; {gib:.1f} |" if gib < 10 else f"; {gib:.0f} |")
    for section in metric_sections(report):
        for row in section.rows:
            yield CARD, (" | ".join(["| " + row.name, *row.cells, row.floor, row.ceiling]).rstrip(),)


def _interval(estimate: Mapping[str, float]) -> str:
    return f"{_short(estimate['value'])} [{_short(estimate['low'])}, {_short(estimate['high'])}]"


def _short(value: float) -> str:
    return f"{value:.2f}".removeprefix("0")


def missing_lines(figures: Mapping[str, Report]) -> list[str]:
    """Return what the documents should contain and do not."""
    lines = {path: path.read_text(encoding="utf-8").splitlines() for path in (README, CARD)}
    return [
        f"{path.relative_to(ROOT)} has no line with: {' ... '.join(parts)}"
        for path, parts in documented(figures)
        if not any(all(part in line for part in parts) for line in lines[path])
    ]


# -- the commands


def estimates(report: Report, path: str = "") -> Iterator[tuple[str, Mapping[str, Any]]]:
    """Yield every estimate of a nested report, with the names that lead to it joined by slashes."""
    for name, value in report.items():
        if isinstance(value, Mapping):
            where = f"{path}/{name}" if path else name
            yield from [(where, value)] if {"value", "low", "high"} <= value.keys() else estimates(value, where)


def outside(expected: Report, found: Report) -> list[str]:
    """Return a line for each figure of `expected` that `found` lacks, or that does not agree with what was found."""
    now, lines = dict(estimates(found)), []
    for path, estimate in estimates(expected):
        other = now.get(path)
        if other is None or not (agrees(other["value"], estimate) or agrees(estimate["value"], other)):
            value = None if other is None else other["value"]
            lines.append(f"{path}: {estimate['value']} [{estimate['low']}, {estimate['high']}] expected, got {value}")
    return lines


def agrees(value: float | None, estimate: Mapping[str, Any]) -> bool:
    """Whether a value lies in the interval of an estimate, which is widened by 1 % of its value or .005.

    Any number agrees with a figure of a single story, which has no interval.
    """
    if value is None or estimate["value"] is None or estimate["low"] is None:
        return (value is None) == (estimate["value"] is None)
    margin = max(0.005, 0.01 * abs(estimate["value"]))
    return estimate["low"] - margin <= value <= estimate["high"] + margin


def run(source: Source, *more: str) -> dict[str, Any]:
    """Run a command and return its report; its progress goes to stderr. Ends the program with its exit code if it
    fails.
    """
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "report.json"
        words = (*source.words, *more, *(("--json", str(path)) if source.words[0] == "evaluate" else ()))
        done = subprocess.run([sys.executable, PROGRAM, *words], cwd=ROOT, stdout=subprocess.PIPE, text=True)
        if done.returncode:
            sys.exit(done.returncode)
        return json.loads(path.read_text()) if path.exists() else _memory(json.loads(done.stdout))


def _memory(plan: Report) -> dict[str, Any]:
    """Return the memory of a training in one process, in its largest phase, as an estimate."""
    parts = plan["memory_mib"].values()
    gib = max(part["total"] for part in parts if "total" in part) / 1024
    return {"GiB": {"value": gib, "low": gib, "high": gib}}


def reproduce(names: list[str], figures: Mapping[str, Report]) -> list[str]:
    """Run commands again and return a line for each figure that differs."""
    faults = []
    for name in names:
        print(f"== {name}: {figures[name]['command']} ({figures[name]['minutes']:.1f} minutes)", file=sys.stderr)
        expected = figures[name]["report"]
        lines = outside(expected, run(SOURCES[name]))
        print(f"{name}: {sum(1 for _ in estimates(expected))} figures, {len(lines)} differ", flush=True)
        faults += lines
    return faults


def update(names: list[str], figures: dict[str, Any]) -> None:
    """Run commands and write what they report to assets/figures.json; the full evaluation writes the model card too."""
    for name in names:
        source, started = SOURCES[name], time.monotonic()
        print(f"== {name}", file=sys.stderr)
        report = run(source, *(("--card",) if name == EVALUATION else ()))
        minutes = round((time.monotonic() - started) / 60, 1)
        figures[name] = {"command": " ".join(("python", PROGRAM, *source.words)), "minutes": minutes, "report": report}
        write_whole(FIGURES, (json.dumps(figures, indent=1) + "\n").encode())


def make_flags() -> argparse.ArgumentParser:
    parser = Parser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="leave out the full evaluation")
    parser.add_argument("--update", action="store_true", help="write assets/figures.json and the model card instead")
    return parser


def main(words: list[str] | None = None) -> int:
    args = make_flags().parse_args(words)
    names = [name for name, source in SOURCES.items() if source.is_quick or not args.quick]
    figures = json.loads(FIGURES.read_text(encoding="utf-8")) if FIGURES.exists() else {}
    if args.update:
        update(names, figures)
    faults = missing_lines(figures) + ([] if args.update else reproduce(names, figures))
    print("\n".join(faults) if faults else "every figure is as documented")
    return 1 if faults else 0


if __name__ == "__main__":
    sys.exit(main())
