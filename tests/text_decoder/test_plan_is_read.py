"""A pretrained language model learns to read the plan within a few updates, while it learns the texts themselves."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import Tensor

from modules.text_decoder.language_model import without_words
from tests.support.language_models import build_decoder, text_batch

UPDATES = 12


def swap_gap_after(decoder, text: dict[str, Tensor]) -> float:
    """Return how many nats a token the codes of another text cost, after a few updates of all that trains."""
    optimizer = torch.optim.AdamW([value for value in decoder.parameters() if value.requires_grad], lr=1e-2)
    for _ in range(UPDATES):
        out = decoder(**text)
        optimizer.zero_grad()
        (out.nll.sum() / out.mask.sum()).backward()
        optimizer.step()
    swapped = {**text, "code_embeds": text["code_embeds"].roll(1, 0)}
    with torch.no_grad():
        own, other = decoder.eval()(**text), decoder(**swapped)
    return ((other.nll - own.nll).sum() / own.mask.sum()).item()


@pytest.mark.parametrize("family", ("gpt2", "llama"))
@pytest.mark.parametrize("prefix", ("embeds", "key_values"))
def test_codes_are_read_from_the_first_updates_on(folders, family, prefix):
    text = text_batch()
    text["text_mask"][2, :6] = True  # Its text without any word tells nothing apart.
    gap = swap_gap_after(build_decoder(folders, family, prefix, tuning="lora").train(), text)
    ignoring = build_decoder(folders, family, prefix, tuning="lora").train()
    ignoring.side_reader.requires_grad_(False)  # The gated prefix alone.
    assert gap > 0.05 and gap > 4 * swap_gap_after(ignoring, text)


@pytest.mark.parametrize("tuning", ("lora", "full"))
@pytest.mark.parametrize("prefix", ("embeds", "key_values"))
def test_the_side_reader_trains_alone(folders, prefix, tuning):
    decoder, text = build_decoder(folders, "gpt2", prefix, gate=0.5, tuning=tuning).train(), text_batch()
    decoder.train_side_reader()
    trained = {name for name, value in decoder.named_parameters() if value.requires_grad}
    assert trained == {"null_codes", *(f"side_reader.{name}" for name, _ in decoder.side_reader.named_parameters())}
    reached: list[bool] = []
    decoder.language_model.get_input_embeddings().register_forward_hook(lambda *args: reached.append(False))
    decoder.language_model.get_output_embeddings().register_forward_pre_hook(
        lambda _, args: reached.append(args[0].requires_grad), prepend=True
    )
    codes = text["code_embeds"].requires_grad_()
    gap = swap_gap_after(decoder, text)
    assert reached and not any(reached)
    assert codes.grad is not None and codes.grad.abs().sum() > 0
    assert gap > 0.05


@pytest.mark.parametrize("prefix", ("embeds", "key_values"))
def test_a_copy_reads_by_its_own_side_reader(folders, prefix):
    """FSDP trains a copy, and takes the weights of the original away."""
    decoder, text = build_decoder(folders, "gpt2", prefix, gate=0.5), text_batch()
    other, before = copy.deepcopy(decoder), decoder(**text).nll
    torch.nn.init.normal_(other.side_reader.to_hidden.weight)
    assert torch.equal(decoder(**text).nll, before) and not torch.allclose(other(**text).nll, before)


def test_models_from_before_the_side_reader_load_without_one(folders):
    decoder, text = build_decoder(folders, "gpt2", gate=0.5), text_batch()
    before = decoder(**text).nll
    decoder.load_state_dict({name: value for name, value in decoder.state_dict().items() if "side_reader" not in name})
    after = decoder(**text).nll
    assert not torch.equal(after, before)
    decoder.side_reader.to_hidden.requires_grad_(False).weight.fill_(0)
    assert torch.equal(decoder(**text).nll, after)


def test_hidden_words_are_predicted_but_not_read(folders):
    decoder, text = build_decoder(folders, "gpt2"), text_batch(2)
    hidden = torch.zeros_like(text["text_mask"])
    hidden[:, [0, 3]] = True
    out, plain = decoder(**text, hidden=hidden), decoder(**text)
    assert torch.equal(out.mask, plain.mask)
    assert torch.equal(out.nll[:, :3], plain.nll[:, :3]) and not torch.equal(out.nll[:, 3:], plain.nll[:, 3:])
    read = without_words(text["input_ids"], hidden, decoder.pad_id)
    assert torch.equal(read[:, 0], text["input_ids"][:, 0]) and (read[:, 3] == decoder.pad_id).all()
