"""Every parameter that trains is in one group: matrices decay, pretrained weights are slow, gates are fast."""

from __future__ import annotations

import pytest
import torch

from modules.story_model.story_model import StoryModel
from modules.training.optimizer import parameter_groups
from modules.training.phases import JointPhase
from tests.support.tiny_presets import tiny_preset


def groups_of(model: StoryModel) -> list[dict]:
    JointPhase(model, None, num_steps=1, learning_rate=1.0, global_batch=1, seed=0).set_modes()
    return parameter_groups(model.named_parameters(), model.pretrained, model.gates, model.config.training)


def test_a_model_from_scratch_has_two_groups(tiny_config):
    model = StoryModel(tiny_config)
    decays, rest = groups_of(model)
    assert (decays["share"], rest["share"], rest["weight_decay"]) == (1.0, 1.0, 0.0) and decays["weight_decay"] > 0
    assert all(value.ndim >= 2 for value in decays["params"]) and all(value.ndim < 2 for value in rest["params"])


@pytest.mark.parametrize("name", ["next-step", "gpt2-sd15"])
def test_pretrained_parts_and_gates_have_their_own(hub, name):
    torch.manual_seed(0)
    model = StoryModel(tiny_preset(name, hub), offline=True)
    groups, training = groups_of(model), model.config.training
    names = {id(value): key for key, value in model.named_parameters()}
    found = {names[id(value)]: group for group in groups for value in group["params"]}
    assert len(found) == sum(len(group["params"]) for group in groups)
    assert set(found) == {key for key, value in model.named_parameters() if value.requires_grad}
    for key, group in found.items():
        gate = key.endswith("gate")
        assert group["share"] == (
            training.gate_rate if gate else training.pretrained_rate if key in model.pretrained else 1.0
        ), key
        assert not (gate and group["weight_decay"])
    assert "text_decoder.prefix_gate" in found
