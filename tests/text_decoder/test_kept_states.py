"""States that a language model has of a text are computed once, while its side reader trains alone."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from modules.story_model.story_model import StoryModel
from modules.text_decoder import kept_states
from modules.training.phases import ConsolidationPhase, JointPhase, OpeningPhase, SettlingPhase
from tests.support.language_models import VOCABULARY, build_decoder, text_batch
from tests.support.tiny_presets import tiny_preset


@pytest.fixture(params=("gpt2", "llama"))
def decoder(folders, request):
    """A decoder with closed gates whose side reader adds something, and trains alone."""
    decoder = build_decoder(folders, request.param, "key_values", tuning="lora")
    with torch.no_grad():
        decoder.side_reader.to_hidden.weight.normal_(std=0.5)
    decoder.train().train_side_reader()
    decoder.kept_states.fit_words(torch.arange(VOCABULARY)[None], torch.ones(1, VOCABULARY, dtype=torch.bool))
    return decoder


@pytest.fixture
def passes(decoder):
    """The numbers of texts in the passes through the language model's layers."""
    counts: list[int] = []
    trunk = decoder.language_model.get_decoder()
    layer = (trunk.h if hasattr(trunk, "h") else trunk.layers)[0]
    layer.register_forward_pre_hook(lambda _layer, args, _options: counts.append(len(args[0])), with_kwargs=True)
    return counts


def test_losses_and_gradients_are_those_of_the_layers(decoder, passes):
    text = text_batch()
    found = []
    for is_hidden in (False, True):  # With word dropout, here of nothing, the layers read all anew.
        codes = text["code_embeds"].clone().requires_grad_()
        hidden = torch.zeros_like(text["text_mask"]) if is_hidden else None
        nll = decoder(**{**text, "code_embeds": codes}, hidden=hidden).nll
        nll.sum().backward()
        found.append((nll.detach(), codes.grad))
    assert passes == [1, 1, 1, 1, 4]
    for kept, anew in zip(*found, strict=True):
        assert anew.abs().sum() > 0
        torch.testing.assert_close(kept, anew, rtol=1e-4, atol=1e-5)


def test_a_text_is_read_once_whatever_its_batch(decoder, passes):
    text = text_batch()
    both = decoder(**text).nll.detach()
    assert len(passes) == 4
    alone = {name: value[[1]] for name, value in text.items()}
    torch.testing.assert_close(decoder(**alone).nll, both[[1]])
    assert len(passes) == 4
    fresh = kept_states.KeptStates(decoder.language_model)
    fresh.fit_words(text["input_ids"], text["text_mask"])
    decoder.kept_states.fit_words(text["input_ids"], text["text_mask"])
    for one, all_texts in zip(
        fresh.read(alone["input_ids"], alone["text_mask"]),
        decoder.kept_states.read(text["input_ids"], text["text_mask"]),
        strict=True,
    ):
        assert torch.equal(one, all_texts[[1]])


@torch.no_grad()
def test_words_of_no_training_text_keep_their_mass(decoder):
    text = text_batch()
    to_hidden = decoder.side_reader.to_hidden
    weight, everything = to_hidden.weight.clone(), decoder(**text).nll
    decoder.kept_states.fit_words(text["input_ids"], text["text_mask"])
    assert decoder(**text).nll.shape == everything.shape
    assert not torch.allclose(decoder(**text).nll, everything)
    to_hidden.weight.zero_()  # Nothing changes what the model predicts without a plan, so its loss is exact.
    torch.testing.assert_close(decoder(**text).nll, decoder.eval()(**text).nll, rtol=1e-4, atol=1e-5)
    # A plan that makes the other words likelier: they are not scored, so the loss sees only what it does to the rest.
    to_hidden.weight.copy_(weight)
    decoder.train().train_side_reader()
    kept = decoder.kept_states
    with kept.in_place_of_layers(text["input_ids"], text["text_mask"], decoder.prefix_gate) as nats:
        logits = decoder.logits(**text)
        num_words = text["input_ids"][text["text_mask"]].unique().numel()
        assert logits.shape[-1] == num_words < VOCABULARY
        others = kept.read(text["input_ids"], text["text_mask"]).others
        expected = torch.logaddexp(logits.logsumexp(-1), others) - logits.amax(-1)
        likeliest = text["input_ids"][text["text_mask"]].unique()[logits.argmax(-1)]
        torch.testing.assert_close(nats(logits, likeliest), expected, rtol=1e-4, atol=1e-5)


def test_changed_weights_read_all_texts_anew(decoder, passes):
    text = text_batch()
    before = decoder(**text).nll
    state = decoder.state_dict()
    decoder.load_state_dict({name: 1.1 * value if "language_model" in name else value for name, value in state.items()})
    assert not torch.allclose(decoder(**text).nll, before)
    assert len(passes) == 8


def test_the_next_phase_finds_what_was_read(decoder, passes):
    text = text_batch()
    words = torch.arange(VOCABULARY)[None], torch.ones(1, VOCABULARY, dtype=torch.bool)
    decoder(**text)
    decoder.kept_states.fit_words(*words)
    decoder(**text)
    assert len(passes) == 4
    decoder.kept_states.fit_words(words[0][:, 1:], words[1][:, 1:])
    decoder(**text)
    assert len(passes) == 8


def test_no_more_is_kept_than_the_limit(decoder, passes, monkeypatch):
    text = text_batch()
    monkeypatch.setattr(kept_states, "KEPT_BYTES", 0)
    first = decoder(**text).nll
    assert torch.equal(decoder(**text).nll, first)
    assert len(passes) == 8


def test_how_long_reading_takes_is_known(decoder, monkeypatch):
    kept, text = decoder.kept_states, text_batch()
    assert kept.seconds_to_read(10) == 0 and not kept.keeps(1)
    decoder(**text)
    assert kept.num_read == 4 and kept.seconds > 0
    assert kept.seconds_to_read(10) == pytest.approx(6 * kept.seconds / 4) and kept.seconds_to_read(4) == 0
    decoder(**text)
    assert kept.num_read == 4
    monkeypatch.setattr(kept_states, "KEPT_BYTES", 10)  # Most texts would be read again and again.
    assert kept.seconds_to_read(10) == 0


@pytest.mark.parametrize("reason", ("evaluation", "open gates", "a language model that trains", "words unknown"))
def test_layers_read_where_states_would_be_wrong(decoder, passes, reason):
    if reason == "evaluation":
        decoder.eval()
    elif reason == "open gates":
        decoder.prefix_gate.data.fill_(0.5)
    elif reason == "words unknown":
        decoder.kept_states = kept_states.KeptStates(decoder.language_model)
    else:
        decoder.language_model.requires_grad_(True)
    decoder(**text_batch())
    assert passes == [4]


@pytest.mark.parametrize(
    ("begins", "phases"), [("joint", (JointPhase, ConsolidationPhase)), ("consolidation", (ConsolidationPhase,))]
)
def test_the_language_model_trains_from_the_phase_named(hub, begins, phases):
    config = tiny_preset("picturebooks", hub)
    config = replace(config, training=replace(config.training, language_model_from=begins))
    model = StoryModel(config, offline=True)
    for phase in (OpeningPhase, JointPhase, ConsolidationPhase, SettlingPhase):
        phase.select(model)
        trains = any(value.requires_grad for value in model.text_decoder.language_model.parameters())
        assert trains == (phase in (*phases, SettlingPhase)), phase
        assert model.text_decoder.side_reader.to_hidden.weight.requires_grad
