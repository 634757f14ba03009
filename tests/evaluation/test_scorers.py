"""Scorers of pictures and texts: a real CLIP at tiny size, and known answers with a scorer of colours."""

from __future__ import annotations

import json
import math
import shutil
from collections.abc import Sequence
from pathlib import Path

import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file
from tokenizers.pre_tokenizers import ByteLevel
from torch import Tensor
from transformers import CLIPConfig, CLIPImageProcessorPil, CLIPModel, CLIPTokenizer

from modules.common.errors import UserError
from modules.evaluation.scorers import ClipScorer, clip_scores, match_scores, retrieval

TEXTS = ["A red fox.", "The fox sleeps on the hill, and the bear walks to the mill by the sea.", "", "Snow!"]
COLORS = {"red": (255, 0, 0), "green": (0, 255, 0), "blue": (0, 0, 255)}


class ColorScorer:
    """Sees the mean colour of a picture and the names of colours in a text."""

    name = "colours"

    def embed_images(self, images: Sequence[Image.Image]) -> Tensor:
        return self._unit([image.convert("RGB").resize((1, 1)).getpixel((0, 0)) for image in images])

    def embed_texts(self, texts: Sequence[str]) -> Tensor:
        return self._unit([torch.tensor([COLORS[word] for word in text.split()]).sum(0).tolist() for text in texts])

    def _unit(self, rows: list) -> Tensor:
        return torch.nn.functional.normalize(torch.tensor(rows, dtype=torch.float32), dim=1)


class BlindScorer:
    """To it all pictures and all texts are the same."""

    name = "blind"

    def embed_images(self, images: Sequence[Image.Image]) -> Tensor:
        return torch.eye(4)[[0] * len(images)]

    embed_texts = embed_images


def painted(*names: str) -> list[Image.Image]:
    return [Image.new("RGB", (4, 4), COLORS[name]) for name in names]


def noisy_pictures() -> list[Image.Image]:
    """Of several sizes and modes."""
    pixels = torch.randint(
        0, 256, (4, 40, 40, 4), dtype=torch.uint8, generator=torch.Generator().manual_seed(0)
    ).numpy()
    return [
        Image.fromarray(pixels[0, :32, :32, :3]),
        Image.fromarray(pixels[1]),
        Image.fromarray(pixels[2, ..., 0]),
        Image.fromarray(pixels[3, :, :20, :3]),
    ]


@pytest.fixture(scope="module")
def clip_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """CLIP's own classes with random weights, towers of one layer, and a tokenizer of single bytes."""
    folder, alphabet = tmp_path_factory.mktemp("clip"), sorted(ByteLevel.alphabet())
    tokens = [*alphabet, *(f"{letter}</w>" for letter in alphabet), "<|startoftext|>", "<|endoftext|>"]
    vocabulary = {token: index for index, token in enumerate(tokens)}
    (folder / "vocab.json").write_text(json.dumps(vocabulary))
    (folder / "merges.txt").write_text("#version: 0.2\n")
    tower = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
    start, end = len(tokens) - 2, len(tokens) - 1
    text = {
        "vocab_size": len(tokens),
        "max_position_embeddings": 24,
        "bos_token_id": start,
        "eos_token_id": end,
        "pad_token_id": end,
    }
    config = CLIPConfig(
        text_config=tower | text, vision_config=tower | {"image_size": 32, "patch_size": 8}, projection_dim=12
    )
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = CLIPModel(config)
        with torch.no_grad():  # Larger weights than at the start of training, so that what goes in shows.
            for parameter in model.parameters():
                parameter.mul_(4 if parameter.ndim > 1 else 1)
    model.save_pretrained(folder)
    CLIPImageProcessorPil(size={"shortest_edge": 32}, crop_size={"height": 32, "width": 32}).save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def clip(clip_folder: Path) -> ClipScorer:
    return ClipScorer.from_pretrained(clip_folder)


@pytest.fixture
def broken(clip_folder: Path, tmp_path: Path) -> Path:
    """A copy, to be broken."""
    return shutil.copytree(clip_folder, tmp_path / "broken")


# CLIP


def test_clip_scores_what_the_model_itself_says(clip: ClipScorer, clip_folder: Path):
    images = [image.convert("RGB") for image in noisy_pictures()]
    processor, tokenizer = (
        CLIPImageProcessorPil.from_pretrained(clip_folder),
        CLIPTokenizer.from_pretrained(clip_folder),
    )
    inputs = tokenizer(TEXTS, padding="max_length", truncation=True, max_length=24, return_tensors="pt")
    model = CLIPModel.from_pretrained(clip_folder).eval()
    with torch.no_grad():
        output = model(**inputs, pixel_values=processor(images=images, return_tensors="pt")["pixel_values"])
    cosines = output.logits_per_image / model.logit_scale.exp()
    assert (cosines.amax() - cosines.amin()) > 0.3
    torch.testing.assert_close(clip.embed_images(images) @ clip.embed_texts(TEXTS).T, cosines, atol=1e-5, rtol=0)
    torch.testing.assert_close(
        match_scores(clip, images, TEXTS), 100 * cosines.diagonal().clamp(min=0), atol=1e-3, rtol=0
    )


def test_embeddings_are_unit_vectors_for_any_batch_size(clip: ClipScorer, monkeypatch: pytest.MonkeyPatch):
    images, texts = noisy_pictures(), TEXTS
    together = clip.embed_images(images), clip.embed_texts(texts)
    for vectors in together:
        assert vectors.shape == (4, 12)
        torch.testing.assert_close(vectors.norm(dim=1), torch.ones(4))
        assert torch.pdist(vectors).min() > 0.05
    monkeypatch.setattr("modules.evaluation.scorers.IMAGE_BATCH", 1)
    monkeypatch.setattr("modules.evaluation.scorers.TEXT_BATCH", 1)
    torch.testing.assert_close(clip.embed_images(images[::-1]).flip(0), together[0], atol=1e-5, rtol=0)
    torch.testing.assert_close(clip.embed_texts(texts[::-1]).flip(0), together[1], atol=1e-5, rtol=0)
    assert clip.embed_images([]).shape == clip.embed_texts([]).shape == (0, 12)


def test_words_beyond_the_models_length_are_not_seen(clip: ClipScorer):
    same, other = clip.embed_texts(["x" * 60, "x" * 30 + "y" * 30]), clip.embed_texts(["x" * 20, "x" * 10 + "y" * 10])
    torch.testing.assert_close(same[0], same[1])
    assert not torch.allclose(other[0], other[1], atol=1e-3)


def test_transparent_pictures_lie_on_white(clip: ClipScorer):
    clear, white = Image.new("RGBA", (32, 32), (255, 0, 0, 0)), Image.new("RGB", (32, 32), "white")
    assert torch.equal(clip.embed_images([clear]), clip.embed_images([white]))


# What is no CLIP


def message_of(folder: str | Path) -> str:
    with pytest.raises(UserError) as error:
        ClipScorer.from_pretrained(folder, offline=True)
    message = str(error.value)
    assert str(folder) in message
    assert "\n" not in message
    return message


def test_a_missing_folder_and_an_unknown_name_are_told(tmp_path):
    assert message_of(tmp_path / "none").startswith("no folder ")
    assert message_of("./none").startswith("no folder ./none: give a folder with a CLIP model, or its name on the Hub")
    assert message_of("nobody/none-such").startswith(
        "cannot load CLIP from the Hub's nobody/none-such (there is no such folder here): "
    )


def test_a_folder_of_another_model_is_told(broken, tiny_checkpoint):
    values = json.loads((broken / "config.json").read_text())
    (broken / "config.json").write_text(json.dumps(values | {"model_type": "siglip"}))
    assert "its config.json is of a 'siglip' model, not of 'clip'" in message_of(broken)
    for content in ("[]", "{}"):
        (broken / "config.json").write_text(content)
        assert "no model's config.json" in message_of(broken)
    (broken / "config.json").write_text("{")
    assert "not a valid JSON file" in message_of(broken)
    assert "cannot load CLIP from the folder" in message_of(tiny_checkpoint)


def test_parts_that_are_not_the_models_are_told_not_made_up(broken):
    weights = load_file(broken / "model.safetensors")
    save_file(
        {name: value for name, value in weights.items() if "visual_projection" not in name},
        broken / "model.safetensors",
    )
    assert "1 of its weights are missing" in message_of(broken)
    save_file(weights, broken / "model.safetensors")
    (broken / "preprocessor_config.json").rename(broken / "preprocessor")
    assert "image processor" in message_of(broken)
    (broken / "preprocessor").rename(broken / "preprocessor_config.json")
    for name in ("vocab.json", "merges.txt"):
        (broken / name).unlink()
    assert "its tokenizer has 2 tokens, the model 514" in message_of(broken)


def test_broken_weights_are_told(broken):
    content = (broken / "model.safetensors").read_bytes()
    (broken / "model.safetensors").write_bytes(content[:1000])
    message_of(broken)
    (broken / "model.safetensors").unlink()
    assert "no file named model.safetensors" in message_of(broken)


# Estimates


def test_match_score_is_the_cosine_in_per_cent_from_zero():
    class Turned(ColorScorer):
        def embed_texts(self, texts: Sequence[str]) -> Tensor:
            return -super().embed_texts(texts)

    images, texts = painted("red", "red", "blue"), ["red", "red green", "red"]
    assert match_scores(ColorScorer(), images, texts).tolist() == pytest.approx([100, 100 * 0.5**0.5, 0])
    assert match_scores(Turned(), images, texts).tolist() == [0, 0, 0]


def test_clip_scores_have_floor_and_ceiling():
    true = ["red", "red", "red", "blue", "blue"]
    predicted = ["red", "red", "green", "green", "red green"]
    scores = clip_scores(
        ColorScorer(),
        painted("red", "red", "green", "green", "green"),
        predicted,
        true,
        [3, 2],
        true_images=painted(*true),
    )
    assert list(scores) == ["colours(pp)", "colours(pg)"]
    assert scores["colours(pp)"].value == pytest.approx(20 * (4 + 0.5**0.5))
    assert scores["colours(pg)"].value == pytest.approx(40)
    assert (scores["colours(pg)"].low, scores["colours(pg)"].high) == pytest.approx((0, 200 / 3))  # Either story twice.
    assert scores["colours(pg)"].floor == 0
    assert 0 < scores["colours(pp)"].floor < scores["colours(pp)"].value
    assert [figure.ceiling for figure in scores.values()] == pytest.approx([100, 100])
    assert clip_scores(ColorScorer(), painted(*true), predicted, true, [3, 2])["colours(pg)"].ceiling is None


def test_pairs_with_gaps_are_left_out():
    images = [*painted("red"), None, *painted("blue", "green", "green")]
    scores = clip_scores(ColorScorer(), images, ["red", "red", None, "red", "green"], [None] * 5, [2, 0, 3])
    assert scores["colours(pp)"].value == pytest.approx(200 / 3)
    assert scores["colours(pg)"].to_dict() == dict.fromkeys(("value", "low", "high", "floor", "ceiling"))
    figures = retrieval(ColorScorer(), images, ["red", "red", None, "blue", "green"], [2, 0, 3])
    assert figures["text to image R@1"].floor == pytest.approx(1 / 3)
    nothing = retrieval(ColorScorer(), [None, None], ["red", "green"], [1, 1])
    assert nothing["text to image R@1"].to_dict()["value"] is None


def test_one_story_has_no_floor():
    scores = clip_scores(ColorScorer(), painted("red", "blue"), ["red", "red"], ["red", "blue"], [2])
    assert [figure.floor for figure in scores.values()] == [None, None]
    assert scores["colours(pp)"].value == pytest.approx(50) and math.isnan(scores["colours(pp)"].low)


def test_retrieval_of_what_can_be_told_apart():
    names = ["red", "green", "blue"]
    figures = retrieval(ColorScorer(), painted(*names), names, [1, 1, 1])
    assert list(figures) == [f"{way} R@{rank}" for way in ("text to image", "image to text") for rank in (1, 5, 10)]
    assert {figure.value for figure in figures.values()} == {1}
    assert [figures[f"text to image R@{rank}"].floor for rank in (1, 5, 10)] == pytest.approx([1 / 3, 1, 1])
    shifted = retrieval(ColorScorer(), painted(*names), ["green", "blue", "red"], [1, 1, 1])
    assert shifted["text to image R@1"].value == shifted["image to text R@1"].value == 0


def test_retrieval_ranks_are_of_the_right_way():
    """Two texts name red alone; one picture is red, the other purple."""
    images = [*painted("red"), Image.new("RGB", (4, 4), (255, 0, 254))]
    figures = retrieval(ColorScorer(), images, ["red", "red"], [1, 1])
    assert figures["text to image R@1"].value == 0.5  # Both find the red one.
    assert figures["image to text R@1"].value == 0.5  # Neither can choose.
    assert (figures["text to image R@1"].low, figures["text to image R@1"].high) == (0, 1)
    assert figures["image to text R@1"].low == figures["image to text R@1"].high == 0.5


def test_a_blind_scorer_is_at_chance(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("modules.evaluation.scorers.RANK_ROWS", 7)
    figures = retrieval(BlindScorer(), painted("red") * 20, ["red"] * 20, [5] * 4)
    for figure in figures.values():
        assert figure.value == figure.low == figure.high == pytest.approx(figure.floor)
    assert [figures[f"image to text R@{rank}"].floor for rank in (1, 5, 10)] == [0.05, 0.25, 0.5]
