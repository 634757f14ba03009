"""`benchmarks/pictures.py` at tiny size: tables, JSON files, contact sheets and errors."""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import pytest
import torch
from PIL import Image

from modules.evaluation.decoded import PlannedPages, decode_pages
from modules.evaluation.judge.judge import Judge
from tests.support.benchmarks import load

pictures, studies, sheets = load("pictures"), load("picture_studies"), load("picture_sheet")


@pytest.fixture(scope="module")
def judge_folder(tiny_judge: Judge, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("judge")
    tiny_judge.save(folder)
    return folder


@pytest.fixture
def rows(judge_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture):
    """Run a study; return the rows of its JSON file and the lines of its table."""

    def run(study: str, *words: object) -> tuple[dict, list[str]]:
        out = tmp_path / "out.json"
        flags = [study, "--judge", judge_folder, "--num_stories", 3, "--json", out, *words]
        assert pictures.main([str(word) for word in flags]) == 0
        report = json.loads(out.read_text())
        assert report["study"] == study and report["environment"]["torch"]
        return report["rows"], capsys.readouterr().out.splitlines()

    return run


def test_guidance_grades_every_setting(rows, tiny_checkpoint):
    flags = ("--grid", "1", "4:0.5:1", "--num_inference_steps", 2, "--whole_stories")
    found, table = rows("guidance", "--ckpt", tiny_checkpoint, *flags)
    settings = ["1 everywhere", "4 in [0.5, 1]"]
    names = [f"{origin}: {setting}" for origin in ("true codes", "whole stories") for setting in settings]
    assert list(found) == names and len(table) == 2 + 4
    for name, metrics in found.items():
        is_whole = name.startswith("whole")
        assert ("colour" in metrics) != is_whole and {"hero_colour_persistence", "FD-judge", "seconds"} <= set(metrics)
        assert metrics["seconds"]["value"] > 0 and metrics["seconds"]["low"] is None
    agree = found["true codes: 1 everywhere"]["text_and_picture_agree"]
    assert agree["low"] <= agree["value"] <= agree["high"]
    assert table[2].startswith("| true codes: 1 everywhere | ")


def test_samplers_are_graded_on_the_same_pages(rows, tiny_checkpoint):
    found, table = rows("sampler", "--ckpt", tiny_checkpoint, "--grid", "ddim:2", "unipc:3")
    assert list(found) == ["true codes: ddim, 2 steps", "true codes: unipc, 3 steps"] and len(table) == 2 + 2
    assert len({metrics["FD-judge"]["value"] for metrics in found.values()}) == 2


def test_context_also_hides_the_other_pages(rows, tiny_checkpoint):
    found, table = rows("context", "--ckpt", tiny_checkpoint, "--num_inference_steps", 2)
    readings = ("all pages' codes", "its own page alone (others hidden)")
    assert list(found) == [f"{tiny_checkpoint}: {reading}" for reading in readings]
    for metrics in found.values():
        assert set(studies.CONTEXT_COLUMNS) <= set(metrics)
    assert len(table[0].split("|")) == 2 + 1 + len(studies.CONTEXT_COLUMNS)


def test_reconstructions_beside_true_pictures(rows, tiny_checkpoint, tiny_config):
    found, _ = rows("autoencoder", "--ckpt", tiny_checkpoint)
    assert list(found) == ["true pictures", str(tiny_checkpoint)]
    metrics = found[str(tiny_checkpoint)]
    assert set(studies.AUTOENCODER_COLUMNS) <= set(metrics)
    assert metrics["channels"]["value"] == tiny_config.autoencoder.latent_channels
    assert metrics["parameters"]["value"] > 0
    assert metrics["psnr"]["low"] <= metrics["psnr"]["value"] <= metrics["psnr"]["high"]
    assert found["true pictures"]["object"]["value"] == metrics["object"]["ceiling"]


def test_sheets_are_the_same_every_time(tiny_checkpoint, tmp_path):
    flags = ("sheet", "--ckpt", tiny_checkpoint, "--num_stories", 2, "--num_inference_steps", 2, "--columns", 3)
    files = [tmp_path / f"{number}.png" for number in range(4)]
    for file, words in zip(files, ((), (), ("--truth",), ("--prompts", "--scale", 2)), strict=True):
        assert pictures.main([str(word) for word in (*flags, "--output", file, *words)]) == 0
    assert files[0].read_bytes() == files[1].read_bytes()
    sizes = [Image.open(file).size for file in files]
    # 8 pages in rows of 3: 32 pixels three times enlarged, a gap of 6 and a label of 16.
    assert sizes[0] == (3 * (96 + 6) + 6, 3 * (96 + 16 + 6) + 6)
    assert sizes[2] == (3 * (2 * 96 + 6) + 6, sizes[0][1]) and sizes[3][0] == 3 * (64 + 6) + 6


def test_tiles_are_enlarged_under_their_labels():
    tiles = [
        sheets.Tile(f"1/{page}", (Image.new("RGB", (4, 4), colour),)) for page, colour in enumerate(("red", "blue"))
    ]
    sheet = sheets.lay_out(tiles, columns=8, scale=2, resampling=Image.Resampling.NEAREST)
    assert sheet.size == (2 * (8 + 6) + 6, 8 + 16 + 6 + 6)
    assert sheet.getpixel((6, 6 + 16)) == (255, 0, 0) and sheet.getpixel((20 + 7, 6 + 16 + 7)) == (0, 0, 255)


def test_first_pages_and_pages_alone(tiny_pipeline):
    codes = torch.randint(0, 32, (5, 8), generator=torch.Generator().manual_seed(0))
    first = PlannedPages.first_pages(codes, [2, 3], 2)
    assert (first.rows, first.pages, first.lengths, first.story_lengths) == ([0, 1, 2, 3], [0, 1, 2, 3], [2, 2], [2, 3])
    assert PlannedPages.first_pages(codes, [2, 3], 1).rows == [0, 2]
    whole, alone = PlannedPages.whole(codes, [2, 3]), PlannedPages.alone(codes, [2, 3])
    assert alone.lengths == [2, 3] and alone.rows == whole.rows
    single = PlannedPages.whole(codes[:1], [1])
    drawn = [decode_pages(tiny_pipeline, plans, "", 0, num_inference_steps=2) for plans in (alone, whole, single)]
    assert drawn[0].texts[0] == drawn[2].texts[0] and drawn[0].texts != drawn[1].texts
    kept = decode_pages(tiny_pipeline, whole, "", 0, ["a"] * 5, num_inference_steps=2)
    assert kept.texts == ["a"] * 5 and kept.images == drawn[1].images


@pytest.mark.parametrize(
    ("text", "message"),
    [("much", "SCALE or SCALE:LOW:HIGH"), ("2:0.5", "SCALE or SCALE:LOW:HIGH"), ("2:0.9:0.1", "the lower one first")],
)
def test_wrong_guidance_is_refused(text, message):
    with pytest.raises(argparse.ArgumentTypeError, match=message):
        studies.Guidance.parse(text)


@pytest.mark.parametrize(
    ("text", "message"), [("ddim", "SCHEDULER:STEPS"), ("ddim:-1", "SCHEDULER:STEPS"), ("euclid:4", "euclid")]
)
def test_a_wrong_sampler_is_refused(text, message):
    with pytest.raises(argparse.ArgumentTypeError, match=message):
        studies.Sampler.parse(text)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("guidance", "--ckpt", "nowhere"), "nowhere"),
        (("guidance", "--judge", "nowhere"), "no judge at nowhere"),
        (("guidance", "--ckpt", "a", "--ckpt", "b"), "give --ckpt once"),
        (("sheet", "--ckpt", "a", "--ckpt", "b"), "give --ckpt once"),
        (("sheet", "--output", __file__ + "/sheet.png"), "cannot write"),
    ],
)
def test_bad_input_is_one_line(capsys, words, message):
    assert pictures.main(list(words)) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("error: ") and message in line
