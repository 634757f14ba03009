"""p(s | z): the text decoder on its own."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from modules.layers.plan_window import PlanWindow
from modules.text_decoder.config import TextDecoderConfig
from modules.text_decoder.text_decoder import TextDecoder
from tests.support.tensors import CLOSE, differ


@pytest.fixture
def decoder(tiny_model) -> TextDecoder:
    return tiny_model.text_decoder


@pytest.fixture
def text(story_batch, tiny_model) -> dict[str, Tensor]:
    codes = tiny_model.encode(story_batch).code_embeds.detach()
    return {
        "code_embeds": codes,
        "input_ids": story_batch.input_ids.flatten(0, 1),
        "text_mask": story_batch.text_mask.flatten(0, 1),
    }


def nll_by_hand(decoder: TextDecoder, codes: Tensor, ids: Tensor) -> Tensor:
    """One text without padding through the whole language model: (L - 1). The page is a story by itself."""
    plan, _ = decoder.plan_reader(PlanWindow.alone(codes[None]))
    embeds = torch.cat([plan[0], decoder.to_prefix(codes), decoder.language_model.transformer.wte(ids)])[None]
    slots = torch.arange(decoder.num_slots)
    positions = torch.cat([slots, slots, decoder.num_slots + torch.arange(len(ids))])[None]
    logits = decoder.language_model(inputs_embeds=embeds, position_ids=positions).logits[0]
    log_probs = logits[2 * decoder.num_slots : -1].log_softmax(-1)
    return -log_probs.gather(1, ids[1:, None])[:, 0]


def test_text_nll_equals_the_language_model_without_padding(decoder, text):
    out = decoder(**text)
    for row, length in enumerate(text["text_mask"].sum(1).tolist()):
        assert out.mask[row].sum() == max(0, length - 1) and (out.nll[row][~out.mask[row]] == 0).all()
        if length:
            by_hand = nll_by_hand(decoder, text["code_embeds"][row], text["input_ids"][row, :length])
            torch.testing.assert_close(out.nll[row, : length - 1], by_hand, **CLOSE)


def test_eos_counts_and_bos_does_not(decoder, text):
    counted = text["input_ids"][:, 1:][decoder(**text).mask]
    assert (counted == 2).sum() == 4 and not (counted == 1).any() and not (counted == 0).any()
    longer = {**text, "text_mask": text["text_mask"].clone()}
    longer["text_mask"][0, 8] = False  # Without its <eos>.
    assert decoder(**text).nll[0].sum() > decoder(**longer).nll[0].sum() + 1e-2


def test_padding_of_texts_changes_nothing(decoder, text):
    expected = decoder(**text).nll
    garbage = {**text, "input_ids": torch.where(text["text_mask"], text["input_ids"], 11)}
    assert torch.equal(decoder(**garbage).nll, expected)
    rows = {name: value[3:5] for name, value in text.items()}
    rows["input_ids"], rows["text_mask"] = rows["input_ids"][:, :12], rows["text_mask"][:, :12]
    torch.testing.assert_close(decoder(**rows).nll, expected[3:5, :11], **CLOSE)


def test_text_is_causal_by_gradient(decoder, text):
    ids = text["input_ids"][:1, :9]
    words = []
    handle = decoder.language_model.transformer.wte.register_forward_hook(
        lambda _module, _args, output: words.append(output)
    )
    nll = decoder(text["code_embeds"][:1].requires_grad_(), ids, text["text_mask"][:1, :9]).nll[0]
    handle.remove()
    for position in range(8):  # nll[position] is that of token position + 1, from tokens 0..position.
        (gradient,) = torch.autograd.grad(nll[position], words[0], retain_graph=True)
        reached = gradient[0].abs().amax(-1) > 0
        assert reached.tolist() == [index <= position for index in range(8)]


def test_text_depends_on_every_code(decoder, text):
    codes = text["code_embeds"].clone().requires_grad_()
    decoder(**{**text, "code_embeds": codes}).nll[:, :1].sum().backward()
    reached = codes.grad.abs().amax(-1) > 0
    assert torch.equal(reached, text["text_mask"].any(1)[:, None].expand(-1, 8))


def test_null_rows_of_the_text_do_not_depend_on_the_codes(decoder, text):
    null = torch.tensor([True, True, False, True, False, True])
    codes = text["code_embeds"].clone().requires_grad_()
    nll = decoder(**{**text, "code_embeds": codes}, null=null).nll
    nll.sum().backward()
    assert (codes.grad[null] == 0).all() and (codes.grad[2] != 0).any() and (codes.grad[4] != 0).any()
    assert differ(nll[0], decoder(**text).nll[0]) and torch.equal(nll[2], decoder(**text).nll[2])
    assert decoder.null_codes.grad.abs().sum() > 0


@pytest.fixture(scope="module")
def reciter() -> tuple[TextDecoder, Tensor, list[list[int]]]:
    """A text decoder that knows four texts by heart, their codes, and the texts with <eos>."""
    torch.manual_seed(0)
    config = TextDecoderConfig(dim=32, num_layers=2, num_heads=2, max_length=12)
    decoder = TextDecoder(config, vocab_size=30, num_slots=2, code_dim=4, special_ids=(0, 1, 2))
    codes, texts = torch.randn(4, 2, 4), [[5, 6, 7, 2], [5, 8, 2], [9, 6, 10, 11, 12, 13, 2]]
    texts.append([20, *range(14, 24)])  # So long that no <eos> fits.
    ids, mask = torch.zeros(4, 12, dtype=torch.long), torch.zeros(4, 12, dtype=torch.bool)
    for row, words in enumerate(texts):
        ids[row, : len(words) + 1], mask[row, : len(words) + 1] = torch.tensor([1, *words]), True
    optimizer = torch.optim.AdamW(decoder.parameters(), lr=5e-3)
    for _ in range(80):
        loss = decoder(codes, ids, mask).nll.sum() / mask.sum()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return decoder.eval(), codes, texts


def rows_of(ids: Tensor) -> list[list[int]]:
    """Rows up to and with <eos>; what follows must be padding."""
    rows = []
    for row in ids.tolist():
        end = row.index(2) + 1 if 2 in row else len(row)
        assert set(row[end:]) <= {0}
        rows.append(row[:end])
    return rows


@pytest.mark.parametrize("decoding", ["greedy", "beam"])
def test_generate_recites_what_was_learnt(reciter, decoding):
    decoder, codes, texts = reciter
    ids = decoder.generate(codes, decoding)
    assert ids.shape == (4, 11) and rows_of(ids) == texts


def test_beam_search_finds_no_worse_than_greedy(decoder, text):
    def nll(ids: Tensor) -> Tensor:
        whole = torch.cat([torch.ones(len(ids), 1, dtype=torch.long), ids], dim=1)
        return decoder(codes, whole, torch.ones_like(whole, dtype=torch.bool)).nll.sum(1)

    codes = text["code_embeds"]
    greedy, beam = decoder.generate(codes), decoder.generate(codes, "beam", num_beams=6)
    assert greedy.shape == beam.shape == (6, 39)  # This untrained model never ends a text, so both are equally long.
    assert (nll(beam) <= nll(greedy) + 1e-3).all() and (nll(beam) < nll(greedy) - 0.1).any()


def test_greedy_ignores_the_seed_and_one_by_one_is_the_same(decoder, text):
    decoder, codes = (
        decoder.double(),
        text["code_embeds"].double(),
    )  # The untrained model's words are nearly equally likely.
    together = decoder.generate(codes, seed=1)
    assert torch.equal(together, decoder.generate(codes, seed=2))
    assert len(together.unique(dim=0)) > 3  # Other codes, other texts.
    for row in range(6):
        assert rows_of(decoder.generate(codes[row : row + 1])) == rows_of(together[row : row + 1])


def test_one_by_one_is_the_same_where_texts_end(reciter):
    decoder, codes, texts = reciter
    assert [rows_of(decoder.generate(codes[row : row + 1]))[0] for row in range(4)] == texts


def test_top_p_follows_its_seed_alone(reciter):
    decoder, codes, texts = reciter
    state = torch.random.get_rng_state()
    runs = [decoder.generate(codes, "top_p", temperature=2.0, top_p=0.99, seed=seed) for seed in (1, 1, 2)]
    assert torch.equal(torch.random.get_rng_state(), state)
    assert torch.equal(runs[0], runs[1]) and rows_of(runs[0]) != rows_of(runs[2])
    assert all(len(row) <= 11 for row in rows_of(runs[0]))
    assert rows_of(decoder.generate(codes, "top_p", top_p=0.01, seed=3)) == texts  # A nucleus of one is greedy.
    assert rows_of(decoder.generate(codes, "top_p", temperature=0.01, top_p=1.0, seed=3)) == texts
