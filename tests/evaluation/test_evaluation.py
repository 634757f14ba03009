"""Evaluation: every metric with its interval, floor and ceiling, scores with known answers, and valid JSON."""

from __future__ import annotations

import json
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

import story_generative_model
from modules.config import StoryConfig
from modules.data.writing import write_stories
from modules.evaluation import report as evaluation_report
from modules.evaluation.held_out import VARIANTS
from modules.evaluation.judge.attributes import GROUPS
from modules.evaluation.judge.judge import Judge
from modules.evaluation.metrics import pages as page_metrics
from modules.evaluation.metrics.pages import GradedPages, Graders
from modules.evaluation.metrics.statistics import Estimate, mean_over_rows, story_of_rows
from modules.evaluation.report import evaluate
from modules.evaluation.tables import print_report
from modules.generation.pipeline import StoryPipeline
from modules.presentation.model_card import write_card
from modules.saving.model_folder import save_model
from modules.story import Story, StoryStep
from modules.story_model.story_model import StoryModel
from modules.storyworld import StoryWorld

NUM_STORIES = 6


@pytest.fixture(scope="module")
def world() -> StoryWorld:
    return StoryWorld(NUM_STORIES, seed=4, split="val", image_size=32)


@pytest.fixture(scope="module")
def graders(tiny_judge: Judge) -> Graders:
    return Graders(tiny_judge, tiny_judge, tiny_judge)


@pytest.fixture(scope="module")
def report(tiny_pipeline: StoryPipeline, world: StoryWorld, graders: Graders) -> dict[str, Any]:
    return evaluate(tiny_pipeline, world, NUM_STORIES, num_drawn=NUM_STORIES, graders=graders)


@pytest.fixture(scope="module")
def bare_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Write validation stories of texts only, without pictures and attributes."""
    folder = tmp_path_factory.mktemp("bare")
    world = StoryWorld(3, split="val", image_size=32)
    stories = [world[index] for index in range(3)]
    write_stories(
        folder / "val",
        [Story(story.id, story.prompt, tuple(StoryStep(step.text) for step in story.steps)) for story in stories],
    )
    return folder


def figures(value: Any) -> Iterator[dict[str, float | None]]:
    """Yield every metric of a nested report."""
    if isinstance(value, dict) and "low" in value:
        yield value
    elif isinstance(value, dict):
        for inner in value.values():
            yield from figures(inner)


# The report


def test_every_metric_has_interval_floor_and_ceiling(report, world):
    assert (report["data"], report["num_stories"], report["num_steps"]) == (
        "storyworld",
        NUM_STORIES,
        sum(world.lengths),
    )
    assert {f"text_nats_per_token_{codes}" for codes in ("own", "swapped", "null")} < set(report["bound"])
    assert report["bound"]["prior_bits_per_code"]["ceiling"] == pytest.approx(np.log2(32))
    assert {"choice_of_4", "mrr", "order_auc"} < set(report["next_step"])
    assert {"BLEU", "chrF", "ROUGE-L"} < set(report["texts"]["figures"]) and "version" in report["texts"]["signatures"][
        "BLEU"
    ]
    assert tuple(report["named_right"]) == VARIANTS
    for scores in report["named_right"].values():
        assert list(scores) == [*GROUPS.values(), "wearer"]
        assert all(0 <= score["floor"] <= score["ceiling"] == 1 for score in scores.values())
        assert all(0 <= score["low"] <= score["high"] <= 1 for score in scores.values())
    for figure in figures(report):
        if figure["low"] is not None:
            assert figure["low"] <= figure["value"] <= figure["high"]
    assert 0 < report["codebook"]["used"] <= 1
    assert 1 <= report["codebook"]["perplexity_per_slot"] <= report["codebook"]["perplexity"] <= 32


def test_pages_of_every_kind_are_graded(report):
    drawn = report["drawn"]
    origins = {
        *(f"true step, {name}" for name in VARIANTS),
        "next step",
        "repeat the last page",
        "a random page",
        "whole story",
        "random codes",
    }
    assert {name for name, value in drawn.items() if isinstance(value, dict)} == origins
    assert (drawn["extractor"], drawn["scorer"]) == ("judge", "judge")
    for name in origins:
        graded = drawn[name]
        assert {"FD-judge", "KID-judge", "judge(pp)", "judge(pg)", "hero", "text_and_picture_agree"} <= set(graded)
        assert (
            ("character_f1" in graded)
            == ("text_character" in graded)
            == ("text to image R@1" in graded)
            == (name != "whole story")
        )
        assert ("hero_colour_persistence" in graded) == (
            name in ("whole story", "random codes") or name.startswith("true")
        )
    assert {"character_in_texts", "object_in_pictures", "place_in_texts"} < set(drawn["whole story"])
    # The texts of other real stories name the true place only by chance.
    assert drawn["a random page"]["text_place"]["value"] < 0.9 < drawn["a random page"]["text_place"]["ceiling"]


def test_the_model_card_contains_the_metrics_of_the_report(report, tiny_pipeline, world, tmp_path):
    card, samples = write_card(tmp_path, tiny_pipeline, world, report)
    text = card.read_text()
    for name, figures in (
        ("place", report["drawn"]["true step, picture alone"]),
        ("hero", report["drawn"]["whole story"]),
    ):
        assert f"{figures[name]['value']:.3f} [{figures[name]['low']:.3f}, {figures[name]['high']:.3f}]" in text
    assert f"perplexity {report['codebook']['perplexity']:.0f}" in text and "None" not in text and "nan" not in text
    assert all(f"**{world[index].prompt}**" in text for index in range(NUM_STORIES))
    assert Image.open(samples).size == (5 * 36 - 4, NUM_STORIES * 36 - 4)


def test_two_folders_of_pictures_are_compared(tiny_judge, world, tmp_path, capsys):
    tiny_judge.save(tmp_path / "judge")
    for name, indices in (("a", (0, 1)), ("b", (2, 3))):
        (tmp_path / name).mkdir()
        for number, step in enumerate(step for index in indices for step in world[index].steps):
            step.image.save(tmp_path / name / f"{number}.png")
    flags = ["--judge", str(tmp_path / "judge"), "--generated", str(tmp_path / "a"), "--reference"]
    assert (
        story_generative_model.main(["evaluate", *flags, str(tmp_path / "b"), "--json", str(tmp_path / "out.json")])
        == 0
    )
    assert json.loads((tmp_path / "out.json").read_text())["FD-judge"]["value"] > 0
    (tmp_path / "empty").mkdir()
    for reference, message in (("a", "the same"), ("empty", "0 pictures"), (None, "belong together")):
        words = [*flags, str(tmp_path / reference)] if reference else flags[:-1]
        assert story_generative_model.main(["evaluate", *words]) == 2
        assert message in capsys.readouterr().err


@pytest.mark.slow
def test_report_depends_only_on_model_stories_and_seed(tiny_pipeline, world, graders):
    first, second, other = (evaluate(tiny_pipeline, world, 2, seed, 1, graders) for seed in (3, 3, 4))
    assert first == second
    assert first["bound"]["velocity_mse_own"] != other["bound"]["velocity_mse_own"]
    assert first["codebook"] == other["codebook"]


def test_stories_without_attributes_and_pictures_are_scored(tiny_checkpoint, bare_folder, tmp_path, capsys):
    flags = (
        "--data",
        str(bare_folder),
        "--ckpt",
        str(tiny_checkpoint),
        "--num_drawn",
        "0",
        "--json",
        str(tmp_path / "deep/report.json"),
    )
    assert story_generative_model.main(["evaluate", *flags]) == 0

    def refuse(constant: str) -> None:
        raise AssertionError(f"{constant} is no JSON")

    report = json.loads((tmp_path / "deep/report.json").read_text(), parse_constant=refuse)
    assert "named_right" not in report and "drawn" not in report
    assert report["num_stories"] == 3
    measured = {name: figure["value"] for name, figure in report["bound"].items()}
    without = {name for name, value in measured.items() if value is None}
    assert {name for name in measured if name.startswith(("velocity", "latent"))} <= without and not any(
        "text_nats" in name for name in without
    )
    printed = capsys.readouterr().out
    assert "3 held-out stories" in printed
    assert "nan" not in printed


def test_checkpoint_without_initialised_codebook_is_refused(
    tiny_config: StoryConfig, tiny_pipeline, bare_folder, tmp_path, capsys
):
    save_model(tmp_path / "model", tiny_config, StoryModel(tiny_config).state_dict(), tiny_pipeline.tokenizer)
    for data in ("storyworld", str(bare_folder)):
        assert (
            story_generative_model.main(["evaluate", "--ckpt", str(tmp_path), "--data", data, "--num_drawn", "0"]) == 2
        )
        captured = capsys.readouterr()
        assert captured.out == ""
        assert captured.err.splitlines()[-1].startswith(
            "error: this checkpoint was saved before its codebook was initialised"
        )
        assert captured.err.count("error") == 1


def test_unwritable_json_is_reported_before_any_work(tiny_checkpoint, bare_folder, tmp_path, capsys):
    (tmp_path / "file").write_text("mine")
    flags = (
        "--data",
        str(bare_folder),
        "--ckpt",
        str(tiny_checkpoint),
        "--num_drawn",
        "0",
        "--json",
        str(tmp_path / "file/report.json"),
    )
    assert story_generative_model.main(["evaluate", *flags]) == 2
    captured = capsys.readouterr()
    assert captured.out == ""  # Before any work.
    assert f"error: cannot write {tmp_path}/file/report.json" in captured.err


def test_a_new_page_metric_is_one_function_and_one_line(tiny_pipeline, world, graders, monkeypatch, capsys):
    """The example of `modules/evaluation/README.md`."""

    def picture_brightness(pages: GradedPages) -> dict[str, Estimate]:
        value, real = ([np.asarray(image).mean() for image in images] for images in (pages.images, pages.true_images))
        stories = story_of_rows(pages.lengths)
        return {"brightness": mean_over_rows(value, stories, pages.seed, ceiling=float(np.mean(real)))}

    monkeypatch.setattr(page_metrics, "PAGE_METRICS", (*page_metrics.PAGE_METRICS, picture_brightness))
    report = evaluate(tiny_pipeline, world, 2, num_drawn=2, graders=graders)
    kinds = [metrics for metrics in report["drawn"].values() if isinstance(metrics, dict)]
    assert all(0 < metrics["brightness"]["value"] < 255 for metrics in kinds)
    print_report(report)
    assert "brightness" in capsys.readouterr().out


def test_what_was_measured_before_a_stop_is_kept(tiny_checkpoint, tmp_path, capsys, monkeypatch):
    def stopped(*_: object) -> None:
        raise KeyboardInterrupt(signal.SIGINT)

    monkeypatch.setattr(evaluation_report, "rank_next_steps", stopped)
    words = ["evaluate", "--ckpt", str(tiny_checkpoint), "--num_stories", "1", "--num_drawn", "0"]
    assert story_generative_model.main([*words, "--json", str(tmp_path / "out.json")]) == 130
    report = json.loads((tmp_path / "out.json").read_text())
    assert report["unfinished"] and "bound" in report and "texts" not in report
    assert {(entry["low"], entry["high"]) for entry in report["bound"].values()} == {(None, None)}
    out, err = capsys.readouterr()
    assert "1 held-out story" in out and "One story: no interval" in out and "stopped; what was measured" in err
