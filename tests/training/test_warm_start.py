"""Runs that start from a trained model, and runs whose prior reads more stories than the decoders."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

import story_generative_model
from modules.common.errors import UserError
from modules.presets import TINY
from modules.saving.model_folder import load_model
from modules.storyworld import StoryWorld
from modules.training.plan_stories import FOLDER, PlanStories, num_plan_stories
from tests.support.runs import END, LENGTHS, fails, moved, outcome, trace, train, write_config


def weights(run: Path) -> dict[str, torch.Tensor]:
    return load_file(run / "model" / "model.safetensors")


def keep_steps_up_to(run: Path, last: int) -> None:
    """Leave what a run that was killed after step `last` leaves."""
    for folder in run.glob("step_*"):
        if int(folder.name[5:]) > last:
            shutil.rmtree(folder)
    shutil.rmtree(run / "model")


# Starting from a trained model


def test_a_later_phase_trains_on_from_a_trained_model(reference, tmp_path, capsys):
    run = tmp_path / "run"
    assert train(run, "--init_from", reference, "--phases", "planning") == 0
    assert "fresh: none" in capsys.readouterr().err
    assert [line["phase"] for line in trace(run)] == ["planning"] * LENGTHS["planning"]
    changed = moved(weights(reference), weights(run))
    assert changed and all(name.startswith("prior.") for name in changed)


def test_a_run_from_a_trained_model_resumes_exactly(reference, tmp_path):
    whole, cut = tmp_path / "whole", tmp_path / "cut"
    flags = ("--init_from", reference, "--phases", "illustration,planning", "--keep_last", 0, "--save_every", 2)
    assert train(whole, *flags) == 0
    shutil.copytree(whole, cut)
    keep_steps_up_to(cut, 2)
    assert train(cut, *flags) == 0
    assert (cut / "losses.jsonl").read_bytes() == (whole / "losses.jsonl").read_bytes()
    assert (cut / "model" / "model.safetensors").read_bytes() == (whole / "model" / "model.safetensors").read_bytes()


def test_tensors_of_another_shape_start_fresh(reference, tmp_path, capsys):
    config = write_config(tmp_path / "config.json", autoencoder={"latent_channels": 6})
    run = tmp_path / "run"
    assert train(run, "--config", config, "--init_from", reference, "--max_steps", 2) == 0
    report = next(line for line in capsys.readouterr().err.splitlines() if line.startswith("starting from"))
    assert "image_decoder.unet.conv_in" in report and "autoencoder." in report and "prior" not in report
    assert trace(run)[0]["phase"] == "autoencoder" and trace(run)[-1]["phase"] == "planning"
    assert load_model(run)[0].image_decoder.unet.conv_in.in_channels == 6


@pytest.mark.slow
def test_a_preset_has_the_architecture_of_its_weights(reference, tmp_path, capsys):
    wide, run = tmp_path / "wide", tmp_path / "run"
    config = write_config(tmp_path / "config.json", autoencoder={"latent_channels": 6})
    assert train(wide, "--config", config, "--max_steps", 2) == 0
    capsys.readouterr()
    assert train(run, "--init_from", wide, "--phases", "planning", "--max_steps", 2) == 0
    assert "fresh: none" in capsys.readouterr().err
    assert load_model(run)[0].config.autoencoder.latent_channels == 6


@pytest.mark.slow
def test_a_reused_autoencoder_brings_its_architecture(reference, tmp_path):
    wide, run, cached, cache = (tmp_path / name for name in ("wide", "run", "cached", "cache"))
    config = write_config(tmp_path / "config.json", autoencoder={"latent_channels": 6})
    assert train(wide, "--config", config, "--phases", "autoencoder") == 0
    assert train(run, "--autoencoder", wide, "--max_steps", 2) == 0
    assert load_model(run)[0].config.autoencoder.latent_channels == 6
    before, after = weights(wide), weights(run)
    assert all(torch.equal(before[name], after[name]) for name in before if name.startswith("autoencoder."))
    flags = ["--preset", "tiny", "--data", "storyworld", "--ckpt", str(wide), "--output", str(cache)]
    assert story_generative_model.main(["precompute", *flags]) == 0
    assert train(cached, "--autoencoder", wide, "--cache", cache, "--max_steps", 2) == 0
    assert (cached / "losses.jsonl").read_bytes() == (run / "losses.jsonl").read_bytes()


def test_known_words_are_those_of_both_models(reference, tmp_path):
    run = tmp_path / "run"
    assert train(run, "--init_from", reference, "--phases", "planning", "--seed", 5) == 0
    before, after = (set(load_model(folder)[1].words) for folder in (reference, run))
    assert before < after


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (("--phases", "joint"), "needs a finished opening phase"),
        (("--config", "vocabulary.json"), "its vocabulary has 400 tokens, this config's 300"),
        (("--config", "decoder.json"), "the latents of --init_from are (4, 4, 4)"),
        (("--init_from", "nowhere"), "no checkpoint at nowhere"),
    ],
)
def test_a_start_that_does_not_fit_is_reported(reference, tmp_path, monkeypatch, capsys, flags, message):
    monkeypatch.chdir(tmp_path)
    write_config(Path("vocabulary.json"), vocab_size=300)
    channels, decoder = {"latent_channels": 6}, {"autoencoder_trains": "decoder"}
    write_config(Path("decoder.json"), autoencoder=channels, training=decoder)
    assert message in fails(capsys, tmp_path / "run", "--init_from", reference, *flags)


def test_the_autoencoders_decoder_trains_alone(reference, tmp_path):
    config = write_config(
        tmp_path / "config.json", autoencoder={"squared_weight": 3.0}, training={"autoencoder_trains": "decoder"}
    )
    run = tmp_path / "run"
    assert train(run, "--config", config, "--init_from", reference, "--phases", "autoencoder") == 0
    changed = moved(weights(reference), weights(run))
    decoder = ("autoencoder.vae.decoder.", "autoencoder.vae.post_quant_conv.", "autoencoder.to_patch.")
    assert changed and all(name.startswith(decoder) for name in changed)
    grown = write_config(
        tmp_path / "grown.json", autoencoder={"layers_per_block": 2}, training={"autoencoder_trains": "decoder"}
    )
    assert train(tmp_path / "grown", "--config", grown, "--init_from", reference, "--phases", "autoencoder") == 0
    first = trace(tmp_path / "grown")[0], trace(run)[0]
    assert first[0]["reconstruction_loss"] == pytest.approx(first[1]["reconstruction_loss"], rel=1e-5)
    again = tmp_path / "again"
    assert train(again, "--init_from", reference, "--autoencoder", run, "--phases", "planning") == 0
    assert torch.equal(weights(again)["autoencoder.to_patch.weight"], weights(run)["autoencoder.to_patch.weight"])


# More stories for the prior


def test_the_prior_reads_no_more_stories_than_it_has_updates_for():
    assert num_plan_stories(TINY, 4) == TINY.training.num_stories
    updates = TINY.training.num_updates("planning")
    many = write_ratio(100.0)
    assert num_plan_stories(many, 4) == updates * 4 * 4 and num_plan_stories(many, 1) == 24
    assert num_plan_stories(write_ratio(2.0), 4) == 48


def write_ratio(ratio: float):
    from dataclasses import replace

    return replace(TINY, training=replace(TINY.training, plan_stories_ratio=ratio))


@pytest.fixture(scope="module")
def more_plans(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A config whose planning phase reads 64 stories in place of 24, and a run of it."""
    folder = tmp_path_factory.mktemp("more_plans")
    config = write_config(folder / "config.json", training={"plan_stories_ratio": 64 / 24})
    assert train(folder / "run", "--config", config, "--keep_last", 0) == 0
    return config, folder / "run"


@pytest.mark.slow
def test_more_stories_are_encoded_and_kept_on_disk(more_plans, reference):
    _, run = more_plans
    (codes,) = (run / FOLDER).glob("codes_*.safetensors")
    shape = load_file(codes)["codes"].shape
    assert shape[0] == 1 and shape[1] > 24 * 8 and shape[2] == 8
    before, after = trace(reference), trace(run)
    start = END - LENGTHS["planning"]
    assert before[:start] == after[:start]  # The other phases read the same stories.
    assert all(one["prior_nll"] != other["prior_nll"] for one, other in zip(before[start:], after[start:], strict=True))


@pytest.mark.slow
def test_a_run_with_more_stories_resumes_exactly(more_plans, tmp_path):
    config, run = more_plans
    cut = tmp_path / "cut"
    shutil.copytree(run, cut)
    keep_steps_up_to(cut, END - 5)
    assert train(cut, "--config", config, "--keep_last", 0) == 0
    assert outcome(cut) == outcome(run)


def test_a_failed_background_process_is_reported(tiny_pipeline, tmp_path):
    stories = PlanStories(StoryWorld(3, image_size=32), tmp_path, seed=-1)
    stories.start(tiny_pipeline.model, tiny_pipeline.tokenizer)
    with pytest.raises(UserError, match=r"were not encoded \(.*seed"):
        stories.wait()
