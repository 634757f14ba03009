"""Sweeps: parsing, one model a combination of settings, and a CSV that survives any interruption."""

from __future__ import annotations

import csv
import dataclasses
import re
from pathlib import Path
from typing import Any

import pytest
import torch

from modules.common.errors import UserError
from modules.config import StoryConfig
from modules.evaluation.sweep import Sweep, run_sweep, with_setting
from modules.generation.pipeline import StoryPipeline
from modules.presentation.plots.heat_map import write_sweep_plot
from modules.presets import TINY
from modules.story import StoryDataset
from modules.storyworld import StoryWorld
from modules.training.settings import TrainSettings


def read(path: Path) -> list[dict[str, str]]:
    with open(path, newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def test_sweep_is_read_as_json_or_words():
    assert Sweep.parse("storyboard.codebook_size=128,256") == Sweep("storyboard.codebook_size", (128, 256))
    assert Sweep.parse("image_decoder.block_out_channels=[8,16],[8,8]").values == ([8, 16], [8, 8])
    assert Sweep.parse("preset=a,b").values == ("a", "b")
    for text in ("storyboard.codebook_size", "=1", "prior.dim="):
        with pytest.raises(UserError, match="must be a setting and its values"):
            Sweep.parse(text)
    with pytest.raises(UserError, match="different values, got 8,8"):
        Sweep.parse("prior.dim=8,8")


def test_one_setting_is_replaced_and_nothing_else():
    changed = with_setting(TINY, "image_decoder.block_out_channels", [8, 8])
    assert changed.image_decoder.block_out_channels == (8, 8)
    assert with_setting(changed, "image_decoder.block_out_channels", [8, 16]) == TINY
    assert with_setting(TINY, "training.learning_rate", 1).training.learning_rate == 1.0


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("storyboard.codebok_size=8", "unknown setting 'codebok_size' in StoryboardConfig"),
        ("storybord.codebook_size=8", "unknown setting 'storybord' in StoryConfig"),
        ("storyboard.codebook_size=many", "codebook_size must be a whole number, got 'many'"),
        ("storyboard.codebook_size=8.5", "codebook_size must be a whole number, got 8.5"),
        ("storyboard.codebook_size.x=8", "codebook_size is no section"),
        ("training.max_steps=0", "training.max_steps must be from 1 to 1000000000"),
        ("prior.dim=32,33", "--sweep prior.dim=33 describes no model that can be built"),
    ],
)
def test_an_impossible_setting_is_refused_before_any_training(text, problem, tmp_path):
    def open_data(_: StoryConfig) -> tuple[StoryDataset, StoryDataset]:
        raise AssertionError("no data is needed to see that")

    with pytest.raises(UserError, match=re.escape(problem)):
        run_sweep([Sweep.parse(text)], TINY, TrainSettings(tmp_path), open_data, lambda _: {}, tmp_path / "sweep.csv")
    assert not list(tmp_path.iterdir())


class SweepRun:
    """A sweep over two codebook sizes that is interrupted while the second model is scored."""

    def __init__(self, folder: Path) -> None:
        self.config = dataclasses.replace(TINY, training=dataclasses.replace(TINY.training, max_steps=2, num_stories=8))
        self.args, self.output = TrainSettings(folder / "unused", save_every=100), folder / "results/sweep.csv"
        self.scored, self.printed = [], []

    def open_data(self, _: StoryConfig) -> tuple[StoryDataset, StoryDataset]:
        return StoryWorld(8, split="train", image_size=32), StoryWorld(4, split="val", image_size=32)

    def score(self, pipeline: StoryPipeline) -> dict[str, float | None]:
        self.scored.append(pipeline.config.storyboard.codebook_size)
        if len(self.scored) == 2:
            raise KeyboardInterrupt
        vectors = pipeline.model.storyboard.quantizer.embed(torch.arange(self.scored[-1]))
        return {"codes": len(vectors), "norm": vectors.norm().item(), "unmeasured": None}

    def run(self, **changed: Any) -> None:
        settings = {
            "sweeps": [Sweep.parse("storyboard.codebook_size=8,16")],
            "config": self.config,
            "args": self.args,
            "output": self.output,
            "open_data": self.open_data,
            "score": self.score,
            "say": self.printed.append,
        }
        run_sweep(**settings | changed)


@pytest.mark.slow
def test_a_sweep_trains_and_scores_each_model_and_resumes(tmp_path):
    sweep = SweepRun(tmp_path)
    config, args, output = sweep.config, sweep.args, sweep.output
    with pytest.raises(KeyboardInterrupt):
        sweep.run()
    first = output.read_bytes()
    sweep.run()
    assert sweep.scored == [8, 16, 16]
    assert output.read_bytes().startswith(first)
    for size in (8, 16):
        folder = output.parent / f"storyboard.codebook_size={size}"
        assert StoryPipeline.from_pretrained(folder).config == with_setting(config, "storyboard.codebook_size", size)
    assert not args.output_dir.exists()
    rows = read(output)
    assert [(row["storyboard.codebook_size"], row["codes"], row["unmeasured"]) for row in rows] == [
        ("8", "8", ""),
        ("16", "16", ""),
    ]
    norm = float(rows[1]["norm"])
    line = f"[sweep] storyboard.codebook_size=16 | codes=16.0000 norm={norm:.4f} unmeasured=-"
    assert sweep.printed[1] == line
    assert write_sweep_plot(output, tmp_path / "sweep.png", ["storyboard.codebook_size"]).stat().st_size > 1000
    for changed in ({"args": dataclasses.replace(args, seed=1)}, {"identity": {"num_stories": 9}}):
        with pytest.raises(UserError, match="results of another run"):
            sweep.run(**changed)


def test_several_sweeps_are_a_grid(tmp_path):
    lines = ["prior.dim,prior.num_layers,nats,nats low,nats high,settings"]
    lines += [f"{dim},{layers},{dim / layers},1,40,x" for dim in (16, 32) for layers in (1, 2)]
    (tmp_path / "sweep.csv").write_text("\n".join(lines) + "\n")
    assert (
        write_sweep_plot(tmp_path / "sweep.csv", tmp_path / "a.png", ["prior.dim", "prior.num_layers"]).stat().st_size
        > 1000
    )
    with pytest.raises(UserError, match=r"different settings, got prior\.dim, prior\.dim"):
        sweeps = [Sweep("prior.dim", (16,)), Sweep("prior.dim", (32,))]
        run_sweep(sweeps, TINY, TrainSettings(tmp_path), lambda _: (), lambda _: {}, tmp_path / "other.csv")
