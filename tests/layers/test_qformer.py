"""Q-Former and temporal transformer: fixed queries over any number of features, and steps over the steps so far."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from modules.layers.qformer import QFormer
from modules.layers.temporal import TemporalTransformer
from tests.support.tensors import CLOSE, differ

DIM, FEATURES, QUERIES, PATCHES = 16, 12, 5, 9


def enlarged(module: torch.nn.Module) -> torch.nn.Module:
    """Weights larger than at the start of training, so that whatever leaks is seen."""
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.mul_(10 if parameter.ndim == 2 else 1)
    return module.eval()


def qformer(**options) -> QFormer:
    torch.manual_seed(0)
    return enlarged(QFormer(DIM, FEATURES, QUERIES, num_layers=2, num_heads=2, **options))


def temporal() -> TemporalTransformer:
    torch.manual_seed(0)
    return enlarged(TemporalTransformer(FEATURES, DIM, num_layers=2, num_heads=2))


def drawn(*shape: int, seed: int = 1) -> Tensor:
    return torch.randn(*shape, FEATURES, generator=torch.Generator().manual_seed(seed))


# --- Q-Former


@pytest.mark.parametrize("num_groups", [0, 4])
def test_images_of_any_size_give_as_many_queries_each_on_its_own(num_groups):
    model, features = qformer(num_groups=num_groups), drawn(3, PATCHES)
    out = model(features)
    assert out.shape == (3, QUERIES, DIM) and model(features[:, :2]).shape == (3, QUERIES, DIM)
    torch.testing.assert_close(out[1:2], model(features[1:2]), **CLOSE)
    assert differ(out[0], out[1]) and differ(out[:, 0], out[:, 1])


@pytest.mark.parametrize("num_groups", [0, 4])
def test_masked_features_are_as_if_they_were_not_there(num_groups):
    model, features = qformer(num_groups=num_groups), drawn(3, PATCHES)
    mask = torch.arange(PATCHES) < torch.tensor([[PATCHES], [4], [0]])
    out = model(torch.where(mask[..., None], features, 99.0), mask)
    torch.testing.assert_close(out[0], model(features[:1])[0], **CLOSE)
    torch.testing.assert_close(out[1], model(features[1:2, :4])[0], **CLOSE)
    nothing = model(drawn(1, 3, seed=7), torch.zeros(1, 3, dtype=torch.bool))
    torch.testing.assert_close(out[2], nothing[0], **CLOSE)
    assert out.isfinite().all() and differ(out[2], out[1])


def test_features_are_a_set_and_queries_are_in_order():
    model, features = qformer(), drawn(2, PATCHES)
    torch.testing.assert_close(model(features.flip(1)), model(features), **CLOSE)
    before = model(features)
    with torch.no_grad():
        model.position.copy_(model.position.flip(0))
    assert differ(model(features), before)


def test_every_parameter_learns_from_the_features():
    model, features = qformer(num_groups=4), drawn(2, PATCHES).requires_grad_()
    (model(features) * torch.arange(DIM)).square().mean().backward()
    assert all(parameter.grad.abs().max() > 0 for parameter in model.parameters())
    assert (features.grad.abs().amax(-1) > 0).all()


def test_without_its_scales_a_block_passes_the_queries_on():
    model, features = qformer(layer_scale=0.0), drawn(2, PATCHES)
    torch.testing.assert_close(model(features), model.norm(model.queries).expand(2, -1, -1), **CLOSE)
    small = qformer(layer_scale=1e-4)(features) - model(features)
    assert 0 < small.abs().max() < 0.05


def test_group_norm_keeps_what_layer_norm_takes_away():
    """Entries of an image have unit variance in each group of channels over all queries; one query need not."""
    out = qformer(num_groups=4)(drawn(3, PATCHES))
    groups = out.view(3, QUERIES, 4, 4)
    torch.testing.assert_close(groups.mean((1, 3)), torch.zeros(3, 4), **CLOSE)
    torch.testing.assert_close(groups.var((1, 3), correction=0), torch.ones(3, 4), atol=1e-3, rtol=0)
    assert (out.var(-1, correction=0) - 1).abs().max() > 0.05
    assert (qformer()(drawn(3, PATCHES)).var(-1, correction=0) - 1).abs().max() < 1e-3


# --- temporal transformer


def test_a_step_reads_itself_and_those_before_it_by_gradient():
    model, steps = temporal(), drawn(2, 6).requires_grad_()
    out = model(steps, torch.ones(2, 6, dtype=torch.bool))
    assert out.shape == (2, 6, DIM)
    for step in range(6):
        (gradient,) = torch.autograd.grad(out[0, step].square().sum(), steps, retain_graph=True)
        reached = gradient.abs().amax(-1)
        assert (reached[0, : step + 1] > 0).all() and (reached[0, step + 1 :] == 0).all() and (reached[1] == 0).all()


@pytest.mark.parametrize("where", ["left", "right"])
def test_padding_is_never_read(where):
    model, steps = temporal(), drawn(1, 4)
    alone = model(steps, torch.ones(1, 4, dtype=torch.bool))
    padding, nothing = torch.full((1, 3, FEATURES), 99.0), torch.zeros(1, 3, dtype=torch.bool)
    parts = [(steps, torch.ones(1, 4, dtype=torch.bool)), (padding, nothing)]
    padded, mask = (torch.cat(part, dim=1) for part in zip(*(parts if where == "right" else parts[::-1]), strict=True))
    out = model(padded, mask)
    assert out.isfinite().all()
    torch.testing.assert_close(out[mask], alone[0], atol=1e-4, rtol=1e-4)


def test_the_order_of_the_steps_matters():
    model, steps, there = temporal(), drawn(1, 4), torch.ones(1, 4, dtype=torch.bool)
    swapped = steps[:, [1, 0, 2, 3]]
    assert differ(model(steps, there)[:, -1], model(swapped, there)[:, -1])


def test_a_story_of_no_steps_but_padding_gives_numbers():
    model, steps = temporal(), drawn(2, 3).requires_grad_()
    out = model(steps, torch.zeros(2, 3, dtype=torch.bool))
    out.square().sum().backward()
    assert out.isfinite().all() and steps.grad.isfinite().all()


def test_heads_of_an_odd_width_are_refused():
    with pytest.raises(ValueError, match="dim 6 is not a multiple of 2 x 2"):
        TemporalTransformer(FEATURES, 6, num_layers=1, num_heads=2)
