"""p(s | z) on pretrained language models: the same loading code as for "gpt2-xl", on folders in the Hub's layout."""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise, product

import pytest
import torch
from peft import PeftModel
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from torch import Tensor
from transformers import AutoModelForCausalLM, PreTrainedTokenizerFast, ViTConfig, ViTModel

from modules.common.errors import UserError
from modules.pretrained.source import PretrainedSource
from modules.text_decoder.config import TextDecoderConfig
from modules.text_decoder.decoding import ContrastiveLogitsProcessor
from modules.text_decoder.text_decoder import TextDecoder
from tests.support.language_models import CODE_DIM, LENGTH, SLOTS, VOCABULARY, rows_of
from tests.support.language_models import build_decoder as build
from tests.support.language_models import text_batch as batch
from tests.support.tensors import CLOSE, differ

FAMILIES, PREFIXES = ("gpt2", "llama"), ("embeds", "key_values")
KINDS = list(product(FAMILIES, PREFIXES))


def trained_names(decoder: TextDecoder) -> list[str]:
    return [name for name, parameter in decoder.named_parameters() if parameter.requires_grad]


@pytest.mark.parametrize("tuning", ["lora", "frozen"])
@pytest.mark.parametrize(("family", "prefix"), KINDS)
def test_it_begins_as_the_plain_language_model(folders, family, prefix, tuning):
    decoder, text = build(folders, family, prefix, tuning=tuning), batch()
    plain = AutoModelForCausalLM.from_pretrained(folders[family])
    expected = plain(input_ids=text["input_ids"], attention_mask=text["text_mask"].long()).logits
    for null in (None, torch.tensor([True, False, True, False])):
        logits = decoder.logits(**text, null=null)
        torch.testing.assert_close(logits[text["text_mask"]], expected[text["text_mask"]], **CLOSE)
    told = plain.generate(
        torch.full((1, 1), decoder.bos_id), max_new_tokens=LENGTH - 1, do_sample=False, eos_token_id=decoder.eos_id
    )
    ours = decoder.generate(text["code_embeds"])
    assert (ours == told[:, 1:]).all() and ours.shape[1] == told.shape[1] - 1


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("prefix", PREFIXES)
def test_the_gates_learn_first_and_then_the_codes_matter(folders, family, prefix):
    decoder, text = build(folders, family, prefix, tuning="frozen").train(), batch()
    optimizer = torch.optim.AdamW([decoder.get_parameter(name) for name in trained_names(decoder)], lr=3e-2)
    losses = []
    for step in range(20):
        out = decoder(**text)
        losses.append((out.nll.sum() / out.mask.sum()).item())
        optimizer.zero_grad()
        out.nll.sum().backward()
        assert all(
            decoder.get_parameter(name).grad.isfinite().all() for name in trained_names(decoder) if name != "null_codes"
        )
        if step == 0:
            assert (decoder.prefix_gate.grad != 0).all() and (decoder.to_prefix.weight.grad == 0).all()
        optimizer.step()
    assert losses[-1] < losses[0] - 0.05 and (decoder.prefix_gate != 0).all() and decoder.prefix_gate.abs().max() > 0.1
    swapped = {**text, "code_embeds": text["code_embeds"].flip(0)}
    assert differ(decoder(**text).nll, decoder(**swapped).nll)


@pytest.mark.parametrize(("family", "prefix"), KINDS)
def test_order_of_the_slots_and_every_code_count(folders, family, prefix):
    decoder, text = build(folders, family, prefix, gate=0.7), batch()
    turned = {**text, "code_embeds": text["code_embeds"].roll(1, dims=1)}
    assert differ(decoder(**text).nll, decoder(**turned).nll)
    codes = text["code_embeds"].requires_grad_()
    decoder(**text).nll[:, 0].sum().backward()
    assert torch.equal(codes.grad.abs().amax(-1) > 0, text["text_mask"].any(1)[:, None].expand(-1, SLOTS))


@pytest.mark.parametrize(("family", "prefix"), KINDS)
def test_padding_and_later_tokens_change_nothing(folders, family, prefix):
    decoder, text = build(folders, family, prefix, gate=0.7), batch()
    expected = decoder(**text).nll
    garbage = {**text, "input_ids": torch.where(text["text_mask"], text["input_ids"], 11)}
    assert torch.equal(decoder(**garbage).nll, expected)
    short = {name: value[1:2, :5] if name != "code_embeds" else value[1:2] for name, value in text.items()}
    torch.testing.assert_close(decoder(**short).nll, expected[1:2, :4], **CLOSE)
    later = {**text, "input_ids": text["input_ids"].clone()}
    later["input_ids"][:, 6] = 17
    before, after = decoder.logits(**text)[0], decoder.logits(**later)[0]
    torch.testing.assert_close(after[:6], before[:6], **CLOSE)
    assert all(differ(after[position], before[position]) for position in range(6, LENGTH))


def greedy_by_hand(decoder: TextDecoder, codes: Tensor, guidance_scale: float) -> list[int]:
    """One text by reading everything anew for each of its tokens, twice."""
    ids = [decoder.bos_id]
    while len(ids) < LENGTH and (len(ids) == 1 or ids[-1] != decoder.eos_id):
        text = (codes[None], torch.tensor([ids]), torch.ones(1, len(ids), dtype=torch.bool))
        given, free = (
            decoder.logits(*text, null=torch.tensor([null]))[0, -1].log_softmax(-1) for null in (False, True)
        )
        ids.append((free + guidance_scale * (given - free)).argmax().item())
    return ids[1:]


@pytest.mark.parametrize("guidance_scale", [1.0, 2.5])
@pytest.mark.parametrize(("family", "prefix"), KINDS)
def test_generate_says_what_the_logits_say(folders, family, prefix, guidance_scale):
    decoder, codes = build(folders, family, prefix, gate=1.5).double(), 4 * batch()["code_embeds"].double()
    told = rows_of(decoder.generate(codes, guidance_scale=guidance_scale), decoder.eos_id)
    assert told == [greedy_by_hand(decoder, row, guidance_scale) for row in codes]
    assert len(set(map(tuple, told))) > 1


@pytest.mark.parametrize("guidance_scale", [1.0, 2.5])
@pytest.mark.parametrize(("family", "prefix"), KINDS)
def test_every_beam_reads_its_own_row(folders, family, prefix, guidance_scale):
    decoder, codes = build(folders, family, prefix, gate=1.5).double(), 4 * batch()["code_embeds"].double()
    told = rows_of(decoder.generate(codes, "beam", num_beams=3, guidance_scale=guidance_scale), decoder.eos_id)
    alone = [
        decoder.generate(codes[row : row + 1], "beam", num_beams=3, guidance_scale=guidance_scale)
        for row in range(len(codes))
    ]
    assert told == [rows_of(ids, decoder.eos_id)[0] for ids in alone]
    assert len(set(map(tuple, told))) > 1


@pytest.mark.parametrize("decoding", ["greedy", "beam"])
def test_no_ngram_occurs_twice_where_the_config_says_so(folders, decoding):
    decoder, codes = build(folders, "gpt2", tuning="lora"), batch()["code_embeds"]
    pairs = []
    for size in (0, 2):
        decoder.config = replace(decoder.config, no_repeat_ngram_size=size)
        rows = rows_of(decoder.generate(codes, decoding=decoding, num_beams=2), decoder.eos_id)
        pairs.append([list(pairwise(row)) for row in rows])
    looping, free = ([len(set(found)) < len(found) for found in texts] for texts in pairs)
    assert any(looping) and not any(free)


@pytest.mark.parametrize("penalty_alpha", [0.0, 0.7])
def test_the_contrastive_penalty_ends_loops(penalty_alpha):
    torch.manual_seed(0)
    decoder = TextDecoder(
        TextDecoderConfig(dim=16, num_layers=2, num_heads=2, max_length=20), 30, SLOTS, CODE_DIM, (0, 1, 2)
    ).eval()
    ids = decoder.generate(torch.randn(3, SLOTS, CODE_DIM), penalty_alpha=penalty_alpha)
    variety = [len(set(row)) / len(row) for row in rows_of(ids, decoder.eos_id)]
    assert min(variety) > 0.6 if penalty_alpha else max(variety) < 0.2
    with pytest.raises(UserError, match="greedy decoding only, not beam"):
        decoder.generate(torch.randn(1, SLOTS, CODE_DIM), "beam", penalty_alpha=0.5)


def test_contrastive_penalty_weighs_likelihood_and_likeness():
    def hidden_states(ids: Tensor) -> Tensor:
        """Tokens are like themselves alone, and <bos> is token 0."""
        return torch.eye(4)[torch.nn.functional.pad(ids, (1, 0))]

    ids, scores = torch.tensor([[2, 1], [2, 3]]), torch.tensor([[0.1, 0.5, 0.15, 0.25], [0.1, 0.5, 0.15, 0.25]]).log()
    values = ContrastiveLogitsProcessor(hidden_states, penalty_alpha=0.4, top_k=2)(ids, scores)
    never = -torch.inf
    torch.testing.assert_close(values, torch.tensor([[never, 0.3 - 0.4, never, 0.15], [never, 0.3, never, 0.15 - 0.4]]))


@pytest.mark.parametrize(("family", "prefix"), [("gpt2", "key_values"), ("llama", "embeds")])
def test_four_texts_are_learnt_and_told_in_every_way(folders, family, prefix):
    decoder = build(folders, family, prefix)
    codes, texts = (
        torch.randn(4, SLOTS, CODE_DIM),
        [[5, 6, 7], [5, 8], [9, 6, 10, 11, 12, 13], [20, *range(14, 24)][: LENGTH - 2]],
    )
    texts = [[*words, decoder.eos_id] for words in texts]
    ids, mask = torch.full((4, LENGTH), decoder.pad_id), torch.zeros(4, LENGTH, dtype=torch.bool)
    for row, words in enumerate(texts):
        ids[row, : len(words) + 1], mask[row, : len(words) + 1] = torch.tensor([decoder.bos_id, *words]), True
    optimizer = torch.optim.AdamW(decoder.parameters(), lr=1e-2)
    for _ in range(100):
        optimizer.zero_grad()
        (decoder(codes, ids, mask).nll.sum() / mask.sum()).backward()
        optimizer.step()
    for options in ({}, {"decoding": "beam"}, {"decoding": "top_p", "temperature": 0.1}, {"guidance_scale": 1.5}):
        told = decoder.generate(codes, **options)
        assert rows_of(told, decoder.eos_id) == texts
        assert all(set(row[len(words) :]) <= {decoder.pad_id} for row, words in zip(told.tolist(), texts, strict=True))


@pytest.mark.parametrize("tuning", ["full", "lora", "frozen"])
@pytest.mark.parametrize(("family", "prefix"), KINDS)
def test_checkpointing_gives_equal_losses_and_gradients(folders, family, prefix, tuning):
    results, reads = [], []
    for is_on in (False, True):
        decoder = build(folders, family, prefix, gate=0.7, tuning=tuning, gradient_checkpointing=is_on)
        for part in decoder.language_model.modules():
            if isinstance(part, torch.nn.Dropout):
                part.p = 0.0
        norm = next(
            module
            for name, module in decoder.language_model.named_modules()
            if name.endswith(("ln_1", "input_layernorm"))
        )
        reads.append(0)
        norm.register_forward_hook(lambda *_: reads.append(reads.pop() + 1))
        loss = decoder.train()(**batch()).nll.sum()
        loss.backward()
        names = [name for name in trained_names(decoder) if name != "null_codes"]
        results.append([loss.detach(), *(decoder.get_parameter(name).grad for name in names)])
    assert reads == [1, 2]  # Read again on the way back.
    for without, with_checkpoints in zip(*results, strict=True):
        torch.testing.assert_close(with_checkpoints, without, **CLOSE)


@pytest.mark.parametrize("tuning", ["full", "lora", "frozen"])
@pytest.mark.parametrize("family", FAMILIES)
def test_only_what_should_train_moves(folders, family, tuning):
    decoder, text = build(folders, family, gate=0.7, tuning=tuning).train(), batch()
    before = {name: value.clone() for name, value in decoder.state_dict().items()}
    optimizer = torch.optim.AdamW([parameter for parameter in decoder.parameters() if parameter.requires_grad], lr=1e-2)
    decoder(**text, null=torch.tensor([True, False, False, False])).nll.sum().backward()
    optimizer.step()
    moved = {name for name, value in decoder.state_dict(keep_vars=True).items() if not torch.equal(value, before[name])}
    own = {"to_prefix.weight", "to_prefix.bias", "null_codes", "prefix_gate"}
    own |= {name for name in trained_names(decoder) if name.startswith("side_reader.")}
    inside = {name for name in before if name.startswith("language_model.")}
    expected = {"full": inside, "lora": {name for name in inside if "lora_" in name}, "frozen": set()}[tuning]
    assert set(trained_names(decoder)) | ({"language_model.lm_head.weight"} & expected) == own | expected
    assert moved == own | {name for name in expected if tuning == "full" or "lora_B" in name} | (moved & expected)
    assert tuning != "frozen" or torch.equal(decoder(**text).nll, decoder(**text).nll)  # GPT-2's dropout sleeps.


@pytest.mark.parametrize(
    ("family", "targets"),
    [("gpt2", {"attn.c_attn", "attn.c_proj"}), ("llama", {f"self_attn.{name}_proj" for name in "qkvo"})],
)
def test_a_lora_alone_is_what_peft_loads(folders, tmp_path, family, targets):
    decoder, text = build(folders, family, tuning="lora", lora_rank=2), batch()
    assert decoder.language_model.peft_config["default"].target_modules == targets
    with torch.no_grad():
        for name in trained_names(decoder):
            if "lora_" in name:
                decoder.get_parameter(name).normal_()
    decoder.save_lora(tmp_path / "lora")
    files = {path.name for path in (tmp_path / "lora").iterdir()}
    assert files - {"generation_config.json"} == {"adapter_config.json", "adapter_model.safetensors"}
    plain = AutoModelForCausalLM.from_pretrained(folders[family])
    unchanged = plain(input_ids=text["input_ids"]).logits
    loaded = PeftModel.from_pretrained(plain, tmp_path / "lora").eval()
    logits = loaded(input_ids=text["input_ids"], attention_mask=text["text_mask"].long()).logits
    torch.testing.assert_close(
        decoder.logits(**text)[text["text_mask"]], logits[text["text_mask"]], atol=1e-4, rtol=1e-4
    )
    assert differ(logits, unchanged)
    with pytest.raises(UserError, match="no LoRA to save"):
        build(folders, family).save_lora(tmp_path)


@pytest.mark.parametrize(
    ("tokens", "expected"), [({"eos_token": "<e>"}, (2, 2, 2)), ({"bos_token": "<b>", "eos_token": "<e>"}, (2, 1, 2))]
)
def test_special_ids_come_from_the_tokenizer(folders, tmp_path, tokens, expected):
    words = Tokenizer(WordLevel({"a": 0, "<b>": 1, "<e>": 2}, unk_token="a"))
    PreTrainedTokenizerFast(tokenizer_object=words, **tokens).save_pretrained(tmp_path)
    AutoModelForCausalLM.from_pretrained(folders["llama"]).save_pretrained(tmp_path)
    decoder = TextDecoder(TextDecoderConfig(source=str(tmp_path), max_length=LENGTH), 3, SLOTS, CODE_DIM)
    assert decoder.special_ids == expected == (decoder.pad_id, decoder.bos_id, decoder.eos_id)
    PreTrainedTokenizerFast(tokenizer_object=words).save_pretrained(tmp_path)
    with pytest.raises(UserError, match="no token for the end of a text"):
        TextDecoder(TextDecoderConfig(source=str(tmp_path), max_length=LENGTH), 3, SLOTS, CODE_DIM)


def test_what_cannot_be_a_text_decoder_is_said_in_one_sentence(folders, tmp_path):
    ViTModel(ViTConfig(hidden_size=8, num_hidden_layers=1, num_attention_heads=1, intermediate_size=8)).save_pretrained(
        tmp_path / "vit"
    )
    (tmp_path / "pickled").mkdir()
    plain = AutoModelForCausalLM.from_pretrained(folders["gpt2"])
    plain.config.save_pretrained(tmp_path / "pickled")
    torch.save(plain.state_dict(), tmp_path / "pickled" / "pytorch_model.bin")

    def decoder(source, vocab_size=VOCABULARY, max_length=LENGTH, **settings):
        return TextDecoder(
            TextDecoderConfig(source=str(source), max_length=max_length, **settings),
            vocab_size,
            2,
            4,
            (0, 1, 2),
            PretrainedSource(str(source), "text_decoder.source", offline=True),
        )

    for source in (tmp_path / "missing", tmp_path / "vit", tmp_path / "pickled"):
        with pytest.raises(UserError, match=f"text_decoder.source: .*{source.name}"):
            decoder(source)
    with pytest.raises(UserError, match=r"the vocabulary of .* is 40 tokens, 41 are needed"):
        decoder(folders["gpt2"], vocab_size=41)
    with pytest.raises(UserError, match=r"the longest text of .* is 16 tokens, 17 are needed"):
        decoder(folders["gpt2"], max_length=17)
    for setting in ({"tuning": "half"}, {"prefix": "suffix"}, {"lora_rank": 0}):
        with pytest.raises(UserError, match=f"text_decoder.{next(iter(setting))} must be"):
            TextDecoderConfig(**setting)


def test_random_weights_have_the_shape_of_the_loaded_ones(folders):
    config = TextDecoderConfig(source=folders["gpt2"], max_length=LENGTH, plan_dim=16)
    decoder = TextDecoder(
        config, VOCABULARY, SLOTS, CODE_DIM, (0, 0, 0), PretrainedSource(folders["gpt2"], "the part", random=True)
    )
    loaded = build(folders)
    shapes = [{name: value.shape for name, value in model.state_dict().items()} for model in (decoder, loaded)]
    assert shapes[0] == shapes[1]
    weights = [model.language_model.get_input_embeddings().weight for model in (decoder, loaded)]
    assert differ(*weights)


def test_from_scratch_nothing_has_a_new_name():
    decoder = TextDecoder(TextDecoderConfig(dim=16, num_layers=1, num_heads=1), 30, SLOTS, CODE_DIM, (0, 1, 2))
    own = {name for name in decoder.state_dict() if not name.startswith("language_model.")}
    assert (
        own == {"to_prefix.weight", "to_prefix.bias", "null_codes"}
        and decoder.language_model.config._attn_implementation == "sdpa"
    )
