"""The figures of `evaluate` as tables on a terminal."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from rich.console import Console
from rich.table import Table

Figures = Mapping[str, Mapping[str, Any]]
COMPARABLE = ("code_charged_nats_per_token", "bound_nats_per_step")  # Of the bound, what models without codes have too.


def print_report(report: Mapping[str, Any]) -> None:
    """Print the figures with their intervals, floors and ceilings."""
    console = Console()
    console.print(
        f"{report['num_stories']} held-out stories, {report['num_steps']} steps of {report['data']}; 95 % intervals over stories"
    )
    print_figures("the bound", report["bound"])
    if "next_step" in report:
        print_figures("the next step, by exact code likelihood", report["next_step"])
    origin = "a step's own codes" if "codebook" in report else "what came before the step"
    print_figures(f"texts from {origin}", report["texts"]["figures"])
    if "named_right" in report:
        _print_beside("named right, from", report["named_right"])
    if "drawn" in report:
        drawn = {name: figures for name, figures in report["drawn"].items() if isinstance(figures, dict)}
        console.print(
            f"pages drawn for {report['drawn']['num_stories']} stories, beside what real ones score and other stories' pages"
        )
        _print_beside("pages", drawn)
    if "codebook" in report:
        book = report["codebook"]
        console.print(
            f"codes used {book['used']:.1%} of {book['codebook_size']} (were all used alike: {book['used_ceiling']:.1%}), "
            f"perplexity {book['perplexity']:.0f}, "
            f"a slot {book['perplexity_per_slot']:.0f}"
        )
    if "baselines" in report:
        _print_baselines({"this model": report, **report["baselines"]})


def _print_baselines(reports: Mapping[str, Mapping[str, Any]]) -> None:
    """What a model with a storyboard and one without can both be asked, side by side."""
    shared = {
        name: {key: report["bound"][key] for key in COMPARABLE if key in report["bound"]}
        for name, report in reports.items()
    }
    Console().print("beside baselines")
    _print_beside("the bound", shared)
    for kind in ("next step", "whole story"):
        drawn = {name: report["drawn"][kind] for name, report in reports.items() if kind in report.get("drawn", {})}
        if drawn:
            _print_beside(kind, drawn)


def print_figures(title: str, figures: Figures) -> None:
    """Print one table, a figure a row."""
    table = Table(title, "value", "95 %", "floor", "ceiling")
    for name, figure in figures.items():
        value, low, high, floor, ceiling = (
            _number(figure[key]) for key in ("value", "low", "high", "floor", "ceiling")
        )
        table.add_row(name.replace("_", " "), value, f"{low} - {high}" if low else "", floor, ceiling)
    Console().print(table)


def _print_beside(title: str, columns: Mapping[str, Figures]) -> None:
    """Print one table, a figure a row, with a column for each kind of pages; floor and ceiling are the first kind's."""
    table = Table(title, *columns, "floor", "ceiling")
    first = next(iter(columns.values()))
    for name in dict.fromkeys(name for figures in columns.values() for name in figures):
        known = first.get(name) or next(figures[name] for figures in columns.values() if name in figures)
        cells = [_spread(figures[name]) if name in figures else "" for figures in columns.values()]
        table.add_row(name.replace("_", " "), *cells, _number(known["floor"]), _number(known["ceiling"]))
    Console(width=max(Console().width, 30 + 16 * len(columns))).print(table)


def _spread(figure: Mapping[str, Any]) -> str:
    """The value and half the width of its interval."""
    if figure["value"] is None:
        return ""
    return (
        f"{_number(figure['value'])} ±{(figure['high'] - figure['low']) / 2:.2f}"
        if figure["low"] is not None
        else _number(figure["value"])
    )


def _number(value: float | None) -> str:
    return "" if value is None else f"{value:.3f}" if abs(value) < 100 else f"{value:.1f}"
