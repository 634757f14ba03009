"""Numbers and heat tables of the codebook page."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby

Estimate = Mapping[str, float | None]  # A metric in a report: value, low, high, floor and ceiling.
NOT_MEASURED, MINUS = "\N{EN DASH}", "\N{MINUS SIGN}"


@dataclass(frozen=True)
class HeatCell:
    """A table cell: its text, the strength of its colour (0 to 1), its tooltip, and whether it may be chance."""

    text: str
    strength: float = 0.0
    title: str = ""
    faint: bool = False


@dataclass(frozen=True)
class Column:
    """A column of a heat table under the heading `name`; adjacent columns of one `group` share a second heading."""

    name: str
    cells: Sequence[HeatCell]
    group: str = ""


@dataclass(frozen=True)
class HeatTable:
    """A table whose cells are coloured by strength; rows named "all" and "floor" are set apart."""

    rows: Sequence[str]
    columns: Sequence[Column]

    @property
    def groups(self) -> list[tuple[str, int]]:
        """The names of adjacent groups and their numbers of columns; empty if no column has a group."""
        groups = [(name, len(list(columns))) for name, columns in groupby(self.columns, lambda column: column.group)]
        return groups if any(name for name, _ in groups) else []


def number(value: float | None, digits: int = 2) -> str:
    """Format a number without a leading zero: 0.123 -> .12; None is a dash."""
    if value is None:
        return NOT_MEASURED
    text = f"{value:.{digits}f}"
    return (text.replace("0.", ".", 1) if text.startswith(("0.", "-0.")) else text).replace("-", MINUS)


def percent(value: float | None) -> str:
    """Format a share as a whole percentage without its sign: 0.123 -> 12."""
    return NOT_MEASURED if value is None else str(round(100 * value)).replace("-", MINUS)


def confidence(estimate: Estimate, digits: int = 2) -> str:
    """Return the 95 % interval, or nothing if there is none."""
    low, high = estimate["low"], estimate["high"]
    return "" if low is None else f"95 %: {number(low, digits)} to {number(high, digits)}"


def bounds(estimate: Estimate, digits: int = 2) -> str:
    """Return an estimate's 95 % interval, floor and ceiling, as far as they exist."""
    parts = [f"{name} {number(estimate[name], digits)}" for name in ("floor", "ceiling") if estimate[name] is not None]
    return "; ".join(filter(None, [confidence(estimate, digits), *parts]))


def text_cell(estimate: Estimate, digits: int) -> HeatCell:
    """Return an uncoloured cell with an estimate's value."""
    return HeatCell(number(estimate["value"], digits), title=bounds(estimate, digits))


def share_cell(estimate: Estimate, title: str = "", faint: bool = False) -> HeatCell:
    """Return a cell with a share as a percentage."""
    value = estimate["value"]
    return HeatCell(percent(value), clip(value or 0.0), f"{title}{bounds(estimate)}", faint)


def share_column(name: str, estimates: Iterable[Estimate], group: str = "") -> Column:
    """Return a column of percentages."""
    return Column(name, [share_cell(estimate) for estimate in estimates], group)


def scaled_column(name: str, estimates: Sequence[Estimate], digits: int, group: str) -> Column:
    """Return a column of amounts without a common scale: the largest has the full colour."""
    values = [max(0.0, estimate["value"] or 0.0) for estimate in estimates]
    full = max(values, default=0.0) or 1.0
    cells = [
        HeatCell(number(estimate["value"], digits), value / full, bounds(estimate, digits))
        for estimate, value in zip(estimates, values, strict=True)
    ]
    return Column(name, cells, group)


def clip(share: float) -> float:
    """Limit a share to 0 to 1."""
    return min(1.0, max(0.0, share))
