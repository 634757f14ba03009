"""The preset of real words (SmolLM2, MiniLM): the worked example of modules/training/README.md from folder to book."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
import torch
from peft import PeftModel
from torch import Tensor
from transformers import AutoModelForCausalLM

from modules.generation.pipeline import StoryPipeline
from modules.presets import SMOLLM2
from modules.pretrained.source import PretrainedSource
from modules.text_decoder.config import TextDecoderConfig
from modules.text_decoder.text_decoder import TextDecoder
from tests.support import commands, downloads
from tests.support.real_words import needs_real_words
from tests.support.story_folders import picture
from tests.support.tensors import CLOSE

TALES = (
    ("The hare and the drum", "Hare found a drum under the old tree.", "All night long he played it by the river."),
    ("Nomsa's red boots", "Nomsa wanted red boots for the rainy days.", "Her aunt sewed her a pair from an old coat."),
    ("A goat in the school", "A goat walked into the classroom.", "It ate the teacher's hat, and everyone laughed."),
    ("The quiet lake", "Every morning Juma rowed across the lake.", "One day a fish jumped into his little boat."),
)


@pytest.fixture(scope="module")
def source() -> PretrainedSource:
    return PretrainedSource(SMOLLM2, "text_decoder.source", offline=True)


def padded_texts(source: PretrainedSource) -> tuple[Tensor, Tensor]:
    """Return real sentences of several lengths, with <bos> first, as input_ids and text_mask (N,L)."""
    tokenizer = source.tokenizer
    texts = [(tokenizer.bos_token or tokenizer.eos_token) + page for _, *pages in TALES for page in pages]
    batch = tokenizer(texts, padding=True, padding_side="right", return_tensors="pt")
    return batch["input_ids"], batch["attention_mask"].bool()


@needs_real_words
def test_it_begins_as_the_plain_language_model(source):
    """Logits and perplexity at the first update are those of transformers, whatever the codes are."""
    ids, mask = padded_texts(source)
    special = (source.tokenizer.bos_token_id or 0, source.tokenizer.eos_token_id, source.tokenizer.eos_token_id)
    config = TextDecoderConfig(source=SMOLLM2, tuning="lora", prefix="key_values")
    decoder = TextDecoder(config, len(source.tokenizer), num_slots=8, code_dim=32, special_ids=special).eval()
    plain = source.load(AutoModelForCausalLM)
    codes = torch.randn(len(ids), 8, 32)
    with torch.no_grad():
        expected = plain(input_ids=ids, attention_mask=mask.long())
        torch.testing.assert_close(decoder.logits(codes, ids, mask)[mask], expected.logits[mask], **CLOSE)
        out = decoder(codes, ids, mask)
        loss = plain(input_ids=ids, attention_mask=mask.long(), labels=ids.masked_fill(~mask, -100)).loss
    torch.testing.assert_close(out.nll.sum() / out.mask.sum(), loss, **CLOSE)


@pytest.fixture(scope="module")
def books(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a model trained for a moment on four books of one's own."""
    folder = tmp_path_factory.mktemp("books")
    for number, (title, *pages) in enumerate(TALES):
        book = folder / "my_pictures" / title
        book.mkdir(parents=True)
        for page, text in enumerate(pages):
            picture((60 * number, 90 * page, 40), (160, 120)).save(book / f"{page}.png")
            (book / f"{page}.txt").write_text(text)
    data = folder / "my_stories"
    assert downloads.run("folder", folder / "my_pictures", "--output", data) == 0
    assert downloads.run("validate", data) == 0
    minutes = ["--max_minutes", 0.2, "--mixed_precision", "auto", "--batch_size", 2]
    out = folder / "checkpoints"
    assert commands.run("train", "--preset", "picturebooks", "--data", data, *minutes, "--output_dir", out) == 0
    return folder


@needs_real_words
def test_the_worked_example_tells_a_book(books):
    command = ["generate", "--ckpt", books / "checkpoints", "--prompt", "The hare and the drum"]
    command += ["--temperature", "1", "--plan_guidance_scale", "3"]
    assert commands.run(*command, "--num_steps", 2, "--output", books / "out") == 0
    story = json.loads((books / "out" / "story.json").read_text())
    assert (books / "out" / "book.html").exists()
    texts = [step["text"] for step in story["steps"]]
    assert len(texts) == 2 and all(re.search(r"[A-Za-z]{3,}", text) for text in texts)


@needs_real_words
def test_only_the_lora_moved_and_peft_reads_it(books, source, tmp_path):
    pipeline = StoryPipeline.from_pretrained(books / "checkpoints", offline=True)
    decoder = pipeline.model.text_decoder.float()
    (folder,) = pipeline.save_lora(tmp_path)
    language_model = source.load(AutoModelForCausalLM)
    ids, mask = padded_texts(source)
    with torch.no_grad():
        plain = language_model(input_ids=ids, attention_mask=mask.long()).logits
        tuned = PeftModel.from_pretrained(language_model, folder).eval()
        decoder.prefix_gate.zero_()
        for parameter in decoder.side_reader.to_hidden.parameters():
            parameter.zero_()
        ours = decoder.logits(torch.zeros(len(ids), 8, decoder.to_prefix.in_features), ids, mask)
        theirs = tuned(input_ids=ids, attention_mask=mask.long()).logits
    torch.testing.assert_close(ours[mask], theirs[mask], atol=2e-3, rtol=2e-3)
    assert (theirs - plain)[mask].abs().max() > 0.01
