"""Text encoders: padding changes nothing, and only what should train moves."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from transformers import BertModel

from modules.batch import StepInputs
from modules.common.errors import UserError
from modules.config import config_from_dict
from modules.pretrained.source import PretrainedSource
from modules.storyboard.config import TextEncoderConfig
from modules.storyboard.storyboard import Storyboard
from modules.storyboard.text_encoders import EncoderTokenizer, PretrainedTextEncoder
from tests.support.hub_folders import TEXTS, WIDTH, write_bert, write_gpt2, write_stable_diffusion
from tests.support.tensors import CLOSE, differ
from tests.support.tiny_presets import tiny_preset, write_hub


@pytest.fixture(scope="module")
def bert(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_bert(tmp_path_factory.mktemp("hub") / "bert")


def config(source: Path, **changes: int | bool) -> TextEncoderConfig:
    return TextEncoderConfig(**{"source": str(source), "max_length": 20, **changes})


def encoder(source: Path, **changes: int | bool) -> PretrainedTextEncoder:
    torch.manual_seed(0)
    return PretrainedTextEncoder(config(source, **changes))


def test_padding_changes_nothing(bert):
    model, plain = encoder(bert), BertModel.from_pretrained(bert)
    ids, mask = EncoderTokenizer(config(bert)).encode_batch(TEXTS)
    vectors = model(ids, mask)
    assert vectors.shape == (len(TEXTS), 20, WIDTH) == (len(TEXTS), 20, model.width)
    for row, length in enumerate(mask.sum(1).tolist()):
        alone = plain(input_ids=ids[row : row + 1, :length]).last_hidden_state
        assert torch.allclose(vectors[row, :length], alone[0], **CLOSE)
    noise = torch.where(mask, ids, torch.randint_like(ids, 5, 50))
    assert torch.allclose(model(noise, mask)[mask], vectors[mask], **CLOSE)


def test_a_step_without_text_stays_finite(bert):
    model = encoder(bert, trainable_layers=-1).train()
    ids = torch.zeros(2, 6, dtype=torch.long)
    mask = torch.tensor([[True] * 6, [False] * 6])
    vectors = model(ids, mask)
    (vectors * mask[..., None]).sum().backward()
    assert vectors.isfinite().all()
    assert all(parameter.grad.isfinite().all() for parameter in model.parameters() if parameter.grad is not None)


@pytest.mark.parametrize("layers", [0, 1, 3, -1])
def test_trained_layers_get_gradients_others_stay_in_eval(layers, bert):
    model = encoder(bert, trainable_layers=layers).train()
    ids, mask = EncoderTokenizer(config(bert)).encode_batch(TEXTS)
    vectors = model(ids, mask)
    assert vectors.requires_grad == (layers != 0)
    assert differ(vectors, model(ids, mask)) == (layers != 0)  # By dropout.
    if layers:
        vectors[mask].square().mean().backward()
    for name, parameter in model.named_parameters():
        expected = layers == -1 or any(f"layer.{3 - 1 - index}." in name for index in range(layers))
        assert parameter.requires_grad == expected and (parameter.grad is not None) == expected, name
    model.eval()
    assert torch.equal(model(ids, mask), model(ids, mask))


def test_checkpointing_gives_the_same_gradients(bert):
    ids, mask = EncoderTokenizer(config(bert)).encode_batch(TEXTS)
    found = []
    for checkpointing in (False, True):
        model = encoder(bert, trainable_layers=2, gradient_checkpointing=checkpointing).train()
        torch.manual_seed(1)
        model(ids, mask)[mask].square().mean().backward()
        found.append({name: parameter.grad for name, parameter in model.named_parameters() if parameter.requires_grad})
    assert all(torch.allclose(gradient, found[1][name], **CLOSE) for name, gradient in found[0].items())


def test_another_text_encoder_is_read_by_the_same_code(tmp_path):
    folder = write_stable_diffusion(tmp_path / "sd") / "text_encoder"
    model = encoder(folder, trainable_layers=1)
    assert type(model.model).__name__ == "CLIPTextModel"
    assert model(torch.tensor([[0, 7, 8, 1]]), torch.ones(1, 4, dtype=torch.bool)).shape == (1, 4, model.width)


def test_the_full_size_by_its_id():
    with torch.device("meta"):
        model = PretrainedTextEncoder(
            TextEncoderConfig(source="bert-base-uncased"),
            PretrainedSource("bert-base-uncased", "the part", offline=True, random=True),
        )
    pooler = 768 * 768 + 768
    assert sum(parameter.numel() for parameter in model.parameters()) == 109_482_240 - pooler and model.width == 768


def test_texts_are_cut_but_keep_their_last_token(bert):
    tokenizer = EncoderTokenizer(config(bert, max_length=8))
    ids, mask = tokenizer.encode_batch(["kite", " ".join(TEXTS)])
    start, end = tokenizer.tokenizer.cls_token_id, tokenizer.tokenizer.sep_token_id
    assert ids.shape == mask.shape == (2, 8) and mask.dtype == torch.bool
    assert mask.sum(1).tolist() == [int((ids[0] != 0).sum()), 8]
    assert (ids[:, 0] == start).all() and ids[1, -1] == end and ids[0][mask[0]][-1] == end


def test_a_tokenizer_that_does_not_fit_is_refused(bert, tmp_path):
    with pytest.raises(UserError, match="storyboard.text_encoder: max_length 65 is more than the 64 tokens"):
        EncoderTokenizer(config(bert, max_length=65))
    folder = Path(shutil.copytree(bert, tmp_path / "bert"))
    settings = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**settings, "vocab_size": 10}))
    with pytest.raises(
        UserError, match="storyboard.text_encoder.source: .* weights for 10: they do not belong together"
    ):
        EncoderTokenizer(config(folder))
    with pytest.raises(UserError, match="storyboard.text_encoder.source: .*contains gpt2, expected a text encoder"):
        encoder(write_gpt2(tmp_path / "gpt2"))


def test_the_config_is_read_from_json(bert):
    values = {"source": str(bert), "max_length": 20, "trainable_layers": 2, "gradient_checkpointing": True}
    assert config_from_dict(TextEncoderConfig, values, "config.json") == TextEncoderConfig(**values)


def shortcut_slots(hub: Path, shortcuts: bool, **changes: torch.Tensor) -> torch.Tensor:
    """Slots of three steps of a new encoder, the last without a text, after `changes` of its inputs."""
    board = tiny_preset("picturebooks", hub).storyboard
    board = replace(board, text_encoder=replace(board.text_encoder, shortcuts=shortcuts, max_length=20))
    torch.manual_seed(0)
    storyboard = Storyboard(replace(board, codebook_size=16), 64, 12, (4, 4, 4)).eval()
    ids, mask = storyboard.text_encoder.tokenizer.encode_batch(["A red fox.", "The blue boat sails.", ""])
    steps = StepInputs(
        input_ids=torch.ones(3, 12, dtype=torch.long),
        text_mask=torch.tensor([[True], [True], [False]]).expand(3, 12),
        latents=torch.zeros(3, 4, 4, 4),
        image_mask=torch.tensor([False, False, True]),
        encoder_ids=ids,
        encoder_mask=mask,
    )
    return storyboard.encode(replace(steps, **changes))


@torch.no_grad()
def test_slots_begin_as_views_of_the_sentence_and_see_its_words(tmp_path):
    hub = write_hub(tmp_path)
    plain, both = (shortcut_slots(hub, shortcuts) for shortcuts in (False, True))
    assert differ(plain[0], both[0]) and both.shape == plain.shape
    # The same sentence vectors, other words: only the slots that see the words move, by less than by another sentence.
    torch.manual_seed(1)
    sentence, other = (torch.randn(3, 20, WIDTH) for _ in range(2))
    ids = torch.randint(5, 40, (2, 3, 20))
    here, words, meaning = (
        shortcut_slots(hub, True, text_features=features, encoder_ids=tokens)
        for features, tokens in ((sentence, ids[0]), (sentence, ids[1]), (other, ids[0]))
    )
    assert 0 < (here - words)[:2].norm() < 0.5 * (here - meaning)[:2].norm()
    assert torch.equal(here[2], meaning[2]) and torch.equal(here[2], words[2])  # No text, nothing of it.
