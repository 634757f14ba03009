"""Pretrained parts load as by their libraries, in the published sizes; every failure is reported in one line."""

from __future__ import annotations

import builtins
import io
import pickle
import re
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from diffusers import AutoencoderKL, DDIMScheduler, UNet2DConditionModel
from huggingface_hub import constants
from safetensors.torch import load_file, save_file
from torch import nn
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    AutoModelForTextEncoding,
    BertModel,
    CLIPModel,
    CLIPTextModel,
    CLIPVisionModel,
    GPT2LMHeadModel,
    LlamaForCausalLM,
    PreTrainedTokenizerBase,
    ResNetModel,
    SiglipVisionModel,
    ViTModel,
)

from modules.common.errors import UserError
from modules.pretrained.source import PretrainedSource
from tests.support import hub_folders

STABLE_DIFFUSION = "stable-diffusion-v1-5/stable-diffusion-v1-5"


@pytest.fixture(scope="module")
def hub(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folders as the Hub has them."""
    root = tmp_path_factory.mktemp("hub")
    for name in ("gpt2", "llama", "bert", "vit", "clip", "siglip", "stable_diffusion"):
        getattr(hub_folders, f"write_{name}")(root / name)
    return root


@pytest.fixture
def copied(hub: Path, tmp_path: Path) -> Callable[[str], Path]:
    """A copy of one of the folders, to be broken."""
    return lambda name: Path(shutil.copytree(hub / name, tmp_path / name))


def load(model_class: type, source: Path | str, **options: object) -> nn.Module:
    chosen = {name: options.pop(name) for name in ("offline", "random", "subfolder") if name in options}
    return PretrainedSource(str(source), "the part", **chosen).load(model_class, **options)


def load_tokenizer(source: Path | str, subfolder: str = "") -> PreTrainedTokenizerBase:
    return PretrainedSource(str(source), "the part", subfolder=subfolder).tokenizer


def same_weights(first: nn.Module, second: nn.Module) -> bool:
    weights, others = first.state_dict(), second.state_dict()
    return weights.keys() == others.keys() and all(torch.equal(value, others[name]) for name, value in weights.items())


PARTS = [
    (GPT2LMHeadModel, GPT2LMHeadModel, "gpt2", ""),
    (AutoModelForCausalLM, GPT2LMHeadModel, "gpt2", ""),
    (AutoModelForCausalLM, LlamaForCausalLM, "llama", ""),
    (BertModel, BertModel, "bert", ""),
    (AutoModelForTextEncoding, CLIPTextModel, "stable_diffusion", "text_encoder"),
    (UNet2DConditionModel, UNet2DConditionModel, "stable_diffusion", "unet"),
    (AutoencoderKL, AutoencoderKL, "stable_diffusion", "vae"),
]


@pytest.mark.parametrize(("asked", "plain", "name", "subfolder"), PARTS)
def test_a_folder_loads_as_the_library_loads_it(asked, plain, name, subfolder, hub):
    model = load(asked, hub / name, subfolder=subfolder)
    assert type(model) is plain and not model.training
    assert same_weights(model, plain.from_pretrained(hub / name / subfolder))


def test_a_vision_model_is_found_inside_a_clip(hub):
    whole, model = CLIPModel.from_pretrained(hub / "clip"), load(CLIPVisionModel, hub / "clip")
    pixels = torch.randn(1, 3, 32, 32)
    assert torch.equal(model(pixels).last_hidden_state, whole.vision_model(pixels).last_hidden_state)


def test_weights_in_shards_load_the_same(hub, copied):
    folder = copied("gpt2")
    (folder / "model.safetensors").unlink()
    GPT2LMHeadModel.from_pretrained(hub / "gpt2").save_pretrained(folder, max_shard_size="50KB")
    assert same_weights(load(GPT2LMHeadModel, folder), GPT2LMHeadModel.from_pretrained(hub / "gpt2"))
    next(folder.glob("model-00001-*")).unlink()
    with pytest.raises(UserError, match=r"the part: the folder .* contains no model-00001-of-.*\.safetensors"):
        load(GPT2LMHeadModel, folder)


@pytest.mark.parametrize(("asked", "_plain", "name", "subfolder"), PARTS)
def test_random_weights_need_the_config_alone(asked, _plain, name, subfolder, hub, tmp_path):
    shutil.copytree(hub / name, tmp_path / name, ignore=shutil.ignore_patterns("*.safetensors"))
    model, pretrained = (
        load(asked, tmp_path / name, subfolder=subfolder, random=True),
        load(asked, hub / name, subfolder=subfolder),
    )
    shapes = {key: value.shape for key, value in pretrained.state_dict().items()}
    assert {key: value.shape for key, value in model.state_dict().items()} == shapes
    assert not model.training and not same_weights(model, pretrained)


def test_the_dtype_is_float32_unless_asked_for(hub, copied):
    folder = copied("gpt2")
    GPT2LMHeadModel.from_pretrained(folder).bfloat16().save_pretrained(folder)
    for random in (False, True):
        assert load(GPT2LMHeadModel, folder, random=random).dtype == torch.float32
        unet = load(
            UNet2DConditionModel, hub / "stable_diffusion", subfolder="unet", random=random, dtype=torch.bfloat16
        )
        assert unet.dtype == torch.bfloat16


PUBLISHED = [
    (GPT2LMHeadModel, "gpt2", "", 124_439_808),
    (GPT2LMHeadModel, "gpt2-xl", "", 1_557_611_200),
    (AutoModelForCausalLM, "TinyLlama/TinyLlama-1.1B-Chat-v1.0", "", 1_100_048_384),
    (BertModel, "bert-base-uncased", "", 109_482_240),
    (CLIPVisionModel, "openai/clip-vit-large-patch14", "", 303_179_776),
    (ViTModel, "google/vit-base-patch16-224", "", 86_389_248),
    (SiglipVisionModel, "google/siglip-base-patch16-224", "", 92_884_224),
    (ResNetModel, "microsoft/resnet-50", "", 23_508_032),
    (UNet2DConditionModel, "runwayml/stable-diffusion-v1-5", "unet", 859_520_964),
    (AutoencoderKL, STABLE_DIFFUSION, "vae", 83_653_863),
    (CLIPTextModel, STABLE_DIFFUSION, "text_encoder", 123_060_480),
]


@pytest.mark.parametrize(("model_class", "source", "subfolder", "count"), PUBLISHED)
def test_the_published_sizes_without_a_hub(model_class, source, subfolder, count, monkeypatch, tmp_path):
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    with torch.device("meta"):
        model = load(model_class, source, subfolder=subfolder, random=True, offline=True)
    assert sum(parameter.numel() for parameter in model.parameters()) == count


def test_a_scheduler_is_built_from_its_config(hub):
    for source in (str(hub / "stable_diffusion"), STABLE_DIFFUSION):
        settings = PretrainedSource(source, "the scheduler", offline=True).part("scheduler").schedule
        scheduler = DDIMScheduler.from_config(settings)
        assert scheduler.config.beta_schedule == "scaled_linear" and scheduler.config.steps_offset == 1


@pytest.mark.parametrize(
    ("name", "subfolder"), [("gpt2", ""), ("llama", ""), ("bert", ""), ("stable_diffusion", "tokenizer")]
)
def test_tokenizers_read_and_write(name, subfolder, hub):
    tokenizer = load_tokenizer(hub / name, subfolder)
    text = "rusty the fox"
    assert tokenizer.decode(tokenizer(text).input_ids, skip_special_tokens=True) == text


def test_a_tokenizer_older_than_tokenizer_json_loads(hub, copied):
    folder = copied("bert")
    vocabulary = load_tokenizer(folder).get_vocab()
    (folder / "tokenizer.json").unlink()
    (folder / "vocab.txt").write_text("\n".join(sorted(vocabulary, key=vocabulary.get)))
    old, new = (load_tokenizer(source) for source in (folder, hub / "bert"))
    assert old("Rusty the fox").input_ids == new("Rusty the fox").input_ids


WRONG_KINDS = [
    (GPT2LMHeadModel, "bert", "", "contains bert, expected gpt2"),
    (AutoModelForCausalLM, "bert", "", "contains bert, expected a causal"),
    (AutoModelForTextEncoding, "vit", "", "contains vit, .* a text encoder"),
    (CLIPVisionModel, "gpt2", "", "contains gpt2, expected clip"),
    (CLIPVisionModel, "siglip", "", "contains siglip, expected clip"),
    (BertModel, "stable_diffusion", "unet", "contains UNet2D.*expected bert"),
    (AutoencoderKL, "stable_diffusion", "unet", "contains UNet2D.*expected AutoencoderKL"),
    (UNet2DConditionModel, "gpt2", "", "contains gpt2"),
]


@pytest.mark.parametrize(("model_class", "name", "subfolder", "said"), WRONG_KINDS)
@pytest.mark.parametrize("random", [False, True])
def test_a_folder_of_the_wrong_kind_is_refused(model_class, name, subfolder, said, random, hub):
    with pytest.raises(UserError, match=f"the part: .*{said}"):
        load(model_class, hub / name, subfolder=subfolder, random=random)


@pytest.mark.parametrize("source", ["/no/such/folder", "./no/such", "~/no-such-folder", "a/b/c", "", "a\\b"])
def test_a_folder_that_is_not_there_is_named(source):
    with pytest.raises(UserError, match=re.escape(f"there is no folder {source!r}")):
        load(GPT2LMHeadModel, source)


def test_a_file_and_an_impossible_id_are_refused(hub):
    with pytest.raises(UserError, match=r"model\.safetensors is a file"):
        load(GPT2LMHeadModel, hub / "gpt2" / "model.safetensors")
    with pytest.raises(UserError, match="'gpt 2' is neither a folder nor a Hub id"):
        load(GPT2LMHeadModel, "gpt 2")


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def drop_a_weight(path: Path) -> None:
    weights = load_file(path)
    save_file({name: weights[name] for name in sorted(weights)[1:]}, path, metadata={"format": "pt"})


def reshape_a_weight(path: Path) -> None:
    weights = load_file(path)
    name = max(weights, key=lambda name: weights[name].ndim)
    save_file({**weights, name: weights[name][1:].clone()}, path, metadata={"format": "pt"})


BREAKAGES = [
    (Path.unlink, r"contains no \S*model\.safetensors"),
    (cut, "cannot be read"),
    (drop_a_weight, "lack"),
    (reshape_a_weight, "cannot be"),
]


@pytest.mark.parametrize(("breakage", "said"), BREAKAGES)
@pytest.mark.parametrize(
    ("model_class", "name", "file"),
    [
        (GPT2LMHeadModel, "gpt2", "model.safetensors"),
        (UNet2DConditionModel, "stable_diffusion", "unet/diffusion_pytorch_model.safetensors"),
    ],
)
def test_broken_weights_are_told(breakage, said, model_class, name, file, copied):
    folder = copied(name)
    breakage(folder / file)
    with pytest.raises(UserError, match=f"the part: .*{said}"):
        load(model_class, folder, subfolder=str(Path(file).parent).strip("."))


class Bomb:
    def __reduce__(self):
        return Path.touch, (Path("exploded"),)


def test_pickles_are_never_opened(copied, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    folder = copied("gpt2")
    (folder / "model.safetensors").unlink()
    (folder / "pytorch_model.bin").write_bytes(pickle.dumps(Bomb()))
    with pytest.raises(
        UserError, match=r"the part: .* has its weights only in pytorch_model\.bin, a pickle.* model\.safetensors"
    ):
        load(GPT2LMHeadModel, folder)
    assert not Path("exploded").exists()


@pytest.mark.parametrize(
    "content", ["{", "[1]", '{"model_type": "gpt2", "n_embd": "wide"}', '{"model_type": "nosuch"}', "{}"]
)
def test_a_broken_config_is_told(content, copied):
    folder = copied("gpt2")
    (folder / "config.json").write_text(content)
    with pytest.raises(UserError, match=r"the part: \S*gpt2|the part: the (config|model) in \S*gpt2"):
        load(AutoModelForCausalLM, folder)


def test_tokenizers_that_are_absent_or_broken_are_told(hub, copied):
    with pytest.raises(UserError, match=r"contains no tokenizer\.json"):
        load_tokenizer(hub / "vit")
    folder = copied("gpt2")
    cut(folder / "tokenizer.json")
    with pytest.raises(UserError, match=r"the tokenizer in .* cannot be read"):
        load_tokenizer(folder)


def test_files_of_a_source_are_read_once(hub, monkeypatch):
    opened: list[str] = []
    plain = io.open

    def counting(file, *args, **kwargs):
        opened.append(str(file))
        return plain(file, *args, **kwargs)

    for owner in (builtins, io):
        monkeypatch.setattr(owner, "open", counting)
    source = PretrainedSource(str(hub / "gpt2"), "the part")
    assert source.config_for(AutoModelForCausalLM).vocab_size == source.config.vocab_size
    assert source.load(AutoModelForCausalLM).config.vocab_size == source.config.vocab_size
    assert source.tokenizer is source.tokenizer and source.config is source.config
    assert source.config.to_dict() == AutoConfig.from_pretrained(hub / "gpt2").to_dict()
    monkeypatch.undo()
    assert sum(name == str(hub / "gpt2" / "config.json") for name in opened) <= 3  # Ours, the tokenizer's, the test's.
    assert sum(name == str(hub / "gpt2" / "tokenizer.json") for name in opened) <= 1
