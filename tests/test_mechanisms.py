"""What only some models have: experts, a temporal transformer, the contrastive loss, scheduled sampling, other ways to
pool.
"""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from modules.batch import PlanBatch
from modules.config import StoryConfig
from modules.prior.config import ExpertsConfig
from modules.prior.prior import Prior
from modules.prior.teacher_forcing import draw_mixing
from modules.story_model.story_model import StoryModel
from tests.support.losses import CLOSE, OPTIONAL, TERMS, changed, reached

POOLINGS = ("queries", "majority_vote", "qformer", "mean")


def placed(config: StoryConfig, batch) -> StoryModel:
    torch.manual_seed(0)
    model = StoryModel(config).eval()
    board = model.encode(batch)
    model.storyboard.quantizer.fit(board.vectors[board.vector_mask].detach(), seed=0)
    return model


@pytest.fixture
def rich(tiny_config, story_batch) -> StoryModel:
    """All optional terms at once."""
    prior = replace(tiny_config.prior, experts=ExpertsConfig(num_experts=4), temporal_layers=1)
    return placed(
        replace(tiny_config, prior=prior, loss_weights=replace(tiny_config.loss_weights, contrastive_loss=0.5)),
        story_batch,
    )


@pytest.mark.parametrize(
    ("term", "parts"),
    [("contrastive_loss", {"storyboard", "contrastive"}), *((name, {"prior"}) for name in OPTIONAL[1:])],
)
def test_gradient_map_of_optional_terms(rich, story_batch, story_noise, term, parts):
    out = rich.train()(story_batch, story_noise)
    assert set(out.losses) == {*TERMS, *OPTIONAL} and out.loads.shape == (2, 4)
    assert out.losses[term] > 0 and reached(rich, out.losses[term]) == parts
    torch.testing.assert_close(
        out.loss, sum(getattr(rich.config.loss_weights, name) * value for name, value in out.losses.items())
    )


def test_contrast_counts_steps_with_both(rich, story_batch):
    """A step without a picture may hold any text: it is no partner and no rival."""
    before = rich.contrast(story_batch)
    lonely = changed(story_batch, image_mask=story_batch.image_mask & (torch.arange(3) != 1))
    other = changed(lonely, input_ids=torch.where((torch.arange(3) == 1)[:, None], 9, lonely.input_ids))
    torch.testing.assert_close(rich.contrast(other), rich.contrast(lonely), **CLOSE)
    assert (rich.contrast(lonely) - before).abs() > 1e-4


@pytest.mark.parametrize("pooling", POOLINGS)
def test_every_pooling_reads_what_is_there_and_nothing_else(tiny_config, story_batch, story_noise, pooling):
    model = placed(replace(tiny_config, storyboard=replace(tiny_config.storyboard, pooling=pooling)), story_batch)
    model.train()(story_batch, story_noise).loss.backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in model.storyboard.parameters())
    steps = story_batch.steps()
    slots = model.eval().storyboard(steps).slots
    assert slots.shape == (6, 8, 8)
    masked_latents = torch.where(steps.image_mask[:, None, None, None], steps.latents, torch.tensor(9.0))
    hidden = replace(steps, latents=masked_latents)
    torch.testing.assert_close(model.storyboard(hidden).slots, slots, **CLOSE)
    seen = model.storyboard(replace(steps, latents=-steps.latents)).slots
    assert ((seen - slots).abs().amax((1, 2)) > 1e-4).tolist() == steps.image_mask.tolist()


# --- the prior's temporal transformer


@pytest.fixture
def temporal_prior(tiny_config) -> Prior:
    torch.manual_seed(0)
    prior = Prior(replace(tiny_config.prior, temporal_layers=1), 400, 32, 8).eval()
    with torch.no_grad():
        for parameter in prior.parameters():
            parameter.mul_(4 if parameter.ndim == 2 else 1)
    return prior


def prompts(count: int) -> tuple[torch.Tensor, torch.Tensor]:
    ids = torch.randint(3, 400, (count, 5), generator=torch.Generator().manual_seed(1))
    return ids, torch.ones_like(ids, dtype=torch.bool)


def test_temporal_prior_samples_what_forward_scores(temporal_prior):
    """Cached and step by step, or all at once: the same probabilities.

    Also after given steps, and for several plans at once.
    """
    given = torch.randint(0, 32, (1, 2, 8), generator=torch.Generator().manual_seed(2))
    for history in (None, given):
        drawn = temporal_prior.sample(
            *prompts(1), 3, generator=torch.Generator().manual_seed(3), codes=history, num_samples=4
        )
        before = drawn.codes[:, :0] if history is None else history.expand(4, -1, -1)
        codes = torch.cat([before, drawn.codes], dim=1)
        ids, mask = (tensor.expand(4, -1) for tensor in prompts(1))
        nll = temporal_prior(codes, ids, mask, torch.ones(codes.shape[:2], dtype=torch.bool)).nll[:, before.shape[1] :]
        torch.testing.assert_close(-drawn.log_probs, nll, atol=1e-5, rtol=1e-4)


def test_temporal_prior_is_causal_and_reads_whole_steps(temporal_prior):
    codes = torch.randint(0, 32, (2, 4, 8), generator=torch.Generator().manual_seed(2))
    steps = torch.ones(2, 4, dtype=torch.bool)
    logits = temporal_prior(codes, *prompts(2), steps).logits
    other = codes.clone()
    other[:, 2] = (other[:, 2] + 1) % 32
    moved = (temporal_prior(other, *prompts(2), steps).logits - logits).abs().amax((0, 3)) > 1e-5
    assert not moved[:2].any() and not moved[2, 0] and moved[3].all()


# --- scheduled sampling


def test_own_codes_change_what_is_read_and_not_what_is_scored(tiny_config, story_batch, story_noise):
    model = placed(tiny_config, story_batch)
    codes = model.encode(story_batch).codes.unflatten(0, (2, 3))

    def loss(share: float, seed: int = 0) -> torch.Tensor:
        draws = draw_mixing(tuple(codes.shape), torch.Generator().manual_seed(seed))
        plans = PlanBatch(
            codes=codes,
            prompt_ids=story_batch.prompt_ids,
            prompt_mask=story_batch.prompt_mask,
            step_mask=story_batch.step_mask,
            num_steps=story_batch.num_steps,
            own_share=share,
            own_draws=draws,
        )
        return model(changed(story_batch, codes=codes, plans=plans), story_noise, ("prior",)).losses["prior_nll"]

    plain = model(changed(story_batch, codes=codes), story_noise, ("prior",)).losses["prior_nll"]
    torch.testing.assert_close(loss(0.0), plain, **CLOSE)
    assert (
        torch.equal(loss(0.5), loss(0.5))
        and not torch.equal(loss(0.5), loss(0.5, seed=1))
        and not torch.equal(loss(0.5), plain)
    )


# --- gradient checkpointing


def test_checkpointing_gives_the_same_gradients(rich, story_batch, story_noise):
    """Experts, dropout and all; and it keeps less."""
    kept, gradients = [], []
    for checkpointing in (False, True):
        training = replace(rich.config.training, gradient_checkpointing=checkpointing)
        prior = replace(rich.config.prior, dropout=0.1)
        model = placed(replace(rich.config, training=training, prior=prior), story_batch).train()
        sizes: list[int] = []
        with torch.autograd.graph.saved_tensors_hooks(
            lambda value, sizes=sizes: sizes.append(value.nbytes) or value, lambda value: value
        ):
            torch.manual_seed(1)
            loss = model(story_batch, story_noise).loss
        kept.append(sum(sizes))
        loss.backward()
        gradients.append({name: value.grad for name, value in model.named_parameters() if value.grad is not None})
    assert kept[1] < 0.8 * kept[0] and gradients[0].keys() == gradients[1].keys()
    for name, gradient in gradients[0].items():
        torch.testing.assert_close(gradients[1][name], gradient, atol=1e-6, rtol=1e-4, msg=name)
