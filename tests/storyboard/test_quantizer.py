"""The codebook: pure in `forward`, exact in its gradient, the same on every process."""

from __future__ import annotations

import copy

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor
from vector_quantize_pytorch.vector_quantize_pytorch import kmeans

from modules.layers.seeding import seeded
from modules.storyboard import quantizer as quantizer_module
from modules.storyboard.quantizer import VectorQuantizer

DIM, SIZE = 8, 16


def draw(count: int, seed: int = 0) -> Tensor:
    return torch.randn(count, DIM, generator=torch.Generator().manual_seed(seed))


def make(active: bool = True, decay: float = 0.9) -> VectorQuantizer:
    torch.manual_seed(0)
    quantizer = VectorQuantizer(DIM, SIZE, decay, dead_code_threshold=0.1)
    if active:
        quantizer.fit(draw(400), seed=0)
    return quantizer


def buffers(quantizer: VectorQuantizer) -> dict[str, Tensor]:
    return {name: value.clone() for name, value in quantizer.named_buffers()}


def same(first: VectorQuantizer, second: VectorQuantizer | dict[str, Tensor]) -> bool:
    second = second if isinstance(second, dict) else buffers(second)
    return all(torch.equal(value, second[name]) for name, value in buffers(first).items())


# --- forward


@pytest.mark.parametrize("active", [True, False])
@pytest.mark.parametrize("training", [True, False])
def test_forward_changes_nothing(active, training):
    quantizer = make(active).train(training)
    before = buffers(quantizer)
    z = draw(50, seed=1).requires_grad_()
    out = quantizer(z)
    (out.embeds.square().sum() + (out.commitment_loss.sum() if active else 0)).backward()
    assert same(quantizer, before) and len(before) > 3
    assert not list(quantizer.parameters())


def test_gradient_is_that_of_the_normalised_input():
    quantizer, weight = make(), draw(20, seed=2)
    z = draw(20, seed=1).requires_grad_()
    (through,) = torch.autograd.grad((quantizer(z).embeds * weight).sum(), z)
    (expected,) = torch.autograd.grad((F.normalize(z, dim=-1) * DIM**0.5 * weight).sum(), z)
    assert torch.equal(through, expected) and through.abs().sum() > 0


def test_codes_are_the_nearest_embeddings():
    quantizer, z = make(), draw(60, seed=1).view(5, 12, DIM)
    out = quantizer(z)
    assert (
        out.codes.shape == (5, 12)
        and out.codes.min() >= 0
        and out.codes.max() < SIZE
        and out.codes.unique().numel() > 8
    )
    torch.testing.assert_close(quantizer.embed(out.codes), out.embeds)
    distances = torch.cdist(F.normalize(z, dim=-1).flatten(0, 1), quantizer.codebook)
    assert torch.equal(out.codes.flatten(), distances.argmin(-1))
    torch.testing.assert_close(quantizer.embed(torch.arange(SIZE)).square().mean(-1), torch.ones(SIZE))


def test_length_of_the_input_does_not_matter():
    quantizer, z = make(), draw(40, seed=1)
    torch.testing.assert_close(quantizer(z * 1000).embeds, quantizer(z).embeds)
    assert torch.equal(quantizer(z * 1e-3).codes, quantizer(z).codes)


def test_commitment_pulls_towards_the_code():
    quantizer = make()
    z = draw(20, seed=1).requires_grad_()
    out = quantizer(z)
    expected = (F.normalize(z, dim=-1) * DIM**0.5 - quantizer.embed(out.codes)).square().mean(-1)
    torch.testing.assert_close(out.commitment_loss, expected)
    (gradient,) = torch.autograd.grad(out.commitment_loss.sum(), z)
    nearer = quantizer(z - 0.05 * gradient).commitment_loss
    assert out.commitment_loss.shape == (20,) and (nearer < out.commitment_loss).all()


def test_inactive_passes_unit_vectors_scaled():
    z = draw(10)
    out = make(active=False)(z)
    assert out.codes is None and out.commitment_loss is None
    torch.testing.assert_close(out.embeds, F.normalize(z, dim=-1) * DIM**0.5)
    torch.testing.assert_close(out.embeds.square().mean(-1), torch.ones(10))


def test_autocast_changes_no_code():
    quantizer, z = make(), draw(5000, seed=1)
    plain = quantizer(z)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        rounded = (F.normalize(z, dim=-1) @ quantizer.codebook.t()).argmax(-1)
        under = quantizer(z)
    assert not torch.equal(rounded, plain.codes)  # Or this test would show nothing.
    assert torch.equal(under.codes, plain.codes) and torch.equal(under.embeds, plain.embeds)


# --- fit


def test_fit_switches_on_and_depends_on_vectors_and_seed_alone():
    quantizer, other = make(active=False), make(active=False)
    assert not quantizer.is_active
    state = torch.random.get_rng_state()
    quantizer.fit(draw(200), seed=5)
    assert quantizer.is_active and torch.equal(torch.random.get_rng_state(), state)
    torch.rand(7)
    other.fit(draw(200), seed=5)
    assert same(quantizer, other)
    other.fit(draw(200), seed=6)
    assert not same(quantizer, other)


def test_fit_finds_the_groups():
    centres = F.normalize(draw(4), dim=-1)
    vectors = (centres.repeat(50, 1) + 0.02 * draw(200, seed=1)) * torch.rand(
        200, 1, generator=torch.Generator().manual_seed(2)
    ).add(0.5)
    quantizer = VectorQuantizer(DIM, 4, 0.9, 0.1)
    for seed in range(20):  # K-means may start with two means in one group.
        quantizer.fit(vectors, seed)
        if quantizer(vectors).codes[:4].unique().numel() == 4:
            break
    assert ((centres @ quantizer.codebook.T).amax(-1) > 0.999).all()
    torch.testing.assert_close(quantizer.cluster_size, torch.ones(4))


def test_fit_leaves_the_averages_of_its_groups():
    quantizer, vectors = make(active=False), F.normalize(draw(400), dim=-1)
    quantizer.fit(vectors, seed=0)
    assert quantizer.cluster_size.std() > 0.1 and quantizer.cluster_size.mean().item() == pytest.approx(1)
    torch.testing.assert_close(quantizer.embed_avg, quantizer.codebook * quantizer.cluster_size[:, None])
    before = quantizer.codebook.clone()
    quantizer.update(vectors, seed=0, revive=False)
    assert F.cosine_similarity(quantizer.codebook, before).min() > 0.99  # Its own vectors hardly move it.


def test_fit_refuses_fewer_vectors_than_codes():
    quantizer = make(active=False)
    with pytest.raises(ValueError, match=f"{SIZE} codes .* got {SIZE - 1}"):
        quantizer.fit(draw(SIZE - 1), seed=0)
    assert not quantizer.is_active


def test_state_dict_carries_codebook_and_switch():
    quantizer, other = make(), make(active=False)
    other.load_state_dict(quantizer.state_dict())
    assert other.is_active and same(quantizer, other)
    assert torch.equal(other(draw(30, seed=1)).codes, quantizer(draw(30, seed=1)).codes)


# --- update


def test_update_moves_codes_towards_their_vectors():
    quantizer, z = make(), F.normalize(draw(400, seed=1) + 0.7, dim=-1)
    codes = quantizer(z).codes
    means = torch.stack([z[codes == code].mean(0) for code in codes.unique()])
    before = F.cosine_similarity(quantizer.codebook[codes.unique()], means)
    quantizer.update(z, seed=0, revive=False)
    after = F.cosine_similarity(quantizer.codebook[codes.unique()], means)
    assert (after > before).all() and (after - before).max() > 1e-3
    torch.testing.assert_close(quantizer.codebook.norm(dim=-1), torch.ones(SIZE))
    for _ in range(100):
        quantizer.update(z, seed=0, revive=False)
    assert quantizer(z).commitment_loss.mean() < 0.8 * make()(z).commitment_loss.mean()


def test_update_is_an_exponential_average_of_counts_and_sums():
    quantizer, z = make(decay=0.75), F.normalize(draw(32, seed=1), dim=-1)
    codes = quantizer(z).codes
    counts = torch.bincount(codes, minlength=SIZE) * SIZE / 32
    sums = torch.zeros(SIZE, DIM).index_add(0, codes, z) * SIZE / 32
    expected = 0.75 * quantizer.cluster_size + 0.25 * counts, 0.75 * quantizer.embed_avg + 0.25 * sums
    quantizer.update(z, seed=0, revive=False)
    torch.testing.assert_close((quantizer.cluster_size, quantizer.embed_avg), expected)
    torch.testing.assert_close(quantizer.codebook, F.normalize(expected[1], dim=-1))


def test_two_copies_stay_equal_to_the_bit():
    first, second, third = (make(decay=0.3) for _ in range(3))
    for step in range(5):
        z = draw(64, seed=step) + torch.tensor(
            [3.0] + [0.0] * (DIM - 1)
        )  # One-sided: codes die and are revived by lot.
        state = torch.random.get_rng_state()
        first.update(z, seed=step, revive=True)
        assert torch.equal(torch.random.get_rng_state(), state)
        torch.rand(step + 1)
        second.eval().update(z, seed=step, revive=True)
        third.update(z, seed=100 + step, revive=True)
    assert same(first, second) and not same(first, third)


def test_size_of_the_batch_does_not_matter():
    once, twice = make(), make()
    z = draw(64, seed=1)
    once.update(z, seed=0, revive=False)
    twice.update(torch.cat([z, z]), seed=0, revive=False)
    for name, value in buffers(once).items():
        torch.testing.assert_close(value, buffers(twice)[name], atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("revive", [True, False])
def test_dead_codes_are_revived_when_asked(revive):
    quantizer = make(decay=0.5)
    z = F.normalize(draw(64, seed=1) * 0.05 + quantizer.codebook[0], dim=-1)
    used = quantizer(z).codes.unique()
    unused = torch.tensor([code for code in range(SIZE) if code not in used])
    old = quantizer.codebook.clone()
    for step in range(8):  # 0.5 ** 8 of the mean usage is far below the threshold of 0.1.
        quantizer.update(z, seed=step, revive=False)
    torch.testing.assert_close(quantizer.codebook[unused], old[unused], atol=1e-4, rtol=0)
    quantizer.update(z, seed=9, revive=revive)
    from_batch = (quantizer.codebook[unused] @ z.T).amax(-1) > 0.9999
    assert from_batch.all() if revive else not from_batch.any()
    alive = (quantizer.cluster_size[unused] == 1).all()
    assert alive == revive


def test_revived_codes_live_on():
    quantizer = make(decay=0.5)
    z = torch.cat([draw(64, seed=1), draw(64, seed=2) + 4])
    for step in range(30):
        quantizer.update(z, seed=step, revive=True)
    assert quantizer(z).codes.unique().numel() == SIZE


def test_a_copy_is_independent():
    quantizer = make()
    other, before = copy.deepcopy(quantizer), buffers(quantizer)
    other.update(draw(64, seed=1), seed=0, revive=True)
    assert same(quantizer, before) and not same(other, before)


# --- state


def old_state(quantizer: VectorQuantizer, prefix: str = "") -> dict[str, Tensor]:
    """The state as checkpoints had it when the library's module held the buffers."""
    names = {"codebook": "embed", "cluster_size": "cluster_size", "embed_avg": "embed_avg"}
    state = {f"{prefix}library._codebook.{old}": buffers(quantizer)[name][None] for name, old in names.items()}
    initted = {f"{prefix}library._codebook.initted": torch.tensor(True)}
    return {**state, **initted, f"{prefix}active": quantizer.active.clone()}


def test_state_has_the_quantisers_own_names():
    assert set(make().state_dict()) == {"codebook", "cluster_size", "embed_avg", "active"}


@pytest.mark.parametrize("active", [True, False])
def test_older_checkpoints_are_read(active):
    quantizer, state = make(), old_state(make(active))
    quantizer.load_state_dict(state)
    assert same(quantizer, make(active)) and quantizer.is_active == active
    owner = torch.nn.ModuleDict({"quantizer": make(active=not active)})
    owner.load_state_dict(old_state(make(active), "quantizer."))
    assert same(owner["quantizer"], make(active)) and owner["quantizer"].is_active == active


def test_older_checkpoints_with_missing_keys_are_refused():
    state = old_state(make())
    del state["library._codebook.embed"]
    with pytest.raises(RuntimeError, match="codebook"):
        make().load_state_dict(state)


def test_k_means_in_parts_is_that_of_the_library(monkeypatch):
    """The library's holds the cosines of all vectors with all means at once."""
    vectors = F.normalize(draw(300), dim=-1)
    monkeypatch.setattr(quantizer_module, "KMEANS_ROWS", 70)
    with seeded(3):
        means, counts = quantizer_module.spherical_kmeans(vectors, SIZE, 20)
    with seeded(3):
        expected, bins = kmeans(vectors[None], SIZE, 20, use_cosine_sim=True)
    assert torch.equal(counts.long(), bins[0]) and counts.sum() == 300
    torch.testing.assert_close(means, expected[0])
