"""Image encoders: they see what their own processors would show them, and only what should train moves."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import torch
from PIL import Image
from torch import Tensor, nn
from transformers import CLIPVisionModel, ResNetModel, SiglipVisionModel, ViTModel
from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil

from modules.common.errors import UserError
from modules.config import config_from_dict
from modules.pretrained.source import PretrainedSource
from modules.storyboard.config import ImageEncoderConfig, ScratchImageEncoderConfig
from modules.storyboard.image_encoders import PretrainedImageEncoder, ScratchImageEncoder
from tests.support import hub_folders
from tests.support.tensors import CLOSE, differ, generator
from tests.support.tiny_presets import write_hub

KINDS = {"resnet": ResNetModel, "vit": ViTModel, "clip": CLIPVisionModel, "siglip": SiglipVisionModel}
TRANSFORMERS = ("vit", "clip", "siglip")
SCRATCH = ScratchImageEncoderConfig(dim=32, num_layers=2, num_heads=2, image_size=32, stem_channels=(8, 16))


@pytest.fixture(scope="module")
def hub(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("hub")
    for name in (*KINDS, "bert"):
        getattr(hub_folders, f"write_{name}")(root / name)
    return root


@pytest.fixture
def pixels() -> Tensor:
    """(3,3,48,48) in [-1,1]."""
    return torch.rand(3, 3, 48, 48, generator=generator()) * 2 - 1


def encoder(hub: Path, name: str, trainable_layers: int = 0, **changes: bool) -> PretrainedImageEncoder:
    return PretrainedImageEncoder(ImageEncoderConfig(str(hub / name), trainable_layers, **changes))


@contextmanager
def inputs_of(module: nn.Module) -> Iterator[list[Tensor]]:
    seen: list[Tensor] = []
    handle = module.register_forward_pre_hook(
        lambda _, args, kwargs: seen.append(args[0] if args else kwargs["pixel_values"]), with_kwargs=True
    )
    yield seen
    handle.remove()


def gradients(module: nn.Module, pixels: Tensor) -> dict[str, Tensor | None]:
    module.zero_grad()
    module(pixels).square().mean().backward()
    return {name: parameter.grad for name, parameter in module.named_parameters()}


def test_tiny_models_have_the_same_weights_every_time(tmp_path):
    """Whatever was drawn before: otherwise a test depends on the tests that ran before it."""
    files = []
    for seed in range(2):
        torch.manual_seed(seed)
        folder = write_hub(tmp_path / str(seed))
        files.append({path.relative_to(folder): path.read_bytes() for path in folder.rglob("*.safetensors")})
    assert len(files[0]) == 12 and files[0] == files[1]


@pytest.mark.parametrize("name", KINDS)
def test_it_gives_the_whole_token_sequence_of_the_plain_model(name, hub, pixels):
    model, plain = encoder(hub, name), KINDS[name].from_pretrained(hub / name)
    with inputs_of(model.model) as seen:
        tokens = model(pixels)
    expected = plain(seen[0]).last_hidden_state
    assert torch.allclose(tokens, expected.flatten(2).transpose(1, 2) if expected.ndim == 4 else expected, **CLOSE)
    assert tokens.shape == (3, model.num_tokens, model.width)


def test_pictures_are_preprocessed_as_by_the_processor(hub):
    shades = torch.rand(1, 3, 12, 12, generator=generator(1))
    picture = nn.functional.interpolate(shades, size=(96, 96), mode="bilinear").mul(255).byte()
    processor = CLIPImageProcessorPil.from_pretrained(hub / "clip")
    expected = processor(Image.fromarray(picture[0].permute(1, 2, 0).numpy()), return_tensors="pt").pixel_values
    model = encoder(hub, "clip")
    with inputs_of(model.model) as seen:
        model(picture / 127.5 - 1)
    assert (seen[0] - expected).abs().max() < 1.01 / 255 / min(
        processor.image_std
    )  # The processor rounds to bytes in between.


@pytest.mark.parametrize("name", KINDS)
def test_without_a_preprocessor_the_kind_decides(name, hub, pixels):
    stated = encoder(hub, name)
    file = hub / name / "preprocessor_config.json"
    text = file.read_text()
    file.unlink()
    plain = encoder(hub, name)
    file.write_text(text)
    assert torch.allclose(plain.scale, stated.scale) and torch.allclose(plain.shift, stated.shift)
    assert plain.image_size == (224 if name == "resnet" else stated.image_size)


@pytest.mark.parametrize("size", [32, 48, 120])
def test_any_size_of_picture_gives_the_same_tokens(size, hub):
    flat = torch.full((1, 3, size, size), 0.25)
    assert torch.allclose(encoder(hub, "vit")(flat), encoder(hub, "vit")(torch.full((1, 3, 32, 32), 0.25)), **CLOSE)


@pytest.mark.parametrize(
    ("source", "tokens", "width"),
    [
        ("openai/clip-vit-large-patch14", 257, 1024),
        ("google/vit-base-patch16-224", 197, 768),
        ("google/siglip-base-patch16-224", 196, 768),
        ("microsoft/resnet-50", 49, 2048),
    ],
)
def test_the_full_sizes_by_their_ids(source, tokens, width):
    with torch.device("meta"):
        model = PretrainedImageEncoder(
            ImageEncoderConfig(source), PretrainedSource(source, "the part", offline=True, random=True)
        )
        assert model(torch.zeros(2, 3, 256, 256)).shape == (2, tokens, width)
    assert (model.num_tokens, model.width) == (tokens, width)


@pytest.mark.parametrize("name", KINDS)
def test_frozen_it_never_changes(name, hub, pixels):
    model = encoder(hub, name)
    before = {key: value.clone() for key, value in model.state_dict().items()}
    expected = model.eval()(pixels)
    tokens = model.train()(pixels)
    assert torch.equal(tokens, expected) and not tokens.requires_grad
    assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items())
    assert not any(parameter.requires_grad for parameter in model.parameters())
    assert model.training and not any(module.training for module in model.model.modules())


@pytest.mark.parametrize("name", KINDS)
@pytest.mark.parametrize("layers", [1, 2, -1])
def test_what_trains_gets_gradients_and_nothing_else_does(name, layers, hub, pixels):
    model = encoder(hub, name, layers).train()
    trains = {id(parameter) for module in model.trained for parameter in module.parameters()}
    found = gradients(model, pixels)
    for key, parameter in model.named_parameters():
        assert parameter.requires_grad == (found[key] is not None), key
        assert not parameter.requires_grad or id(parameter) in trains
    if layers > 0:
        names = [key for key, gradient in found.items() if gradient is not None]
        last = 4 if name == "resnet" else 3
        numbers = {int(next(part for part in key.split(".") if part.isdigit())) for key in names}
        assert numbers == set(range(last - layers, last))


@pytest.mark.parametrize("name", KINDS)
def test_frozen_layers_have_no_graph_and_no_dropout(name, hub, pixels):
    model = encoder(hub, name, 1).train()
    with inputs_of(model.trained[0]) as seen:
        outputs = [model(pixels) for _ in range(2)]
    assert not seen[0].requires_grad and torch.equal(seen[0], seen[1])
    assert differ(*outputs) == (name == "vit")  # Which alone has dropout, in the layer that trains as well.
    model.eval()
    assert torch.equal(model(pixels), model(pixels))


@pytest.mark.parametrize(("layers", "move"), [(1, False), (-1, True)])
def test_statistics_of_batchnorm_move_only_when_all_trains(layers, move, hub, pixels):
    model = encoder(hub, "resnet", layers).train()
    before = {key: value.clone() for key, value in model.named_buffers()}
    model(pixels)
    after = dict(model.named_buffers())
    assert any(not torch.equal(after[key], value) for key, value in before.items()) == move


@pytest.mark.parametrize("name", TRANSFORMERS)
def test_checkpointing_recomputes_to_the_same_gradients(name, hub, pixels):
    found = []
    for checkpointing in (False, True):
        model = encoder(hub, name, 2, gradient_checkpointing=checkpointing).train()
        torch.manual_seed(0)
        with inputs_of(model.trained[0].mlp) as seen:
            found.append(gradients(model, pixels))
        assert len(seen) == 1 + checkpointing
    for key, gradient in found[0].items():
        assert gradient is None or torch.allclose(gradient, found[1][key], **CLOSE)


def test_what_cannot_be_is_refused(hub):
    with pytest.raises(
        UserError,
        match="storyboard.image_encoder: trainable_layers must be from 0 to 3, the number of layers, or -1 .* got 4",
    ):
        encoder(hub, "vit", 4)
    with pytest.raises(UserError, match="storyboard.image_encoder: a resnet has no gradient checkpointing"):
        encoder(hub, "resnet", 1, gradient_checkpointing=True)
    with pytest.raises(
        UserError, match="storyboard.image_encoder.source: .*bert contains bert, expected a ResNet, ViT, CLIP or SigLIP"
    ):
        encoder(hub, "bert")


@pytest.mark.parametrize("config", [ImageEncoderConfig("folder", -1), SCRATCH])
def test_configs_are_read_from_json(config):
    values = {
        name: list(value) if isinstance(value, tuple) else value for name, value in dataclasses.asdict(config).items()
    }
    assert config_from_dict(type(config), values, "config.json") == config


def test_from_scratch_tokens_see_their_own_picture_only(pixels):
    torch.manual_seed(0)
    model = ScratchImageEncoder(SCRATCH).train()
    tokens = model(pixels)
    assert tokens.shape == (3, model.num_tokens, model.width) == (3, 16, 32)
    assert torch.allclose(model(pixels[1:2]), tokens[1:2], **CLOSE)
    marked = pixels.clone()
    marked[1, :, :8, :8] = 1
    changed = (model(marked) - tokens).abs().amax(-1)
    assert (changed[1] > 1e-4).all() and changed[[0, 2]].max() < 1e-5


def test_from_scratch_checkpointing_keeps_gradients(pixels):
    torch.manual_seed(0)
    plain = ScratchImageEncoder(SCRATCH).train()
    checkpointed = ScratchImageEncoder(dataclasses.replace(SCRATCH, gradient_checkpointing=True)).train()
    checkpointed.load_state_dict(plain.state_dict())
    with inputs_of(checkpointed.transformer.blocks[0].feed_forward) as seen:
        found = gradients(checkpointed, pixels)
    assert len(seen) == 2
    assert all(torch.allclose(gradient, found[key], **CLOSE) for key, gradient in gradients(plain, pixels).items())


def test_from_scratch_the_picture_must_fit_the_tokens():
    with pytest.raises(ValueError, match="image_size 30 is not a multiple of 8"):
        ScratchImageEncoder(dataclasses.replace(SCRATCH, image_size=30))
