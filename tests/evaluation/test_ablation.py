"""Ablations: the grid, correct scores, and a CSV that survives any interruption."""

from __future__ import annotations

import csv
import dataclasses
import re
import warnings
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from PIL import Image

from modules.common.errors import UserError
from modules.evaluation import ablation
from modules.evaluation.ablation import AblationGrid, GridCell, NextPages, draw_pages, predict_next_pages, run_ablation
from modules.evaluation.resumable_csv import ResumableCsv
from modules.generation.pipeline import StoryPipeline
from modules.presentation.plots.heat_map import write_heat_map
from modules.saving.model_folder import load_model
from modules.storyworld import StoryWorld

GRID = AblationGrid(steps=(2, 4), strengths=(0.5, 1.0), guidance_scales=(1.0, 3.0), num_examples=3)
LINE = re.compile(
    r"\[ablate\] idx=\d+ steps=\d+ str=\d\.\d{3} cfg=\d+\.\d{2} \| plain\(pp\)=-?\d\.\d{4} plain\(pg\)=-?\d\.\d{4}"
)


class PlainScorer:
    """Embed pictures by mean colour, texts by letters; the program is interrupted after `calls` batches of pictures."""

    def __init__(self, name: str = "plain", calls: int = 1000) -> None:
        self.name, self.calls = name, calls

    def embed_images(self, images: Sequence[Image.Image]) -> torch.Tensor:
        if not self.calls:
            raise KeyboardInterrupt
        self.calls -= 1
        return F.normalize(
            torch.tensor(np.array([np.asarray(image).mean((0, 1)) for image in images])).float() - 100, dim=-1
        )

    def embed_texts(self, texts: Sequence[str]) -> torch.Tensor:
        counts = torch.tensor([[text.count(letter) for letter in "aeo"] for text in texts])
        return F.normalize(counts.float() + 0.1, dim=-1)


@pytest.fixture(scope="module")
def world() -> StoryWorld:
    return StoryWorld(8, split="val", image_size=32)


@pytest.fixture(scope="module")
def pages(tiny_pipeline: StoryPipeline, world: StoryWorld) -> NextPages:
    return predict_next_pages(tiny_pipeline, world, 3)


@pytest.fixture(scope="module")
def whole(
    tiny_pipeline: StoryPipeline, world: StoryWorld, tmp_path_factory: pytest.TempPathFactory
) -> tuple[Path, list[str]]:
    """Write a CSV in one go; return its path and the printed lines."""
    output, printed = tmp_path_factory.mktemp("whole") / "results/ablation.csv", []
    run_ablation(tiny_pipeline, world, GRID, PlainScorer(), output, say=printed.append)
    return output, printed


def read(path: Path) -> list[dict[str, str]]:
    with open(path, newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def without_seconds(rows: list[dict[str, str]]) -> list[dict[str, str]]:
    return [{name: value for name, value in row.items() if name != "seconds_a_page"} for row in rows]


def pixels(images: Sequence[Image.Image]) -> np.ndarray:
    return np.stack([np.asarray(image, dtype=float) for image in images])


# The grid


def test_grid_is_read_from_flags():
    grid = AblationGrid.parse("10,20,50", ".02,0.05,0.1,1", "1,3,5,7", 4)
    assert grid == AblationGrid(num_examples=4)
    cells = grid.cells()
    assert (len(cells), cells[0], cells[1], cells[-1]) == (
        48,
        GridCell(10, 0.02, 1.0),
        GridCell(10, 0.02, 3.0),
        GridCell(50, 1.0, 7.0),
    )
    assert [cell.denoising_steps for cell in cells[::4]] == [1, 1, 1, 10, 1, 1, 2, 20, 1, 2, 5, 50]


@pytest.mark.parametrize(
    ("flags", "problem"),
    [
        (("10,x", "1", "1", 1), "--steps must be whole numbers"),
        (("1.5", "1", "1", 1), "--steps must be whole numbers"),
        (("10", "1", "", 1), "--cfg must be numbers"),
        (("10,10", "1", "1", 1), "--steps must be one or more different numbers, got 10,10"),
        (("0", "1", "1", 1), "num_inference_steps must be from 1"),
        (("10", "0,1", "1", 1), "--strength must be above 0 and at most 1, got 0.0"),
        (("10", "nan", "1", 1), "--strength must be above 0"),
        (("10", "1", "-1", 1), "guidance_scale must be from 0"),
        (("10", "1", "1", 0), "--num_examples must be 1 or more"),
    ],
)
def test_numbers_out_of_range_are_refused(flags, problem):
    with pytest.raises(UserError, match=re.escape(problem)):
        AblationGrid.parse(*flags)


# What is drawn


def test_next_pages_are_the_likeliest_after_three_true_ones(tiny_pipeline, world, pages):
    stories = [story for story in (world[index] for index in range(len(world))) if len(story.steps) > 3][:3]
    assert pages.true_texts == [story.steps[3].text for story in stories]
    story = stories[0]
    codes = tiny_pipeline.encode(story.steps[:3])
    drawn = tiny_pipeline.plan(story.prompt, len(story.steps) - 3, seed=5, temperature=0, codes=codes).codes[0, :1]
    assert torch.equal(tiny_pipeline.model.storyboard.embed(drawn).code_embeds, pages.code_embeds[:1])
    whole = torch.cat([codes, drawn])  # The text is decoded beside the given pages.
    assert tiny_pipeline.render(whole, pages=[3], num_inference_steps=1)[0] == pages.predicted_texts[:1]


def test_strength_is_how_far_from_the_page_before(tiny_pipeline, pages):
    """All of it starts from noise alone, and forgets that page."""
    other = dataclasses.replace(pages, previous_latents=pages.previous_latents.flip(0))
    from_noise, same = (draw_pages(tiny_pipeline, given, GridCell(4, 1.0, 2.0), seed=0) for given in (pages, other))
    assert (pixels(from_noise) == pixels(same)).all()
    half, differs = (draw_pages(tiny_pipeline, given, GridCell(4, 0.5, 2.0), seed=0) for given in (pages, other))
    assert np.abs(pixels(half) - pixels(differs)).mean() > 1
    less, none = (draw_pages(tiny_pipeline, pages, GridCell(4, strength, 2.0), seed=0) for strength in (0.25, 0.01))
    assert (pixels(less) == pixels(none)).all()  # At least one step.


def test_a_page_keeps_its_noise_among_other_pages(tiny_pipeline, pages, monkeypatch):
    cell = GridCell(2, 1.0, 3.0)
    together = pixels(draw_pages(tiny_pipeline, pages, cell, seed=1))
    monkeypatch.setattr(ablation, "RENDER_BATCH", 2)
    assert np.abs(pixels(draw_pages(tiny_pipeline, pages, cell, seed=1)) - together).max() <= 1
    first = {name: getattr(pages, name)[:1] for name in ("code_embeds", "window", "previous_latents")}
    first = dataclasses.replace(pages, **first)
    assert np.abs(pixels(draw_pages(tiny_pipeline, first, cell, seed=1)) - together[:1]).max() <= 1
    assert np.abs(pixels(draw_pages(tiny_pipeline, pages, cell, seed=2)) - together).mean() > 1


# Rows and lines


def test_a_row_a_cell_and_a_line_a_page(tiny_pipeline, pages, whole):
    output, printed = whole
    rows = read(output)
    assert [(row["steps"], row["strength"], row["cfg"]) for row in rows] == [
        (str(cell.steps), str(cell.strength), str(cell.cfg)) for cell in GRID.cells()
    ]
    assert len(printed) == 3 * len(rows)
    assert all(LINE.fullmatch(line) for line in printed)
    assert printed[4].startswith("[ablate] idx=1 steps=2 str=0.500 cfg=3.00 | ")
    scorer, row = PlainScorer(), rows[1]
    images = scorer.embed_images(draw_pages(tiny_pipeline, pages, GRID.cells()[1], seed=0))
    for name, texts in (("plain(pp)", pages.predicted_texts), ("plain(pg)", pages.true_texts)):
        cosines = images @ scorer.embed_texts(texts).T
        others = cosines[~torch.eye(3, dtype=torch.bool)]
        ceiling = (scorer.embed_images(pages.true_images) * scorer.embed_texts(pages.true_texts)).sum(1).mean()
        shown = [float(re.search(rf"{re.escape(name)}=(\S+)", line)[1]) for line in printed[3:6]]
        assert shown == pytest.approx(cosines.diagonal().tolist(), abs=1e-4)
        measured = [float(row[f"{name}{part}"]) for part in ("", " floor", " ceiling")]
        assert measured == pytest.approx(
            [part.mean().item() for part in (cosines.diagonal(), others, ceiling)], abs=1e-4
        )
        assert float(row[f"{name} low"]) <= float(row[name]) <= float(row[f"{name} high"])
    assert (row["denoising_steps"], row["scorer"], row["num_examples"], row["seed"]) == ("1", "plain", "3", "0")
    assert float(row["seconds_a_page"]) > 0


def test_a_stopped_run_loses_one_cell_and_goes_on(tiny_pipeline, world, whole, tmp_path):
    output, printed = tmp_path / "ablation.csv", []
    with pytest.raises(KeyboardInterrupt):  # True pages first; then in the fourth cell.
        run_ablation(tiny_pipeline, world, GRID, PlainScorer(calls=4), output, say=printed.append)
    before = output.read_bytes()
    assert before.count(b"\n") == 4
    assert [path.name for path in tmp_path.iterdir()] == ["ablation.csv"]
    run_ablation(tiny_pipeline, world, GRID, PlainScorer(), output, say=printed.append)
    assert output.read_bytes().startswith(before)
    assert (without_seconds(read(output)), printed) == (without_seconds(read(whole[0])), whole[1])


def test_a_larger_grid_measures_only_its_new_cells(tiny_pipeline, world, whole, tmp_path):
    output, printed = tmp_path / "ablation.csv", []
    output.write_bytes(whole[0].read_bytes())
    run_ablation(tiny_pipeline, world, GRID, PlainScorer(calls=0), output, say=printed.append)
    assert printed == []
    larger = dataclasses.replace(GRID, steps=(6, *GRID.steps))
    run_ablation(tiny_pipeline, world, larger, PlainScorer(), output, say=printed.append)
    assert len(printed) == 3 * 4
    assert output.read_bytes().splitlines()[5:] == whole[0].read_bytes().splitlines()[1:]


@pytest.mark.parametrize(
    ("changed", "problem"),
    [
        (
            {"grid": dataclasses.replace(GRID, steps=(2,))},
            "results that are not requested (steps=4 strength=0.5 cfg=1.0)",
        ),
        ({"grid": dataclasses.replace(GRID, num_examples=2)}, "another num_examples (3, now 2)"),
        ({"scorer": PlainScorer("CLIP")}, "another scorer (plain, now CLIP)"),
        ({"seed": 1}, "another seed (0, now 1)"),
        ({"dataset": StoryWorld(9, split="val", image_size=32)}, "another data (storyworld"),
    ],
)
def test_a_csv_of_other_settings_is_refused_and_left_alone(tiny_pipeline, world, whole, changed, problem):
    before = whole[0].read_bytes()
    settings = {"dataset": world, "grid": GRID, "scorer": PlainScorer(), "output": whole[0]} | changed
    with pytest.raises(UserError, match=re.escape(problem)):
        run_ablation(tiny_pipeline, **settings)
    assert whole[0].read_bytes() == before


def test_a_table_of_another_model_is_refused(tiny_checkpoint, tiny_pipeline, world, whole):
    again = StoryPipeline(*load_model(tiny_checkpoint))
    assert again.fingerprint() == tiny_pipeline.fingerprint()
    with torch.no_grad():
        again.model.prior.slot_embed.weight[0, 0] += 1
    with pytest.raises(UserError, match="another model"):
        run_ablation(again, world, GRID, PlainScorer(), whole[0])


@pytest.mark.parametrize(
    "content", ["steps,strength\n1,2,3\n", "a,b\n1,2\n", "a,b\n", '"never closed', "\0", "steps,strength,cfg\n2\n"]
)
def test_a_file_that_is_none_of_ours_is_refused(tmp_path, content):
    path = tmp_path / "mine.csv"
    path.write_text(content)
    with pytest.raises(UserError, match=r"mine\.csv"):
        ResumableCsv(path, [{"steps": 2}], {"seed": 0})
    assert path.read_text() == content


def test_less_than_one_step_is_told_once_a_cell(tiny_pipeline, world, tmp_path):
    grid = AblationGrid((2, 4), (0.3,), (1.0, 3.0), num_examples=1)
    with warnings.catch_warnings(record=True) as notes:
        warnings.simplefilter("always")
        run_ablation(tiny_pipeline, world, grid, PlainScorer(), tmp_path / "a.csv", say=lambda _: None)
    assert [str(note.message).partition(": ")[::2] for note in notes] == [
        (f"steps=2 str=0.300 cfg={cfg}", "2 x 0.3 is less than one step of denoising; one is taken")
        for cfg in ("1.00", "3.00")
    ]
    rows = read(tmp_path / "a.csv")
    assert [row["denoising_steps"] for row in rows] == ["1"] * 4
    assert all(row["plain(pp) floor"] == "" and row["plain(pp) low"] == "" for row in rows)  # One story.


def test_too_few_stories_are_told(tiny_pipeline, world, tmp_path):
    with pytest.raises(UserError, match="lower --num_examples 9"):
        run_ablation(tiny_pipeline, world, dataclasses.replace(GRID, num_examples=9), PlainScorer(), tmp_path / "a.csv")
    assert not list(tmp_path.iterdir())


def test_heat_map_is_the_same_bytes_and_draws_part_of_a_grid_too(whole, tmp_path):
    first, second = (write_heat_map(whole[0], tmp_path / f"deep/{name}.png").read_bytes() for name in "ab")
    assert first == second
    with Image.open(tmp_path / "deep/a.png") as image:
        assert image.format == "PNG" and image.width > 600 and image.info.keys() <= {"dpi", "Software"}
    (tmp_path / "part.csv").write_bytes(b"".join(whole[0].read_bytes().splitlines(keepends=True)[:4]))
    assert write_heat_map(tmp_path / "part.csv", tmp_path / "part.png").stat().st_size > 1000
    with pytest.raises(UserError, match="no results with a column steps"):
        (tmp_path / "empty.csv").write_text("steps,strength,cfg\n")
        write_heat_map(tmp_path / "empty.csv", tmp_path / "empty.png")
