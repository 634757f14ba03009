"""Texts are computed in groups of like length: losses and gradients are as without groups."""

from __future__ import annotations

import pytest
import torch

from modules.text_decoder import text_decoder as module
from tests.support.language_models import CODE_DIM, LENGTH, SLOTS, VOCABULARY, build_decoder


@pytest.mark.parametrize("family", ("scratch", "gpt2", "llama"))
@pytest.mark.parametrize("prefix", ("embeds", "key_values"))
def test_losses_and_gradients_are_those_of_one_group(folders, family, prefix, monkeypatch):
    decoder = build_decoder(folders, family, prefix, gate=0.5, reads_plan=True).eval()
    generator = torch.Generator().manual_seed(0)
    mask = torch.arange(LENGTH) < torch.tensor([(5 * row) % LENGTH + 1 for row in range(12)])[:, None]
    ids = torch.randint(3, VOCABULARY, mask.shape, generator=generator)
    codes = torch.randn(12, SLOTS, CODE_DIM, generator=generator)

    def losses() -> list[torch.Tensor]:
        shown = codes.clone().requires_grad_()
        nll = decoder(shown, ids, mask).nll
        nll.sum().backward()
        return [nll.detach(), shown.grad]

    grouped = losses()
    monkeypatch.setattr(module, "rows_of_like_length", lambda mask: [(slice(None), mask.shape[1])])
    for value, expected in zip(grouped, losses(), strict=True):
        torch.testing.assert_close(value, expected, atol=2e-5, rtol=1e-4)
    assert grouped[0].count_nonzero() > 12  # Rows of several tokens, but for padding.
