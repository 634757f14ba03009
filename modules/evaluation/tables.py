"""The report of `evaluate` as tables on a terminal."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from rich.console import Console
from rich.table import Table

from modules.evaluation.labels import KINDS, label

MIN_WIDTH = 110  # Columns of a table, also if the terminal is narrower or a file.
Metrics = Mapping[str, Mapping[str, Any]]
# Of the bound, those that need no codes.
COMPARABLE = ("code_charged_nats_per_token", "code_charged_nats_per_character", "bound_nats_per_step")


def print_report(report: Mapping[str, Any]) -> None:
    """Print all metrics with their intervals, floors and ceilings."""
    console = Console()
    console.print(
        f"{_stories(report['num_stories'], 'held-out ')} ({report['num_steps']} pages) of {report['data']}. "
        f"{_intervals(report['num_stories'], 'Intervals are 95 % over stories')}. Floor: chance, or pages of"
        " other stories; ceiling: real pages, or the best "
        "possible value."
    )
    _print_codes(console, report)
    origin = "the page's own codes" if "codebook" in report else "a prediction from the previous pages"
    if "texts" in report:
        print_metrics(f"Texts decoded from {origin}, against the true texts", report["texts"]["figures"])
    if "meaning" in report:
        print_metrics("What texts mean, by the model's own sentence encoder", report["meaning"])
    if "named_right" in report:
        console.print("Share of texts that name exactly what the true text names, by what they were decoded from.")
        _print_columns("the text names", report["named_right"], labels={})
    if "drawn" in report:
        _print_drawn(console, report["drawn"])
    if "steering" in report:
        print_metrics("Steering: one code of a page edited, replays, forks, the best of 16 plans", report["steering"])
    if "baselines" in report:
        _print_baselines({"this model": report, **report["baselines"]})


def _print_codes(console: Console, report: Mapping[str, Any]) -> None:
    """Print the bound and, for a model with codes, the ranking and the usage of the codebook."""
    print_metrics("Upper bound on -log likelihood: the cost of each part (lower is better)", report["bound"])
    if "next_step" in report:
        print_metrics("Likelihood of the true next page's codes, against other pages (1 is best)", report["next_step"])
    if "codebook" in report:
        book = report["codebook"]
        console.print(
            f"{book['used']:.1%} of {book['codebook_size']} codes are used (if all were equally frequent: "
            f"{book['used_ceiling']:.1%}); perplexity {book['perplexity']:.0f}, mean by slot "
            f"{book['perplexity_per_slot']:.0f}."
        )


def _print_drawn(console: Console, drawn: Mapping[str, Any]) -> None:
    kinds = {name: metrics for name, metrics in drawn.items() if isinstance(metrics, Mapping)}
    console.print(
        f"Pages of {_stories(drawn['num_stories'])}, by what they were decoded from. Features of pictures: "
        f"{drawn['extractor']}; match of picture and text: {drawn['scorer']}. The judge, an attribute classifier, "
        f"predicts what pictures show. {_intervals(drawn['num_stories'], '± is half of the 95 % interval')}; floor"
        " and ceiling are those of the first column "
        "that has the metric. Of distances, lower is better."
    )
    _print_columns("metric", kinds)


def _print_baselines(reports: Mapping[str, Mapping[str, Any]]) -> None:
    """Print the metrics that models with and without codes share, side by side."""
    bounds = {
        name: {key: report["bound"][key] for key in COMPARABLE if key in report["bound"]}
        for name, report in reports.items()
    }
    Console().print("Comparison with baselines.")
    _print_columns("bound", bounds)
    for kind in ("next step", "whole story"):
        drawn = {name: report["drawn"][kind] for name, report in reports.items() if kind in report.get("drawn", {})}
        if drawn:
            _print_columns(KINDS[kind], drawn)


def print_metrics(title: str, metrics: Metrics) -> None:
    """Print one table under a title, a metric a row."""
    table = Table("metric", "value", "95 % interval", "floor", "ceiling", title=title, title_justify="left")
    for name, metric in metrics.items():
        value, low, high, floor, ceiling = (
            _number(metric[key]) for key in ("value", "low", "high", "floor", "ceiling")
        )
        table.add_row(label(name), value, f"{low} to {high}" if low else "", floor, ceiling)
    Console(width=max(Console().width, MIN_WIDTH)).print(table)


def _print_columns(title: str, columns: Mapping[str, Metrics], labels: Mapping[str, str] | None = None) -> None:
    """Print one table, a metric a row, with a column for each kind of pages or model.

    Floor and ceiling are those of the first column that has the metric. `labels` replaces `label`'s.
    """
    table = Table(title, *(KINDS.get(name, name) for name in columns), "floor", "ceiling")
    for name in dict.fromkeys(name for metrics in columns.values() for name in metrics):
        first = next(metrics[name] for metrics in columns.values() if name in metrics)
        cells = [_spread(metrics[name]) if name in metrics else "" for metrics in columns.values()]
        row = label(name) if labels is None else labels.get(name, name)
        table.add_row(row, *cells, _number(first["floor"]), _number(first["ceiling"]))
    Console(width=max(Console().width, 30 + 16 * len(columns))).print(table)


def markdown_table(title: str, rows: Mapping[str, Metrics], columns: Mapping[str, str]) -> str:
    """Return a Markdown table of values with their intervals: a row for each set of metrics, named under `title`.

    `columns` are the headings of the metrics that are shown, by their names.
    """
    lines = [f"| {' | '.join([title, *columns.values()])} |", "|---" * (1 + len(columns)) + "|"]
    for row, metrics in rows.items():
        cells = [_interval(metrics[name]) if name in metrics else "" for name in columns]
        lines.append(f"| {' | '.join([row, *cells])} |")
    return "\n".join(lines)


def _interval(metric: Mapping[str, Any]) -> str:
    """Return the value with its interval; one without an interval, such as a count, alone."""
    value, low, high = metric["value"], metric["low"], metric["high"]
    if value is None or low is not None:
        return "" if value is None else f"{_number(value)} [{_number(low)}, {_number(high)}]"
    return str(int(value)) if value == int(value) else _number(value)


def _spread(metric: Mapping[str, Any]) -> str:
    """Return the value and half the width of its interval."""
    if metric["value"] is None or metric["low"] is None:
        return _number(metric["value"])
    return f"{_number(metric['value'])} ±{(metric['high'] - metric['low']) / 2:.2f}"


def _stories(count: int, kind: str = "") -> str:
    return f"1 {kind}story" if count == 1 else f"{count} {kind}stories"


def _intervals(count: int, meaning: str) -> str:
    """Return what is said of intervals over `count` stories."""
    return "One story: no interval" if count == 1 else meaning


def _number(value: float | None) -> str:
    return "" if value is None else f"{value:.3f}" if abs(value) < 100 else f"{value:.1f}"
