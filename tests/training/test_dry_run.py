"""The memory that --dry_run promises: by hand where it is arithmetic, against what was measured where it is not."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest
import torch
from torch.profiler import ProfilerActivity, profile

from modules.batch import StepNoise, StoryBatch
from modules.presets import TINY
from modules.prior.config import PredictorConfig
from modules.story_model.story_model import StoryModel
from modules.training.dry_run import PROCESSES, memory, plan
from modules.training.memory_estimate import (
    STRATEGIES,
    autoencoder_activations,
    full_batch,
    saved_bytes,
    story_activations,
    trained_parameters,
    training_bytes,
)
from modules.training.plan import trained_phases
from modules.training.settings import TrainSettings
from modules.training.sharding import gathered_sizes
from tests.support.runs import train

SMALL = replace(TINY, training=replace(TINY.training, batch_size=2))


@pytest.fixture(scope="module")
def model() -> StoryModel:
    torch.manual_seed(0)
    model = StoryModel(SMALL).train()
    model.storyboard.quantizer.fit(torch.randn(640, TINY.storyboard.codebook_dim), seed=0)
    return model


def kept(mixed: bool = False) -> int:
    """Activations of a small batch."""
    return story_activations(SMALL, mixed)


# Arithmetic


def test_one_process_by_hand():
    """10 trainable and 6 frozen parameters: 16 x 4, 10 x 4, 10 x 8, 10 x 4 bytes, and 100 of activations."""
    expected = {
        "weights": 64,
        "gradients": 40,
        "adam": 80,
        "averages": 40,
        "gathered and cast": 0,
        "activations": 100,
        "total": 324,
    }
    assert training_bytes(10, 6, 100) == expected
    assert training_bytes(10, 6, 100, mixed=True) == expected | {"gathered and cast": 32, "total": 356}
    assert [training_bytes(10, 6, 100, strategy=strategy) for strategy in STRATEGIES] == [expected] * 2


def test_four_processes_by_hand():
    cut = {"weights": 16, "gradients": 10, "adam": 20, "averages": 10, "activations": 100}
    sizes = {"num_processes": 4, "root": 5, "block": 3}
    assert training_bytes(10, 6, 100, **sizes)["total"] == 324 + 40
    assert training_bytes(10, 6, 100, **sizes, strategy="fsdp2") == cut | {"gathered and cast": 64, "total": 220}
    assert training_bytes(10, 6, 100, **sizes, strategy="fsdp2", mixed=True) == cut | {
        "gathered and cast": 96,
        "total": 252,
    }
    between = training_bytes(
        10, 6, 0, **sizes | {"root": 0}, strategy="fsdp2"
    )  # The whole weights, 64, and three kinds of pieces.
    assert between == cut | {"gathered and cast": 24, "activations": 0, "total": 110}


def test_a_large_model_needs_pieces():
    """GPT-2-XL, by hand in GB: 16 bytes and more a parameter are 31.2 of weights, gradients, moments and averages. On
    each of four a quarter of that, 7.8, and 0.9 gathered are less than the 12.5 between updates: the whole weights and
    three quarters of the 7.8.
    """
    large = {"trainable": 1_557_600_000, "frozen": 0, "activations": 0, "root": 82_000_000, "block": 30_740_000}
    assert training_bytes(**large)["total"] == pytest.approx(20 * 1.5576e9)
    assert training_bytes(**large, strategy="ddp", num_processes=4)["total"] == pytest.approx(24 * 1.5576e9)
    assert training_bytes(**large, strategy="fsdp2", num_processes=4)["total"] == pytest.approx(8 * 1.5576e9)
    large["activations"] = 10_000_000_000
    assert training_bytes(**large, strategy="fsdp2", num_processes=4)["total"] == pytest.approx(
        5 * 1.5576e9 + 8 * 112.74e6 + 1e10
    )


def test_what_is_gathered_is_the_blocks_and_the_rest(model):
    """Of the tiny text decoder: blocks of 12 d^2 + 13 d at n_inner 4 d; here 3 d, so 4 d^2 + 6 d^2 and the biases and
    norms. The layer that reads the plan has one smaller block.
    """
    dim = TINY.text_decoder.dim
    block = 4 * dim**2 + 4 * dim + 6 * dim**2 + 4 * dim + 4 * dim
    root, largest = gathered_sizes(model.text_decoder)
    assert largest == block
    assert root == sum(
        parameter.numel() for parameter in model.text_decoder.parameters()
    ) - TINY.text_decoder.num_layers * block - sum(
        parameter.numel() for parameter in model.text_decoder.plan_reader.transformer.blocks.parameters()
    )


# Activations


@pytest.mark.parametrize("mixed", [False, True])
def test_activations_of_fake_tensors_equal_those_of_real_ones(model, mixed):
    """Within a tenth: for attention another kernel may be chosen."""
    real = saved_bytes(model, lambda: model(*full_batch(SMALL)).loss, mixed)
    assert kept(mixed) == pytest.approx(real, rel=0.1)


def test_activations_grow_with_the_batch():
    twice = replace(SMALL, training=replace(SMALL.training, batch_size=2 * SMALL.training.batch_size))
    assert story_activations(twice, False) == pytest.approx(2 * kept(), rel=0.05)


def test_saved_bytes_by_hand():
    """Two linear layers of 3 x 3 keep the input of each, here 4 x 3 floats, and a tanh what it gives: the next layer's
    input.
    """
    layers = torch.nn.Sequential(torch.nn.Linear(3, 3), torch.nn.Tanh(), torch.nn.Linear(3, 3))
    assert saved_bytes(layers, lambda: layers(torch.zeros(4, 3)).sum(), False) == 2 * 4 * 3 * 4


BASELINES = {
    "predicted": replace(SMALL, plan="predicted", predictor=PredictorConfig(dim=32, num_layers=2, num_heads=2)),
    "prompt": replace(SMALL, plan="prompt", predictor=PredictorConfig(dim=32, num_layers=2, num_heads=2)),
    "majority vote": replace(SMALL, storyboard=replace(SMALL.storyboard, pooling="majority_vote")),
}


@pytest.mark.parametrize("name", BASELINES)
def test_every_kind_of_model_is_measured(name, tmp_path):
    report = plan(BASELINES[name], TrainSettings(tmp_path, phases=("joint", "consolidation")))["memory_mib"]
    assert report["one process"]["activations"] > 0


def test_the_measured_peak_is_within_a_fourth_of_the_estimate(model):
    """The allocator's peak during forward, backward and optimizer, beyond what is kept between updates."""
    parameters = [parameter for parameter in model.parameters() if parameter.requires_grad]
    optimizer = torch.optim.AdamW(parameters, lr=1e-4, fused=True)

    def update(batch: StoryBatch, noise: StepNoise) -> None:
        model(batch, noise).loss.backward()
        optimizer.step()
        optimizer.zero_grad()

    data = full_batch(SMALL)
    update(*data)  # The moments are there from now on.
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as profiler:
        update(*data)
    events = [event for event in profiler.profiler.kineto_results.events() if event.name() == "[memory]"]
    held = torch.tensor([event.nbytes() for event in sorted(events, key=lambda event: event.start_ns())]).cumsum(0)
    parts = training_bytes(sum(parameter.numel() for parameter in parameters), 0, kept())
    assert held.max().item() == pytest.approx(parts["activations"] + parts["gradients"], rel=0.25)


# What is printed


def test_memory_is_reported_for_each_strategy(model, tmp_path):
    report = memory(model, SMALL, TrainSettings(tmp_path))
    trainable = sum(parameter.numel() for parameter in model.parameters() if parameter.requires_grad)
    frozen = sum(parameter.numel() for parameter in model.autoencoder.parameters())
    assert report["one process"]["weights"] == round(4 * (trainable + frozen) / 2**20)
    assert report["one process"]["adam"] == round(8 * trainable / 2**20)
    for strategy in STRATEGIES:
        assert report[f"each process, {strategy}"].keys() == {str(count) for count in PROCESSES}
    assert report["one process, autoencoder phase"]["activations"] == round(
        autoencoder_activations(SMALL, False) / 2**20
    )
    assert "one process, autoencoder phase" not in memory(model, SMALL, TrainSettings(tmp_path, autoencoder=tmp_path))


def test_memory_is_reported_for_every_phase(tmp_path):
    """Phases that train fewer parts need less of everything that trained parameters need; weights are always there."""
    report = plan(SMALL, TrainSettings(tmp_path))["memory_mib"]
    joint = story_activations(SMALL, False)
    assert {name for name in report if name.endswith("phase")} == {
        f"one process, {phase} phase" for phase in trained_phases(SMALL) if phase != "joint"
    }
    for phase in ("opening", "illustration", "planning"):
        assert 0 < story_activations(SMALL, False, phase) < joint
        trained, frozen = trained_parameters(SMALL, phase)
        assert trained < trained_parameters(SMALL, "joint")[0]
        assert trained + frozen == sum(trained_parameters(SMALL, "joint"))


def test_half_precision_halves_most_of_the_activations():
    assert 0.45 < kept(mixed=True) / kept() < 0.75


@pytest.mark.slow
def test_precision_is_the_launchers_without_a_flag(tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("ACCELERATE_MIXED_PRECISION", "bf16")
    for flags, expected in (((), "bf16"), (("--mixed_precision", "no"), "no")):
        assert train(tmp_path / "run", "--dry_run", "--phases", "joint", *flags) == 0
        assert json.loads(capsys.readouterr().out)["run"]["mixed_precision"] == expected
