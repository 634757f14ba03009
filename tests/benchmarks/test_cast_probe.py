"""`benchmarks/cast_probe.py` at tiny size: labels, slots, probes with known answers, and the report."""

from __future__ import annotations

import json

import pytest
import torch

from modules.storyworld import CHARACTERS, COLORS, OBJECTS, StoryWorld
from tests.support.benchmarks import load

cast_probe, cast_pooler, cast_slots = load("cast_probe"), load("cast_pooler"), load("cast_slots")
ABSENT = cast_slots.ABSENT


def page(hero: str, color: str, *friend: str, thing: str | None = None) -> dict:
    characters, colors = [hero, *friend[:1]], [color, *friend[1:]]
    return {"hero": hero, "characters": characters, "colors": colors, "object": thing}


def test_labels_are_those_of_the_whole_story():
    stories = [
        [page("fox", "red"), page("fox", "red", "cat", "blue", thing="kite"), page("fox", "red", thing="ball")],
        [page("pig", "green", thing="cake")],
    ]
    labels = {name: column.tolist() for name, column in cast_slots.label_stories(stories).items()}
    assert labels["hero"] == [CHARACTERS.index("fox"), CHARACTERS.index("pig")]
    assert labels["hero_colour"] == [COLORS.index("red"), COLORS.index("green")]
    assert labels["friend"] == [CHARACTERS.index("cat"), len(CHARACTERS)]
    assert labels["friend_colour"] == [COLORS.index("blue"), ABSENT]
    assert labels["object"] == [OBJECTS.index("kite"), OBJECTS.index("cake")]


@pytest.fixture(scope="module")
def stories(tiny_pipeline):
    return cast_slots.read_slots(tiny_pipeline, StoryWorld(12, image_size=32), "stories")


def test_slots_of_a_story_are_padded(stories, tiny_pipeline):
    lengths = StoryWorld(12).lengths
    assert stories.page_mask.sum(1).tolist() == lengths
    assert stories.before.shape == stories.after.shape == (12, max(lengths), 8, 8)
    assert (stories.after[~stories.page_mask] == 0).all()
    codebook = tiny_pipeline.model.storyboard.quantizer.codebook * 8**0.5
    nearest = torch.cdist(stories.after[stories.page_mask].flatten(0, 1), codebook).amin(1)
    assert nearest.max() < 1e-3


def test_a_pooler_reads_no_padding(stories):
    pooler = cast_pooler.CastPooler(stories.before, num_cast=2, codebook_size=0)
    vectors, codes = pooler.read(stories.before, stories.page_mask)
    assert vectors.shape == (12, 2, 8) and codes is None
    padded = torch.where(stories.page_mask[:, :, None, None], stories.before, torch.tensor(7.0))
    torch.testing.assert_close(pooler.read(padded, stories.page_mask)[0], vectors)


def test_some_pages_are_dropped_but_never_all():
    mask = torch.arange(8) < torch.randint(1, 9, (500, 1), generator=torch.Generator().manual_seed(0))
    kept = cast_pooler.drop_pages(mask)
    assert not (kept & ~mask).any() and kept.any(1).all() and 0.6 < kept.sum() / mask.sum() < 0.9


def test_a_probe_finds_what_is_linear():
    generator = torch.Generator().manual_seed(0)
    features = torch.randn(300, 5, generator=generator)
    labels = features[:, :3].argmax(1)
    labels[:20] = ABSENT
    probe = cast_probe.fit_probe(features, labels, 3)
    assert (probe(features[20:]).argmax(1) == labels[20:]).float().mean() > 0.95
    noise = torch.randint(0, 3, (300,), generator=generator)
    assert (cast_probe.fit_probe(features, noise, 3)(features).argmax(1) == noise).float().mean() < 0.6


def test_the_report_has_all_rows(tiny_checkpoint, tmp_path, capsys):
    out = tmp_path / "out.json"
    flags = ("--num_stories", 12, "--num_held_out", 8, "--codebook_size", 8, "--num_cast", 2, 3, "--updates", 6)
    assert cast_probe.main([str(word) for word in ("--ckpt", tiny_checkpoint, "--json", out, *flags)]) == 0
    report = json.loads(out.read_text())
    assert list(report["rows"])[-2:] == ["cast: 2 of 8 codes", "cast: 3 of 8 codes"] and len(report["rows"]) == 6
    for metrics in report["rows"].values():
        assert set(cast_slots.ATTRIBUTES) <= set(metrics) and 0 <= metrics["hero"]["value"] <= 1
    assert 1 <= report["rows"]["cast: 2 of 8 codes"]["perplexity"]["value"] <= 8
    assert len(report["goals"]) == 2 and "goal: at least 0.7" in capsys.readouterr().out


def test_too_few_stories_for_the_codebook(tiny_checkpoint, capsys):
    assert cast_probe.main(["--ckpt", str(tiny_checkpoint), "--num_stories", "9"]) == 2
    assert capsys.readouterr().err == "error: 1024 codes need 512 stories or more: raise --num_stories\n"
