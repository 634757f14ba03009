"""`benchmarks/search_curve.py` at tiny size: a table, and stories that are not drawn twice."""

from __future__ import annotations

import json

from tests.support.benchmarks import load

curve = load("search_curve")


def test_a_curve_goes_on_where_it_stopped(tiny_judge, tiny_checkpoint, tmp_path, capsys):
    tiny_judge.save(tmp_path / "judge")
    out, record = tmp_path / "curve.json", tmp_path / "curve.stories.jsonl"
    flags = ["--ckpt", tiny_checkpoint, "--judge", tmp_path / "judge", "--num_stories", 2, "--num_plans", 1, 3]
    words = [str(word) for word in (*flags, "--json", out)]
    assert curve.main(words) == 0
    table, rows = capsys.readouterr().out, json.loads(out.read_text())["rows"]
    assert list(rows) == ["1", "3"] and rows["1"]["seconds"]["value"] == 0 < rows["3"]["seconds"]["value"]
    lines = record.read_text().splitlines()
    assert len(lines) == 4
    record.write_text("\n".join(lines[:3]) + "\n" + lines[3][:20])  # As a kill leaves it.
    assert curve.main(words) == 0
    capsys.readouterr()
    again = json.loads(out.read_text())["rows"]
    assert again["1"] == rows["1"] and len(record.read_text().splitlines()) >= 4
    again["3"].pop("seconds"), rows["3"].pop("seconds")
    assert again == rows and "best of" in table
    assert curve.main([*words, "--seed", "5"]) == 2
