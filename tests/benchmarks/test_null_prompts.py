"""`benchmarks/null_prompts.py` at tiny size: a prior that knows stories without a prompt, and else what it knew."""

from __future__ import annotations

import json

import pytest
import torch

from modules.saving.model_folder import load_model
from tests.support.benchmarks import load

null_prompts = load("null_prompts")


@pytest.mark.slow
def test_a_prior_learns_stories_without_a_prompt_from_its_own_draws(tiny_checkpoint, tmp_path, monkeypatch):
    monkeypatch.setattr(null_prompts, "HELD_OUT", 64)
    out, record = tmp_path / "guided", tmp_path / "guided.json"
    flags = ["--ckpt", tiny_checkpoint, "--output", out, "--num_updates", 60, "--batch_size", 8, "--json", record]
    assert null_prompts.main([str(word) for word in flags]) == 0
    found = json.loads(record.read_text())
    assert found["before"]["with the prompt"] == 0
    assert found["after"]["without it"] < 0.9 * found["before"]["without it"]
    assert found["after"]["with the prompt"] < 0.2 * found["before"]["without it"]
    before, after = (load_model(folder, offline=True)[0] for folder in (tiny_checkpoint, out))
    assert after.config.prior.null_prompt == null_prompts.HIDDEN
    was = before.own_state()
    changed = {name for name, value in after.own_state().items() if not torch.equal(value.half(), was[name].half())}
    kept = ("text_decoder.", "image_decoder.", "autoencoder.", "storyboard.quantizer.embed")
    assert changed and not any(name.startswith(kept) for name in changed - {"storyboard.quantizer.embed_avg"})


def test_what_a_page_costs_more_is_none_of_the_given_pages(tiny_pipeline):
    prior = tiny_pipeline.model.prior.eval()
    generator = torch.Generator().manual_seed(0)
    ids = torch.randint(3, 20, (2, 5), generator=generator)
    codes = torch.randint(prior.code_embed.num_embeddings - 1, (2, 3, prior.num_slots), generator=generator)
    batch, given = (ids, torch.ones_like(ids, dtype=torch.bool), codes), torch.tensor([[2], [-1]])
    for hidden, is_zero in ((False, True), (True, False)):
        nats = null_prompts.divergence(prior, prior, batch, torch.full((2,), hidden), given)
        assert nats.shape == (2, 3) and (nats.abs().max() < 1e-4) == is_zero
        assert nats[0, 2] == 0
