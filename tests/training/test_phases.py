"""What each phase trains, its losses and schedules, and what it logs."""

from __future__ import annotations

import gc
import math
import os
from dataclasses import replace
from itertools import accumulate, pairwise
from pathlib import Path

import pytest
import torch
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from modules.layers.seeding import derive_seed
from modules.presets import TINY
from modules.story_model.story_model import StoryModel
from modules.storyworld import StoryWorld
from modules.training.autoencoder_phase import AutoencoderPhase
from modules.training.monitor import Monitor
from modules.training.phases import ConsolidationPhase, IllustrationPhase, JointPhase, OpeningPhase, SettlingPhase
from tests.support.runs import (
    END,
    JOINT_END,
    JOINT_START,
    LENGTHS,
    QUANTIZE_STEP,
    events,
    moved,
    tensors_at,
    trace,
    train,
    write_config,
)


@pytest.fixture(scope="module")
def scalars(reference: Path) -> EventAccumulator:
    return events(reference)


def test_each_phase_moves_what_it_trains_and_nothing_else(reference):
    torch.manual_seed(derive_seed(0, "weights"))
    model = StoryModel(TINY)
    ends = accumulate(LENGTHS.values())
    states = [model.state_dict(), *(tensors_at(reference, step) for step in ends)]
    changes = {name: moved(*pair) for name, pair in zip(LENGTHS, pairwise(states), strict=True)}
    parameters = {name for name, _ in model.named_parameters(remove_duplicate=False)}
    autoencoder, storyboard, text_decoder, aids = (
        {name for name in states[0] if name.startswith(f"{part}.")}
        for part in ("autoencoder", "storyboard", "text_decoder", "aids")
    )
    statistics = {"autoencoder.latent_mean", "autoencoder.latent_std"}
    assert changes["autoencoder"] == parameters & autoencoder | statistics
    assert changes["opening"] == parameters & (storyboard | text_decoder | aids) | {"aids.visual_words"}
    assert changes["joint"] & parameters == parameters - autoencoder - {"prior.given_pages"}  # Of later phases.
    codebook = changes["joint"] - parameters
    assert codebook < storyboard
    assert {"storyboard.quantizer.active", "storyboard.quantizer.codebook"} <= codebook
    assert changes["consolidation"] == parameters - autoencoder - storyboard - aids
    assert changes["planning"] == {name for name in parameters if name.startswith("prior.")}
    assert changes["writing"] == {name for name in parameters if name.startswith("text_decoder.")}
    assert changes["illustration"] == {name for name in parameters if name.startswith("image_decoder.")}


def test_each_phase_has_its_terms(reference):
    aids = {
        "bag_of_words_loss",
        "bag_of_visual_words_loss",
        "draft_loss",
        "agreement_loss",
        "other_words_loss",
        "other_visual_words_loss",
    }
    terms = {
        "autoencoder": {"reconstruction_loss", "squared_loss", "edge_loss", "kl_loss"},
        "opening": {"text_nll"} | aids,
        "joint": {"text_nll", "diffusion_loss"} | aids,
        "consolidation": {"text_nll", "diffusion_loss", "prior_nll"},
        "writing": {"text_nll"},
        "illustration": {"diffusion_loss"},
        "planning": {"prior_nll"},
    }
    for line in trace(reference):
        quantised = (
            {"prior_nll", "commitment_loss"} if line["phase"] == "joint" and line["step"] >= QUANTIZE_STEP else set()
        )
        assert (
            line.keys() - {"global_step", "phase", "step", "loss", "gradient_norm"} == terms[line["phase"]] | quantised
        )


def test_codes_are_placed_at_quantize_at_and_then_move(reference):
    before, after = JOINT_START + 3, JOINT_START + 6  # Checkpoints.
    assert before < JOINT_START + QUANTIZE_STEP < after
    active = [tensors_at(reference, step)["storyboard.quantizer.active"].item() for step in (before, after)]
    assert active == [False, True]
    books = [tensors_at(reference, step)["storyboard.quantizer.codebook"] for step in (after, JOINT_END, END)]
    assert not torch.equal(books[0], books[1])
    assert torch.equal(books[1], books[2])


def test_learning_rate_warms_up_and_falls_in_every_phase(scalars):
    rates = [event.value for event in scalars.Scalars("learning_rate")]
    assert len(rates) == END
    start = 0
    for length, peak in zip(LENGTHS.values(), (1e-3, 1e-3, 1e-3, 5e-4, 5e-4, 5e-4, 5e-4), strict=True):
        phase = rates[start : start + length]
        assert phase[0] == pytest.approx(peak)
        assert phase == sorted(phase, reverse=True)
        start += length


def test_tensorboard_shows_every_promised_curve(reference, scalars):
    tags = scalars.Tags()
    lines = trace(reference)
    for line in lines:
        for name in line.keys() - {"global_step", "phase", "step", "gradient_norm"}:
            assert f"{line['phase']}/{name}" in tags["scalars"]
    factors = ("autoencoder", "storyboard", "prior", "text_decoder", "image_decoder", "total")
    promised = {
        *(f"gradient_norm/{name}" for name in factors),
        "learning_rate",
        "skipped_updates",
        "codebook/used",
        "codebook/perplexity",
        "held_out/text_nll_swap_gap",
        "held_out/diffusion_loss_swap_gap",
        "held_out/text_nll_null_gap",
        "held_out/prior_nll",
        "speed/pictures_per_second",
        "speed/tokens_per_second",
        "autoencoder/psnr_db",
    }
    assert promised <= set(tags["scalars"])
    assert {"reconstructions", "stories/0", "stories/1", "stories/2"} <= set(tags["images"])
    assert {f"stories/{index}/text_summary" for index in range(3)} <= set(tags["tensors"])
    logged = [event.value for event in scalars.Scalars("joint/text_nll")]
    assert logged == pytest.approx([line["text_nll"] for line in lines if line["phase"] == "joint"], rel=1e-6)
    assert all(math.isfinite(event.value) for tag in tags["scalars"] for event in scalars.Scalars(tag))
    assert len(scalars.Images("reconstructions")) == LENGTHS["joint"] // 4  # Other phases are shorter.
    image = scalars.Images("stories/0")[0]
    assert (image.height, image.width % 32) == (32, 0)


def test_cutting_a_batch_into_parts_does_not_change_its_loss():
    """The autoencoder's loss: the mean over the parts is the same, however stories of different lengths are cut into
    parts.
    """
    torch.manual_seed(0)
    source = StoryWorld(24, image_size=32)
    model = StoryModel(TINY)
    options = {"num_steps": 4, "learning_rate": 1e-3, "global_batch": 8, "seed": 0}
    phase = AutoencoderPhase(model, source, **options)
    step = next(step for step in range(100) if len({source.lengths[index] for index in phase.order[step]}) > 1)
    with torch.no_grad():
        losses = []
        for num_parts in (1, 2, 8):
            outputs = [phase.loss(phase.module, step, part, num_parts) for part in range(num_parts)]
            losses.append(
                {name: sum(output.losses[name].item() for output in outputs) / num_parts for name in outputs[0].losses}
            )
    assert losses[1] == pytest.approx(losses[0], rel=1e-5)
    assert losses[2] == pytest.approx(losses[0], rel=1e-5)


def test_memory_does_not_grow(tmp_path, monkeypatch):
    """Over 45 updates of the joint phase, the codes placed early: as many live tensors, and as much memory."""
    counts, sizes, record = {}, {}, Monitor.update

    def measured(self, phase, state, *rest):
        record(self, phase, state, *rest)
        step = state.step
        if step in (15, 30, 44):
            gc.collect()
            counts[step] = sum(issubclass(type(thing), torch.Tensor) for thing in gc.get_objects())
            sizes[step] = int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE") / 2**20

    monkeypatch.setattr(Monitor, "update", measured)
    config = write_config(
        tmp_path / "config.json", training={"autoencoder_ratio": 0.01, "opening_ratio": 0.0, "quantize_at": 0.1}
    )
    flags = (
        "--phases",
        "autoencoder,opening,joint",
        "--max_steps",
        45,
        "--num_stories",
        12,
        "--batch_size",
        2,
        "--save_every",
        25,
    )
    assert (
        train(tmp_path / "run", "--config", config, *flags, "--gradient_accumulation_steps", 1, "--log_every", 10) == 0
    )
    assert counts[44] <= counts[30] <= counts[15] + 10
    assert sizes[44] < sizes[15] + 24


@pytest.mark.parametrize("begins", ("joint", "consolidation"))
def test_the_image_decoder_trains_from_the_phase_named(tiny_config, begins):
    config = replace(tiny_config, training=replace(tiny_config.training, image_decoder_from=begins))
    model = StoryModel(config)
    for phase in (OpeningPhase, JointPhase, ConsolidationPhase, SettlingPhase, IllustrationPhase):
        phase.select(model)
        expected = phase is not OpeningPhase and not (phase is JointPhase and begins == "consolidation")
        assert all(value.requires_grad == expected for value in model.image_decoder.parameters()), phase
        assert ("image_decoder" in phase.trained_parts(config.training)) == expected
