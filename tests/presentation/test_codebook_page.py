"""The codebook page opens anywhere, holds every figure, and is made of whatever the stories have."""

from __future__ import annotations

import base64
import io
import json
import re
import shutil
from pathlib import Path
from typing import Any

import pytest
from google.protobuf import text_format
from PIL import Image
from tensorboard.plugins.projector.projector_config_pb2 import ProjectorConfig

from modules.common.errors import UserError
from modules.config import StoryConfig
from modules.data.folder import StoryFolder
from modules.data.writing import write_stories
from modules.evaluation.codebook import analysis as codebook
from modules.generation.pipeline import StoryPipeline
from modules.presentation.codebook.page import analyze
from modules.story import Story, StoryStep
from modules.story_model.story_model import StoryModel
from modules.storyworld import StoryWorld
from modules.studio.cards import CodeReports
from tests.support.html_pages import Collector

TRAIN, HELD_OUT = StoryWorld(8, image_size=32), StoryWorld(6, split="val", image_size=32)
NASTY = '<script>alert(1)</script> & "they" said </title>'


def parts(folder: Path) -> tuple[str, Collector, dict[str, Any]]:
    """The page, what a browser sees of it, and the JSON, which must hold nothing but numbers."""

    def refuse(constant: str) -> None:
        raise AssertionError(f"{constant} is no JSON")

    document = (folder / "codebook.html").read_text(encoding="utf-8")
    return document, Collector(document), json.loads((folder / "codebook.json").read_text(), parse_constant=refuse)


def figures(value: Any) -> list[dict[str, float | None]]:
    if isinstance(value, dict) and "low" in value:
        return [value]
    inner = value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()
    return [figure for item in inner for figure in figures(item)]


def read_pictures(images: list[Image.Image]) -> list[dict[str, Any]]:
    """A judge that sees nothing but whether a picture is bright."""
    means = [image.convert("L").resize((1, 1)).getpixel((0, 0)) for image in images]
    return [{"weather": "sunny" if mean > 127 else "night", "colors": {"fox": "red"}, "object": None} for mean in means]


@pytest.fixture(scope="module")
def report_folder(tiny_pipeline: StoryPipeline, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("report")
    paths = analyze(tiny_pipeline, TRAIN, HELD_OUT, 100, 0, folder, read_pictures)
    names = ("codebook.html", "codebook.json", "codebook.jpg", "training_pages.json", "projector")
    assert paths == [folder / name for name in names]
    return folder


def test_page_is_self_contained(report_folder):
    document, seen, _ = parts(report_folder)
    assert not re.search(r"https?://|@import|\$\w", document)
    assert all(
        value.startswith("data:image/jpeg;base64,") for _, name, value in seen.attributes if name in ("src", "href")
    )
    assert all(target.startswith("data:image/jpeg;base64,") for target in re.findall(r"url\(([^)]*)", document))
    assert "link" not in seen.tags and seen.tags.count("script") == 2
    assert len(document) < 2_000_000


def test_json_holds_every_figure_between_its_bounds(report_folder):
    _, _, report = parts(report_folder)
    assert (report["num_stories"], report["num_steps"]) == ({"train": 8, "held_out": 6}, sum(HELD_OUT.lengths))
    assert list(report["information"]) == [
        "character",
        "hero",
        "colour",
        "place",
        "object",
        "weather",
        "action",
        "position",
        "text length",
    ]
    assert list(report["probes"]) == list(report["information"])
    assert report["disentanglement"]["factors"] == ["hero", "colour", "place", "object", "weather", "action"]
    assert len(report["usage"]["slots"]) == report["num_slots"] == 8
    assert len(report["swaps"]["text"]["words"]) == len(report["removal"]["text_nats"]) == 9
    assert set(report["swaps"]["pictures"]["attributes"]) == {"weather", "colour", "object"}
    everything = figures(report)
    assert len(everything) > 250
    for figure in everything:
        if figure["low"] is not None:
            assert figure["low"] <= figure["value"] <= figure["high"]


def test_every_used_code_has_a_card_with_its_pages(report_folder):
    _, _, report = parts(report_folder)
    used = {code for step in report["steps"] for code in step["codes"]}
    assert {card["code"] for card in report["cards"]} == used == {int(code) for code in report["map"]["points"]}
    assert sorted(report["clusters"]["codes"]) == sorted(used)
    uses = [card["uses"] for card in report["cards"]]
    assert uses == sorted(uses, reverse=True) and sum(uses) == 8 * report["num_steps"]
    for card in report["cards"]:
        assert card["pages"] and all(card["code"] in report["steps"][row]["codes"] for row in card["pages"])
        assert sum(card["slots"]) == card["uses"] and card["steps"] <= card["uses"]


def test_page_holds_the_cards_and_their_pictures(report_folder):
    document, seen, report = parts(report_folder)
    data = json.loads(re.search(r'<script type="application/json" id="data">(.*?)</script>', document, re.DOTALL)[1])
    assert [card["code"] for card in data["cards"]] == [card["code"] for card in report["cards"]]
    places = sorted(page[0] for page in data["pages"].values())
    assert places == list(range(len(places)))
    sheet = re.search(r"background-image: url\(data:image/jpeg;base64,([^)]*)\)", document)[1]
    width, height = Image.open(io.BytesIO(base64.b64decode(sheet))).size
    assert width == data["columns"] * 80 and height == -(-len(places) // data["columns"]) * 80
    marks = [value for _, name, value in seen.attributes if name == "data-code"]
    assert {int(mark) for mark in marks} >= {card["code"] for card in report["cards"]}
    assert seen.tags.count("img") == 4 * 10  # Four steps: their own codes, each slot's swapped, and all.


def test_projector_files_belong_together(report_folder):
    folder = report_folder / "projector"
    config = text_format.Parse((folder / "projector_config.pbtxt").read_text(), ProjectorConfig())
    (embedding,) = config.embeddings
    metadata = [line.split("\t") for line in (folder / embedding.metadata_path).read_text().splitlines()]
    _, _, report = parts(report_folder)
    assert metadata[0] == ["code", "uses", "slot", "attribute", "words"]
    assert [int(line[0]) for line in metadata[1:]] == [card["code"] for card in report["cards"]]
    tensors = (folder / embedding.tensor_path).read_text().splitlines()
    assert len(tensors) == len(report["cards"]) and len(tensors[0].split("\t")) == 8
    side = Image.open(folder / embedding.sprite.image_path).width // embedding.sprite.single_image_dim[0]
    assert side**2 >= len(tensors) > (side - 1) ** 2


def test_same_stories_and_seed_give_the_same_bytes(tiny_pipeline, report_folder):
    def written() -> dict[str, bytes]:
        files = [*report_folder.glob("*.*"), *(report_folder / "projector/00000").rglob("*.*")]
        return {file.name: file.read_bytes() for file in files}

    before = written()
    written_by_name = {"codebook.html", "codebook.json", "codebook.jpg", "training_pages.json"}
    assert set(before) == {*written_by_name, "tensors.tsv", "metadata.tsv", "sprite.png"}
    analyze(tiny_pipeline, TRAIN, HELD_OUT, 100, 0, report_folder, read_pictures)
    assert written() == before
    assert len(list(report_folder.glob("projector/events.*"))) == 1


@pytest.fixture(scope="module")
def gaps(tmp_path_factory: pytest.TempPathFactory) -> StoryFolder:
    """Stories from disk without attributes: a step without text, one without picture, a story of one page, markup in
    texts.
    """
    folder = tmp_path_factory.mktemp("gaps")
    pages = [step for index in range(3) for step in TRAIN[index].steps]
    stories = [
        Story(
            "a", "A walk", (StoryStep(pages[0].text, pages[0].image), StoryStep(None, pages[1].image), StoryStep(NASTY))
        ),
        Story("b", NASTY, (StoryStep(NASTY, pages[2].image),)),
        Story("c", "A swim", tuple(StoryStep(page.text, page.image) for page in pages[3:7])),
    ]
    write_stories(folder, stories)
    return StoryFolder(folder)


def test_stories_with_gaps_are_analysed_as_far_as_they_go(tiny_pipeline, gaps, tmp_path):
    analyze(tiny_pipeline, gaps, gaps, 10, 0, tmp_path)
    document, seen, report = parts(tmp_path)
    assert list(report["information"]) == list(report["probes"]) == ["position", "text length"]
    assert report["disentanglement"]["factors"] == ["position", "text length"]
    assert report["swaps"]["text"]["attributes"] == report["swaps"]["pictures"]["attributes"] == {}
    assert [step["text"] for step in report["steps"][:4]] == [TRAIN[0].steps[0].text, None, NASTY, NASTY]
    assert "alert(1)" in document and "<script>alert" not in document  # It is there, as text.
    assert seen.tags.count("script") == 2
    assert not re.search(r"\bnan\b", document, re.IGNORECASE)


@pytest.mark.parametrize("keep", ["text", "image"])
def test_one_modality_is_enough(tiny_pipeline, tmp_path, keep):
    class Half(StoryWorld):
        def __getitem__(self, index: int) -> Story:
            story = super().__getitem__(index)
            return Story(
                story.id,
                story.prompt,
                tuple(StoryStep(**{"text": None, keep: getattr(step, keep)}) for step in story.steps),
            )

    analyze(tiny_pipeline, Half(2, image_size=32), Half(2, split="val", image_size=32), 2, 0, tmp_path)
    _, seen, report = parts(tmp_path)
    lost = "diffusion_loss" if keep == "text" else "text_nats"
    assert {figure["value"] for figure in report["removal"][lost]} == {None}
    assert ("pictures" in report["swaps"]) == (keep == "image")
    assert ("img" in seen.tags) == (keep == "image")
    assert all(card["removal"] is None or card["removal"][lost] is None for card in report["cards"])


def test_unusable_input_or_output_fails_before_any_work(tiny_pipeline, tiny_config: StoryConfig, tmp_path, monkeypatch):
    untrained = StoryPipeline(StoryModel(tiny_config), tiny_pipeline.tokenizer)
    with pytest.raises(UserError, match="before its codebook was initialised"):
        analyze(untrained, TRAIN, HELD_OUT, 2, 0, tmp_path)
    (tmp_path / "file").write_text("mine")
    monkeypatch.setattr(codebook, "read_stories", None)  # Not reached.
    with pytest.raises(UserError, match="is a file"):
        analyze(tiny_pipeline, TRAIN, HELD_OUT, 2, 0, tmp_path / "file")


def test_projector_replaces_only_what_an_analysis_wrote(tiny_pipeline, report_folder, tmp_path):
    folder = shutil.copytree(report_folder, tmp_path / "report")
    notes = folder / "projector/notes.txt"
    notes.write_text("mine")
    with pytest.raises(UserError, match="notes.txt was not written by this program"):
        analyze(tiny_pipeline, TRAIN, HELD_OUT, 100, 0, folder, read_pictures)
    assert notes.read_text() == "mine"


def test_the_studio_searches_the_report(report_folder, tiny_pipeline, tmp_path):
    """By words and by numbers, with pictures; what cannot be used names the command that makes it."""
    found, hint = CodeReports(report_folder, tiny_pipeline, "weights").open()
    assert found is not None and hint == ""
    first = found.card(found.search([], 1)[0])
    assert first["uses"] == max(card["uses"] for card in found.cards.values()) and len(found.slots) == 8
    assert found.picture(first["pages"][0]["row"]).size == (80, 80)
    value = next(card["tells"]["value"] for card in found.cards.values() if card["tells"]["attribute"] == "place")
    best = [found.card(code) for code in found.search([value], 3)]
    assert all(value in card["words"] or card["tells"]["value"] == value for card in best)
    assert found.search([str(first["code"])], 5)[0] == first["code"] and found.search(["xyzzy"], 5) == []
    assert set(found.carriers) <= set(range(8))
    unused = next(code for code in range(found.columns**2) if code not in found.cards)
    assert found.card(unused)["uses"] == 0
    shutil.copytree(report_folder, tmp_path / "copy")
    reports = CodeReports(tmp_path / "copy", tiny_pipeline, "weights")
    record = tmp_path / "copy" / "codebook.json"
    record.write_text(record.read_text().replace(tiny_pipeline.fingerprint(), "another"))
    assert reports.open()[0] is None and "other weights" in reports.open()[1]
    record.write_text("{")
    assert "cannot be read" in reports.open()[1] and "--output" in reports.open()[1]
