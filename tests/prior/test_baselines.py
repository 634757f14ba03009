"""The baselines without a storyboard, trained: the same commands work or say why not."""

from __future__ import annotations

import json
import math
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
import torch

import story_generative_model
from modules.common.errors import UserError
from modules.config import load_config
from modules.encoded.stories import EncodedStories, batch_of_steps
from modules.evaluation.ablation import predict_next_pages
from modules.evaluation.bound import measure_bound
from modules.evaluation.report import Graders, evaluate, score_quickly
from modules.evaluation.sweep import Sweep, run_sweep
from modules.evaluation.tables import print_report
from modules.generation.pipeline import StoryPipeline
from modules.presets import PRESETS
from modules.story import StoryStep
from modules.storyworld import StoryWorld
from modules.training.reliance import condition_steps
from modules.training.settings import TrainSettings
from tests.support.losses import CLOSE
from tests.support.runs import (
    END,
    JOINT_END,
    JOINT_START,
    LENGTHS,
    OPENING_START,
    all_finite,
    events,
    moved,
    tensors_at,
    trace,
    train,
    write_config,
)

PLANS = ("predicted", "prompt")
PROMPT = "Rusty the fox wants a kite"
LAST = END - LENGTHS["planning"]  # Without codes there is nothing to plan.
QUICK = {"num_inference_steps": 2}


@pytest.fixture(scope="module", params=PLANS)
def run(request, tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp(request.param)
    config = write_config(folder / "config.json", plan=request.param)
    assert train(folder / "run", "--config", config, "--keep_last", 0, "--sample_every", 9) == 0
    return folder / "run"


@pytest.fixture(scope="module")
def pipeline(run) -> StoryPipeline:
    return StoryPipeline.from_pretrained(run)


def test_it_trains_by_the_same_command_and_never_quantises(run, pipeline):
    lines = trace(run)
    assert [line["phase"] for line in lines[OPENING_START::3]] == [
        "opening",
        "joint",
        "joint",
        "joint",
        "consolidation",
        "writing",
        "illustration",
    ]
    assert len(lines) == LAST and all(math.isfinite(line["loss"]) for line in lines) and all_finite(run)
    assert not any(name in line for line in lines for name in ("prior_nll", "commitment_loss"))
    assert "diffusion_loss" not in lines[OPENING_START] and lines[JOINT_START]["diffusion_loss"] > 0
    trained = {*pipeline.model.factors, "aids"}
    for start, end, still in (
        (OPENING_START, JOINT_START, {"image_decoder"}),
        (JOINT_START, JOINT_END, set()),
        (JOINT_END, LAST, set()),
    ):
        parts = {name.split(".")[0] for name in moved(tensors_at(run, start), tensors_at(run, end))}
        assert parts == trained - still
    if pipeline.model.reads_steps:
        assert not pipeline.model.storyboard.quantizer.is_active
    told = events(run)
    assert "stories/0" in told.Tags()["images"] and "held_out/text_nll_own" in told.Tags()["scalars"]


def test_the_same_command_goes_on(run):
    before = (run / "model/model.safetensors").read_bytes()
    assert train(run, "--config", run.parent / "config.json", "--sample_every", 9) == 0
    assert (run / "model/model.safetensors").read_bytes() == before


def test_dry_run_counts_what_there_is(run, tmp_path, capsys):
    capsys.readouterr()
    assert train(tmp_path / "new", "--config", run.parent / "config.json", "--phases", "joint", "--dry_run") == 0
    parameters = json.loads(capsys.readouterr().out)["parameters"]
    assert parameters["predictor"]["trainable"] > 0 and "prior" not in parameters


def test_plans_can_be_swept(tmp_path):
    config = replace(PRESETS["tiny"], training=replace(PRESETS["tiny"].training, max_steps=2, num_stories=8))
    scored = []

    def score(pipeline: StoryPipeline) -> dict[str, float]:
        scored.append(pipeline.config.plan)
        return {"parameters": sum(parameter.numel() for parameter in pipeline.model.parameters())}

    worlds = [StoryWorld(count, split=split, image_size=32) for count, split in ((8, "train"), (4, "val"))]
    run_sweep(
        [Sweep.parse("plan=predicted,prompt")],
        config,
        TrainSettings(tmp_path),
        lambda config: worlds,
        score,
        tmp_path / "sweep.csv",
    )
    assert scored == ["predicted", "prompt"]
    assert (tmp_path / "plan=prompt").is_dir() and len((tmp_path / "sweep.csv").read_text().splitlines()) == 3


# --- telling


@pytest.fixture(scope="module")
def steps() -> tuple[StoryStep, ...]:
    return StoryWorld(1, split="val", image_size=32)[0].steps


def test_a_story_is_told_without_codes(pipeline):
    story = pipeline(PROMPT, num_steps=3, seed=2, **QUICK)
    assert (len(story.texts), [image.size for image in story.images]) == (3, [(32, 32)] * 3)
    assert (story.codes, story.log_probs, story.bits) == (None, None, None)
    again, other = (pipeline(PROMPT, num_steps=3, seed=seed, **QUICK) for seed in (2, 3))
    assert [image.tobytes() for image in again.images] == [image.tobytes() for image in story.images]
    assert len({image.tobytes() for image in (*story.images, *other.images)}) == 6
    for settings in ({"num_steps": 0}, {"num_steps": 33}, {"prompt": " "}, {"seed": -1}):
        with pytest.raises(UserError):
            pipeline(**{"prompt": PROMPT, "num_steps": 1, **settings})


def test_pages_are_decoded_from_what_training_predicts(pipeline, steps):
    """Page by page, the predictor reads what it read in training; other earlier pages change it, if it reads any."""
    batch = batch_of_steps(steps, pipeline.model, pipeline.tokenizer)
    batch.prompt_ids, batch.prompt_mask = pipeline.prompt_tokens(PROMPT)
    with torch.no_grad():
        expected = pipeline.model.condition(batch).code_embeds
    reads = pipeline.model.reads_steps
    for given in range(len(steps)):
        vectors = pipeline.predict(PROMPT, len(steps) - given, steps[:given])
        torch.testing.assert_close(vectors, expected[given : given + 1] if reads else expected[given:], **CLOSE)
    others = [StoryStep(steps[0].text, steps[1].image), *steps[1:3]]
    vectors = [pipeline.predict(PROMPT, 1, given) for given in (steps[:3], others)]
    assert torch.equal(*vectors) != reads


def test_the_next_page_follows_from_the_one_told_before(pipeline):
    """The second page of a story is what continuing its first page gives."""
    story = pipeline(PROMPT, num_steps=2, **QUICK)
    vectors = pipeline.predict(PROMPT, 1, [StoryStep(story.texts[0], story.images[0])])
    assert pipeline.render(vectors, **QUICK)[0] == story.texts[1:]


def test_what_needs_a_storyboard_says_so(pipeline, steps):
    for tell in (
        lambda: pipeline.encode(steps),
        lambda: pipeline.plan(PROMPT, 2),
        lambda: pipeline.illustrate(["A fox."]),
        lambda: pipeline.caption(steps[0].image),
        lambda: pipeline.complete(PROMPT, [StoryStep("A fox.")]),
    ):
        with pytest.raises(UserError, match="has no storyboard"):
            tell()


def test_the_commands_write_a_story_and_continue_it(run, tmp_path, capsys):
    flags = ["--ckpt", str(run), "--num_inference_steps", "2", "--num_steps", "2"]
    assert story_generative_model.main(["generate", "--prompt", PROMPT, "--output", str(tmp_path / "a"), *flags]) == 0
    told = json.loads((tmp_path / "a/story.json").read_text())
    assert [(step["codes"], step["bits"], bool(step["text"])) for step in told["steps"]] == [(None, None, True)] * 2
    book = (tmp_path / "a/book.html").read_text()
    assert "Storyboard" not in book and "<dt>bits</dt>" not in book and (tmp_path / "a/generated.png").is_file()
    assert (
        story_generative_model.main(
            ["continue", "--story", str(tmp_path / "a"), "--output", str(tmp_path / "b"), *flags]
        )
        == 0
    )
    assert [step["given"] for step in json.loads((tmp_path / "b/story.json").read_text())["steps"]] == [
        True,
        True,
        False,
        False,
    ]
    capsys.readouterr()
    image = str(tmp_path / "a/page_01.png")
    assert story_generative_model.main(["caption", "--ckpt", str(run), "--image", image]) == 2
    plan = load_config(run / "model/config.json").plan
    message = (
        f'error: this model has no storyboard (its plan is "{plan}"): only `generate` and `continue` are supported'
    )
    assert capsys.readouterr().err.splitlines()[-1] == message


# --- evaluation


@pytest.fixture(scope="module")
def stories(pipeline) -> EncodedStories:
    return EncodedStories(StoryWorld(9, split="val", image_size=32), pipeline.model, pipeline.tokenizer)


def test_all_steps_are_conditioned_as_their_stories_are(pipeline, stories):
    vectors = condition_steps(pipeline.model, stories)
    assert vectors.shape == (len(stories.texts), 8, 8)
    with torch.no_grad():
        alone = pipeline.model.condition(stories.batch([8])).code_embeds
    torch.testing.assert_close(vectors[list(stories.rows(8))], alone, **CLOSE)


def test_the_bound_charges_nothing_for_what_is_computed(pipeline, stories):
    figures = measure_bound(
        pipeline, stories, condition_steps(pipeline.model, stories), num_timesteps=8, max_vlb_steps=4
    )
    assert not any(name.startswith("prior") for name in figures)
    assert figures["code_charged_nats_per_token"]["value"] == pytest.approx(figures["text_nats_per_token_own"]["value"])
    assert figures["bound_nats_per_step"]["num_steps"] == 4 and math.isfinite(figures["bound_nats_per_step"]["value"])
    saved = (
        figures["text_nats_per_token_null_gap"]["value"] * stories.text_mask[:, 1:].sum().item() / len(stories.texts)
    )
    assert figures["net_code_value_text"]["value"] == pytest.approx(saved, rel=1e-4)


def test_the_next_page_of_the_ablation_is_predicted(pipeline):
    world = StoryWorld(9, split="val", image_size=32)
    pages = predict_next_pages(pipeline, world, 2)
    first = next(world[index] for index, length in enumerate(world.lengths) if length > 3)
    torch.testing.assert_close(
        pages.code_embeds[0], pipeline.predict(first.prompt, len(first.steps) - 3, first.steps[:3])[0]
    )


def test_evaluate_reports_what_a_baseline_has(pipeline, tiny_judge):
    world = StoryWorld(4, split="val", image_size=32)
    report = evaluate(pipeline, world, 4, num_drawn=2, graders=Graders(tiny_judge, tiny_judge, tiny_judge))
    assert not {"next_step", "codebook"} & set(report) and not any(name.startswith("prior") for name in report["bound"])
    assert list(report["named_right"]) == ["what came before"]
    origins = {name for name, value in report["drawn"].items() if isinstance(value, dict)}
    assert origins == {"next step", "repeat the last page", "a random page", "whole story"}
    assert report["drawn"]["whole story"]["object_in_pictures"]["value"] is not None
    json.dumps(report, allow_nan=False)
    print_report(report)


@pytest.mark.slow
@pytest.mark.parametrize("run", ["predicted"], indirect=True)  # Both are evaluated above.
def test_evaluate_sets_baselines_beside_a_model(run, tiny_checkpoint, tiny_judge, tmp_path, capsys):
    tiny_judge.save(tmp_path / "judge")
    shutil.copytree(run / "model", tmp_path / "trained" / "plan=x" / "model")
    flags = [
        "evaluate",
        "--ckpt",
        str(tiny_checkpoint),
        "--num_stories",
        "4",
        "--num_drawn",
        "2",
        "--judge",
        str(tmp_path / "judge"),
    ]
    assert (
        story_generative_model.main(
            [*flags, "--baselines", str(tmp_path / "trained"), "--json", str(tmp_path / "out.json")]
        )
        == 0
    )
    report = json.loads((tmp_path / "out.json").read_text())
    assert list(report["baselines"]) == ["plan=x"] and "next_step" in report
    alone = evaluate(StoryPipeline.from_pretrained(run), StoryWorld(4, split="val", image_size=32), 4)
    assert report["baselines"]["plan=x"]["bound"] == json.loads(json.dumps(alone["bound"]))
    printed = capsys.readouterr().out.partition("Comparison with baselines")[2]
    assert all(title in printed for title in ("bound", "predicted next page", "story from its prompt"))
    assert printed.count("plan=x") == 3
    assert story_generative_model.main([*flags, "--baselines", str(tmp_path)]) == 2
    assert "contains no trained model" in capsys.readouterr().err


def test_models_of_all_plans_are_scored_in_the_same_columns(pipeline, tiny_pipeline):
    world = StoryWorld(6, split="val", image_size=32)
    mine, codes = (score_quickly(each, world, 6) for each in (pipeline, tiny_pipeline))
    assert list(mine) == list(codes)
    unknown = {"prior_bits_per_step", "codes_used", "text_place"}
    assert all(mine[name] is None and codes[name] is not None for name in unknown)
    assert (
        mine["code_charged_nats_per_token"] == mine["text_nats_per_token_own"] and mine["next_text_place"] is not None
    )
