"""Shared by the benchmarks: interleaved timing, memory, the environment, goals and JSON reports.

Makes `modules` importable.
"""

from __future__ import annotations

import argparse
import gc
import importlib.metadata
import json
import os
import platform
import resource
import statistics
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch

ROOT = Path(__file__).resolve().parents[1]
if str(ROOT) not in sys.path:
    sys.path.insert(0, str(ROOT))

LIBRARIES = ("transformers", "diffusers", "accelerate", "numpy", "pillow")
BUSY_LOAD = 0.5
MIB = 2**20


# -- timing


def summary(values: Sequence[float]) -> dict[str, float]:
    """Return the median, interquartile range, minimum and count of numbers."""
    quarters = statistics.quantiles(values, n=4, method="inclusive") if len(values) > 1 else [values[0]] * 3
    return {"median": quarters[1], "iqr": quarters[2] - quarters[0], "min": min(values), "count": len(values)}


def time_in_turns(works: Mapping[str, Callable[[], object]], repeats: int, warmups: int = 3) -> dict[str, list[float]]:
    """Return the seconds of every repeat of each work, interleaved A B C A B C, so that slow spells hit all."""
    for _ in range(warmups):
        for work in works.values():
            work()
    seconds = {name: [] for name in works}
    for _ in range(repeats):
        for name, work in works.items():
            gc.collect()
            started = time.perf_counter()
            work()
            seconds[name].append(time.perf_counter() - started)
    return seconds


def ratios(above: Sequence[float], below: Sequence[float]) -> dict[str, float]:
    """Return a summary of the ratios of repeats that were timed side by side."""
    return summary([first / second for first, second in zip(above, below, strict=True)])


# -- memory


def _status_mib(field: str, process: int | str = "self") -> float | None:
    """Return a field of Linux's /proc/PROCESS/status in MiB, None on other systems."""
    try:
        lines = Path(f"/proc/{process}/status").read_text().splitlines()
    except OSError:
        return None
    return next((int(line.split()[1]) / 1024 for line in lines if line.startswith(field + ":")), None)


def peak_rss_mib() -> float:
    """Return this process's peak memory in MiB.

    Linux's `ru_maxrss` would include the parent process that started it.
    """
    peak = _status_mib("VmHWM")
    if peak is not None:
        return peak
    maximum = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return maximum / MIB if sys.platform == "darwin" else maximum / 1024


def rss_mib(process: int | str = "self") -> float:
    """Return a process's memory in MiB; this one's peak where the system does not report the current value."""
    now = _status_mib("VmRSS", process)
    return peak_rss_mib() if now is None else now


# -- environment, goals, output


@dataclass(frozen=True)
class Goal:
    """A measured value and its bound."""

    what: str
    measured: float
    bound: float
    at_least: bool = False

    @property
    def met(self) -> bool:
        return self.measured >= self.bound if self.at_least else self.measured <= self.bound

    def __str__(self) -> str:
        relation = "at least" if self.at_least else "at most"
        state = "met   " if self.met else "missed"
        return f"{state}  {self.what}: {self.measured:,.4g} (goal: {relation} {self.bound:,.4g})"


def environment() -> dict[str, Any]:
    """Return what a measurement depends on besides the code."""
    return {
        "cpu": cpu_name(),
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "load_average_at_start": _LOAD_AT_START,
        "system": f"{platform.system()} {platform.machine()}",
        "python": platform.python_version(),
        "torch": torch.__version__,
        **{name: importlib.metadata.version(name) for name in LIBRARIES},
    }


def cpu_name() -> str:
    """Return the processor's name as far as the system reports it."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        lines = []
    names = (line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    return next(names, platform.processor() or platform.machine())


def _load_average() -> float | None:
    return os.getloadavg()[0] if hasattr(os, "getloadavg") else None


_LOAD_AT_START = _load_average()


def make_parser(description: str, repeats: int, warmups: int = 3) -> argparse.ArgumentParser:
    """Return a parser with the flags that every benchmark has."""
    from modules.common.arguments import Parser, positive_int

    parser = Parser(description=description)
    parser.add_argument("--json", type=Path, help="write all measurements to this JSON file")
    parser.add_argument("--threads", type=positive_int, help="torch threads (default: chosen by torch)")
    parser.add_argument("--repeats", type=positive_int, default=repeats, help=f"timed repeats (default {repeats})")
    parser.add_argument(
        "--warmups", type=positive_int, default=warmups, help=f"untimed repeats before them (default {warmups})"
    )
    return parser


def start(
    measure: Callable[[argparse.Namespace], tuple[dict[str, Any], list[Goal]]], parser: argparse.ArgumentParser
) -> None:
    """Parse the flags, measure, print the goals and write the JSON file."""
    from modules.common.arguments import normalise_flag
    from modules.common.errors import UserError
    from modules.common.process import tune_process

    tune_process()  # As the command line does.
    args = parser.parse_args([normalise_flag(word) for word in sys.argv[1:]])
    if args.threads:
        torch.set_num_threads(args.threads)
    if _LOAD_AT_START is not None and _LOAD_AT_START > BUSY_LOAD:
        print(
            f"warning: the machine is busy (load {_LOAD_AT_START:.1f}): these measurements will be too slow",
            file=sys.stderr,
        )
    try:
        results, goals = measure(args)
    except UserError as error:
        sys.exit(f"error: {error}")
    for goal in goals:
        print(goal)
    if args.json:
        goals_report = {"goals": [asdict(goal) | {"met": goal.met} for goal in goals]}
        report = {
            "benchmark": Path(sys.argv[0]).stem,
            "environment": environment(),
            "settings": settings(args),
            **results,
            **goals_report,
        }
        args.json.parent.mkdir(parents=True, exist_ok=True)
        args.json.write_text(json.dumps(report, indent=2) + "\n", encoding="utf-8")


def settings(args: argparse.Namespace) -> dict[str, Any]:
    """Return the flags of a run for its JSON report; what JSON does not know becomes text."""

    def plain(value: Any) -> Any:
        if isinstance(value, list):
            return [plain(item) for item in value]
        return value if isinstance(value, int | float | str | None) else str(value)

    return {name: plain(value) for name, value in vars(args).items() if name not in ("json", "run")}


def print_table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """Print a table, the first column left-aligned and the others right-aligned."""
    lines = [header, *rows]
    widths = [max(len(line[column]) for line in lines) for column in range(len(header))]
    for line in lines:
        others = (word.rjust(width) for word, width in zip(line[1:], widths[1:], strict=True))
        print("  ".join([line[0].ljust(widths[0]), *others]))


def timing_rows(timings: Mapping[str, Sequence[float]]) -> list[list[str]]:
    """Return name, median, interquartile range and minimum of each timing, in milliseconds."""
    summaries = {name: summary(seconds) for name, seconds in timings.items()}
    return [
        [name, *(f"{1000 * values[key]:,.1f}" for key in ("median", "iqr", "min"))]
        for name, values in summaries.items()
    ]


TIMING_HEADER = ("milliseconds", "median", "iqr", "min")
