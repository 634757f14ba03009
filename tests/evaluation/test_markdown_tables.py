"""Tables of metrics as Markdown."""

from __future__ import annotations

import math

from modules.evaluation.metrics.statistics import Estimate, to_dicts
from modules.evaluation.tables import markdown_table


def test_markdown_has_a_row_for_each_set_of_metrics():
    rows = {
        "first": to_dicts({"a": Estimate(0.5, 0.25, 0.75), "count": Estimate(120.0, math.nan, math.nan)}),
        "second": to_dicts({"count": Estimate(2.5, math.nan, math.nan), "hidden": Estimate(1.0, 1.0, 1.0)}),
    }
    assert markdown_table("model", rows, {"a": "accuracy", "count": "codes"}).splitlines() == [
        "| model | accuracy | codes |",
        "|---|---|---|",
        "| first | 0.500 [0.250, 0.750] | 120 |",
        "| second |  | 2.500 |",
    ]
