"""`benchmarks/codebook_size.py` and what it shares with `plan_use.py`, at tiny size: a table of costs and savings."""

from __future__ import annotations

import json
import sys

import pytest

from tests.support.benchmarks import load

pytestmark = pytest.mark.training


def test_costs_and_savings_are_reported_by_pages_and_codes(tmp_path, monkeypatch, capsys):
    codebook_size = load("codebook_size")
    report = tmp_path / "sizes.json"
    flags = ["--num_pages", 40, "--codebook_sizes", 4, "--num_updates", 5, "--batch_size", 4, "--num_held_out", 3]
    monkeypatch.setattr(sys, "argv", ["codebook_size.py", *map(str, flags), "--json", str(report)])
    codebook_size.main()
    table, found = capsys.readouterr().out, json.loads(report.read_text())["pages"]["40"]
    assert "nats a step" in table and found["chosen"] == 16 and list(found["sizes"]) == ["4", "16"]
    for row in found["sizes"].values():
        assert row["own"]["low"] <= row["own"]["value"] <= row["own"]["high"]
        assert row["cost"]["value"] > 0 and row["seconds_per_update"] > 0
        tokens = (row["cost"]["value"] + row["net"]["value"]) / row["null_gap"]["value"]
        assert 5 < tokens < 40  # What codes save a step is their gap times its tokens.
