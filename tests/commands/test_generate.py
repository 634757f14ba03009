"""generate, continue, illustrate and caption with the real classes at tiny size: every file that they write."""

from __future__ import annotations

import json
import shutil
import signal

import pytest
from PIL import Image

import story_generative_model
from modules.data.images import load_image
from modules.generation.settings import SCHEDULERS
from modules.presentation.story.files import read_story
from modules.saving.checkpoint import save_checkpoint
from modules.storyworld import StoryWorld
from tests.support.commands import FILES, PROMPT, files, run


def test_generate_writes_every_file_and_prints_the_story(generate, capsys):
    folder = generate()
    assert sorted(files(folder)) == FILES
    captured = capsys.readouterr()
    story = json.loads((folder / "story.json").read_text(encoding="utf-8"))
    assert list(story) == ["prompt", "settings", "notes", "plan", "steps", "total_bits"] and story["notes"] == []
    assert story["prompt"] == PROMPT
    assert story["settings"]["seed"] == 0
    assert [line[:3] for line in captured.out.splitlines()] == ["1. ", "2. "]
    assert "2 pages in " in captured.err
    for number, step in enumerate(story["steps"], 1):
        assert step["image_path"] == f"raw/page_{number:02}.png"
        assert (len(step["codes"]), step["given"]) == (8, False)
        assert Image.open(folder / step["image_path"]).size == (32, 32)
        assert Image.open(folder / f"page_{number:02}.png").size == (384, 384)
    assert sum(step["bits"] for step in story["steps"]) == pytest.approx(story["total_bits"], abs=0.01) != 0
    assert PROMPT in (folder / "book.html").read_text(encoding="utf-8")


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_stopped_generation_leaves_no_story(tiny_checkpoint, tmp_path, capsys, monkeypatch, number, code):
    monkeypatch.setattr("modules.generation.pipeline.render_pages", lambda *_, **__: signal.raise_signal(number))
    before = signal.signal(signal.SIGINT, signal.default_int_handler)  # A program started in the background ignores it.
    try:
        words = ["generate", "--ckpt", str(tiny_checkpoint), "--prompt", "a fox", "--output", str(tmp_path / "out")]
        assert story_generative_model.main(words) == code
    finally:
        signal.signal(signal.SIGINT, before)
    assert capsys.readouterr().err.endswith("stopped\n") and not (tmp_path / "out" / "story.json").exists()


def test_a_seed_decides_every_byte(generate):
    first, second, other = (files(generate(name, "--seed", seed)) for name, seed in (("a", 5), ("b", 5), ("c", 6)))
    assert first == second
    assert all(
        first[name] != other[name]
        for name in ("book.html", "generated.png", "page_01.png", "raw/page_01.png", "story.json")
    )


@pytest.mark.parametrize("scheduler", SCHEDULERS)
def test_every_scheduler_draws_a_picture(generate, scheduler):
    folder = generate("out", "--scheduler", scheduler)
    low, high = load_image(folder / "page_01.png").convert("L").getextrema()
    assert low < high


@pytest.mark.parametrize(
    "flags", [("--decoding", "beam"), ("--decoding", "top_p"), ("--decoding", "top_p", "--temperature", 0)]
)
def test_every_decoding_writes_texts(generate, capsys, flags):
    generate("out", *flags)
    assert len(capsys.readouterr().out.splitlines()) == 2


def test_flags_accept_dashes_and_values_keep_them(generate):
    folder = generate(
        "out", "--num-inference-steps=3", "--guidance-scale", "1", "--num-steps", "1", "--prompt=a well-known fox"
    )
    story = read_story(folder)
    assert (len(story.steps), story.prompt) == (1, "a well-known fox")
    assert story.extra["settings"]["num_inference_steps"] == 3
    assert run("generate", "--num_Steps", 1) == 2


def test_guidance_applies_in_the_interval_of_the_flag(tiny_checkpoint, generate, tmp_path):
    """On every command that draws pictures; the settings are written with the story."""
    folders = [generate(name, "--guidance_interval", 0, high) for name, high in (("a", 1), ("b", 0))]
    plain = generate("c", "--guidance_scale", 1)
    pictures = [Image.open(folder / "raw" / "page_01.png").tobytes() for folder in (*folders, plain)]
    assert pictures[0] != pictures[1] == pictures[2]
    assert read_story(folders[0]).extra["settings"]["guidance_interval"] == [0.0, 1.0]
    assert read_story(plain).extra["settings"]["guidance_interval"] == [0.5, 1.0]
    quick = ("--ckpt", tiny_checkpoint, "--num_inference_steps", 2, "--guidance_interval", 0.2, 0.8)
    for command in (("illustrate", "--text", "A fox."), ("continue", "--story", plain, "--num_steps", 1)):
        out = tmp_path / command[0]
        assert run(*command, *quick, "--output", out) == 0
        assert read_story(out).extra["settings"]["guidance_interval"] == [0.2, 0.8]


def test_a_shorter_story_removes_surplus_pages_and_nothing_else(generate):
    folder = generate("out", "--num_steps", 3)
    for name in ("page_notes.png", "mine.txt", "raw/mine.png"):
        (folder / name).write_text("keep me")
    generate("out")
    assert sorted(files(folder)) == sorted([*FILES, "page_notes.png", "mine.txt", "raw/mine.png"])


def test_unseen_words_and_a_long_prompt_are_noted(generate, capsys):
    folder = generate(
        "out", "--num_steps", 1, "--prompt", "Rusty wants a ballon, a Zeppelin and a sousaphone " + "and a kite " * 40
    )
    misspelled, unseen, cut, _ = capsys.readouterr().err.splitlines()
    assert '"ballon" and reads "balloon" instead' in misspelled
    assert "zeppelin, sousaphone;" in unseen
    assert "62 tokens of the prompt" in cut
    notes = json.loads((folder / "story.json").read_text(encoding="utf-8"))["notes"]
    assert [f"note: {note}" for note in notes] == [misspelled, unseen, cut]
    assert "reads &#34;balloon&#34; instead." in (folder / "book.html").read_text(encoding="utf-8")


def test_generate_from_a_run_a_step_and_a_model_folder(tiny_checkpoint, generate, tmp_path):
    step = save_checkpoint(
        tmp_path / "run", 7, {}, {}, 1, extra=lambda folder: shutil.copytree(tiny_checkpoint, folder / "model")
    )
    stories = [
        files(generate(f"out{index}", "--ckpt", path))
        for index, path in enumerate((tiny_checkpoint, step, tmp_path / "run"))
    ]
    assert stories[0] == stories[1] == stories[2]


def test_continue_writes_given_pages_first_and_can_be_repeated(tiny_checkpoint, tiny_pipeline, generate, capsys):
    folder = generate()
    before, pictures = json.loads((folder / "story.json").read_text()), files(folder)
    codes = tiny_pipeline.encode(read_story(folder / "story.json").steps)
    quick = ("--ckpt", tiny_checkpoint, "--num_inference_steps", 2, "--output", folder)
    capsys.readouterr()
    assert run("continue", "--story", folder / "story.json", *quick, "--num_steps", 1) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.startswith(f"{number}. (given)") for number, line in enumerate(lines, 1)] == [True, True, False]
    after = json.loads((folder / "story.json").read_text())
    assert [step["given"] for step in after["steps"]] == [True, True, False]
    assert [step["text"] for step in after["steps"][:2]] == [step["text"] for step in before["steps"]]
    assert [step["codes"] for step in after["steps"][:2]] == codes.tolist()
    assert after["total_bits"] == after["steps"][2]["bits"]
    assert all(files(folder)[name] == pictures[name] for name in FILES if "page" in name)
    assert run("continue", "--story", folder, *quick, "--num_steps", 1, "--prompt", "another prompt") == 0
    assert [step["given"] for step in json.loads((folder / "story.json").read_text())["steps"]] == [
        True,
        True,
        True,
        False,
    ]


def test_continue_completes_the_pages_of_a_data_folder(tiny_checkpoint, story_folder, tmp_path):
    given, out = read_story(story_folder), tmp_path / "out"
    assert (
        run("continue", "--story", story_folder, "--ckpt", tiny_checkpoint, "--num_inference_steps", 2, "--output", out)
        == 0
    )
    story = read_story(out)
    assert story.prompt == given.prompt
    assert [step.text for step in story.steps[:2]] == [step.text for step in given.steps[:2]]
    assert story.steps[2].text
    assert story.steps[0].image.tobytes() == given.steps[0].image.tobytes()
    assert load_image(out / "page_03.png").size == (1024, 512)
    assert all(step.image.size == (32, 32) for step in story.steps)
    assert len(story.steps) == 5
    assert run("generate", "--from", out, "--ckpt", tiny_checkpoint, "--output", tmp_path / "again") == 0
    again = read_story(tmp_path / "again")
    assert [step.text for step in again.steps] == [step.text for step in story.steps]
    assert [step.image.tobytes() for step in again.steps] == [step.image.tobytes() for step in story.steps]


def test_illustrate_draws_each_text(tiny_checkpoint, tmp_path):
    texts = ["Rusty sees a kite.", "Rusty is happy."]
    flags = ("--ckpt", tiny_checkpoint, "--num_inference_steps", 2, "--output", tmp_path)
    assert run("illustrate", "--text", texts[0], "--text", texts[1], *flags) == 0
    assert [step.text for step in read_story(tmp_path).steps] == texts
    assert sorted(files(tmp_path)) == FILES


def test_caption_prints_one_text_and_the_codes(tiny_checkpoint, tmp_path, capsys):
    StoryWorld(1, image_size=64)[0].steps[0].image.save(tmp_path / "picture.png")
    assert run("caption", "--image", tmp_path / "picture.png", "--ckpt", tiny_checkpoint) == 0
    captured = capsys.readouterr()
    assert captured.out.strip()
    assert len(captured.err.removeprefix("codes ").split()) == 8
