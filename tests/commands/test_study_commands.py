"""`analyze`, `visualize` and `ablate` by the command line, on a tiny model and the shipped judge."""

from __future__ import annotations

import csv
import json
import signal
from pathlib import Path

import pytest
from PIL import Image

import story_generative_model
from modules.evaluation.codebook import analysis


def run(command: str, *words: object) -> int:
    return story_generative_model.main([command, *(str(word) for word in words)])


def test_analyze_writes_its_page(tiny_checkpoint, tmp_path, capsys):
    assert run("analyze", "--ckpt", tiny_checkpoint, "--num_stories", 8, "--output", tmp_path) == 0
    assert "wrote" in capsys.readouterr().out
    assert "<svg" in (tmp_path / "codebook.html").read_text()
    assert json.loads((tmp_path / "codebook.json").read_text())["codebook_size"] == 32


def test_analyze_that_is_stopped_keeps_what_it_has(tiny_checkpoint, tmp_path, capsys, monkeypatch):
    def stopped(*_: object) -> None:
        signal.raise_signal(signal.SIGTERM)

    words = ("--ckpt", tiny_checkpoint, "--num_stories", 2, "--output", tmp_path)
    with monkeypatch.context() as patch:
        patch.setattr(analysis, "make_cards", stopped)
        assert run("analyze", *words) == 143
    kept = json.loads((tmp_path / "codebook_unfinished.json").read_text())
    assert kept["unfinished"] and {"usage", "removal", "swaps"} <= set(kept) and "cards" not in kept
    assert f"is in {tmp_path}/codebook_unfinished.json" in capsys.readouterr().err
    assert [path.name for path in tmp_path.iterdir()] == ["codebook_unfinished.json"]
    assert run("analyze", *words) == 0
    whole = json.loads((tmp_path / "codebook.json").read_text())
    assert all(whole[name] == kept[name] for name in ("usage", "removal", "swaps"))
    assert not (tmp_path / "codebook_unfinished.json").exists()


@pytest.mark.slow
def test_visualize_writes_its_pictures(tiny_checkpoint, reference, tmp_path):
    flags = ("--num_stories", 1, "--num_inference_steps", 2, "--run", reference, "--output", tmp_path)
    assert run("visualize", "--ckpt", tiny_checkpoint, *flags) == 0
    for name in ("predictions", "denoising", "timeline", "curves"):
        assert Image.open(tmp_path / f"{name}.png").width > 100
    assert (tmp_path / "visualize.html").exists()


def test_ablate_writes_a_row_a_cell_and_a_line_a_page(tiny_checkpoint, tmp_path, capsys):
    flags = ("--steps", "2,4", "--strength", "0.5,1.0", "--cfg", "1", "--num_examples", 2, "--output", tmp_path)
    assert run("ablate", "--ckpt", tiny_checkpoint, *flags) == 0
    lines = [line for line in capsys.readouterr().out.splitlines() if line.startswith("[ablate] idx=")]
    assert len(lines) == 2 * 4 and "| judge(pp)=" in lines[0] and "judge(pg)=" in lines[0]
    with (tmp_path / "ablation.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [(row["steps"], row["strength"]) for row in rows] == [("2", "0.5"), ("2", "1.0"), ("4", "0.5"), ("4", "1.0")]
    assert Image.open(tmp_path / "ablation.png").width > 100


@pytest.mark.slow
def test_a_sweep_trains_and_scores(reference, tmp_path):
    flags = ("--preset", "tiny", "--max_steps", 4, "--num_stories", 8, "--autoencoder", reference, "--num_evaluated", 3)
    assert run("ablate", "--sweep", "storyboard.codebook_size=8,16", *flags, "--output", tmp_path) == 0
    with (tmp_path / "sweep.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [row["storyboard.codebook_size"] for row in rows] == ["8", "16"]
    assert all(float(row["text_nats_per_token_own"]) > 0 and 0 < float(row["codes_used"]) <= 1 for row in rows)
    assert Image.open(tmp_path / "sweep.png").width > 100


@pytest.mark.parametrize(
    ("command", "words", "message"),
    [
        ("analyze", ("--judge", "nowhere"), "no judge at nowhere"),
        ("visualize", ("--run", "nowhere"), "nowhere"),
        ("ablate", ("--cfg", "much"), "much"),
        ("ablate", ("--preset", "bogus", "--sweep", "plan=codes"), "invalid choice: 'bogus'"),
        ("visualize", ("--output", __file__), "cannot write"),
        ("ablate", ("--sweep", "storyboard.colour=1"), "colour"),
        ("ablate", ("--clip", "nowhere", "--offline"), "nowhere"),
    ],
)
def test_bad_input_is_told(tiny_checkpoint: Path, tmp_path, capsys, command, words, message):
    try:
        code = run(command, "--ckpt", tiny_checkpoint, "--output", tmp_path, *words)
    except SystemExit as end:  # Of the parser.
        code = end.code
    assert code == 2
    told = capsys.readouterr().err.splitlines()[-1]
    assert told.startswith("error: ") and message in told
