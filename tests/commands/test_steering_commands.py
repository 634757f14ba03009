"""generate --from, edit, score, plan, alternatives and branch from the command line, at tiny size."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
from PIL import Image

from modules.generation.pipeline import StoryPipeline
from modules.presentation.images import read_png_text
from modules.steering.novelty import write_training_pages
from tests.support.commands import PROMPT, fails, files, run

QUICK = ("--num_inference_steps", 2)


@pytest.fixture(scope="module")
def told(tiny_checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("steering") / "told"
    flags = ("--num_steps", 2, "--seed", 4, "--temperature", 1, *QUICK, "--ckpt", tiny_checkpoint)
    assert run("generate", "--prompt", PROMPT, *flags, "--output", folder) == 0
    return folder


def plan_of(folder: Path) -> str:
    return json.loads((folder / "story.json").read_text(encoding="utf-8"))["plan"]


def plan_codes(folder: Path) -> list[list[int]]:
    return [step["codes"] for step in json.loads((folder / "story.json").read_text(encoding="utf-8"))["steps"]]


@pytest.mark.parametrize("source", ["page_02.png", "raw/page_01.png", "story.json", ".", "text"])
def test_a_story_is_made_again_to_the_byte(told, tiny_checkpoint, tmp_path, source):
    source = plan_of(told) if source == "text" else told / source
    assert run("generate", "--from", source, "--ckpt", tiny_checkpoint, "--output", tmp_path) == 0
    assert files(tmp_path) == files(told)


def test_a_story_is_made_again_from_its_short_text(tiny_checkpoint, tmp_path, capsys):
    flags = ("--prompt", PROMPT, "--num_steps", 2, "--seed", 4, "--ckpt", tiny_checkpoint)
    assert run("generate", *flags, "--output", tmp_path / "a") == 0
    source = capsys.readouterr().err.split("generate --from ")[1].strip()
    assert source.startswith("plan2.") and len(source) < len(plan_of(tmp_path / "a"))
    assert run("generate", "--from", source, "--ckpt", tiny_checkpoint, "--output", tmp_path / "b") == 0
    assert files(tmp_path / "b") == files(tmp_path / "a")
    capsys.readouterr()
    assert "the short plan is damaged" in fails(capsys, "generate", "--from", source[:-2], "--ckpt", tiny_checkpoint)


def test_every_page_carries_the_plan(told):
    for name in ("page_01.png", "page_02.png", "raw/page_01.png", "raw/page_02.png"):
        assert read_png_text(told / name, "storyboard-plan") == plan_of(told)


def test_best_of_makes_the_best_plan(tiny_checkpoint, tmp_path, capsys):
    flags = ("--prompt", PROMPT, "--num_steps", 2, *QUICK, "--temperature", 1, "--ckpt", tiny_checkpoint)
    assert run("generate", *flags, "--best_of", 6, "--output", tmp_path / "best") == 0
    assert run("plan", *flags, "--num_plans", 6, "--keep", 2, "--json", tmp_path / "plans.json") == 0
    plans = json.loads((tmp_path / "plans.json").read_text(encoding="utf-8"))["plans"]
    assert len(plans) == 2 and plans[0]["plan"] == plan_of(tmp_path / "best")
    assert f"generate --from {plans[0]['plan']}" in capsys.readouterr().out


def test_a_story_is_told_from_a_beginning_to_an_ending(tiny_checkpoint, tmp_path, capsys):
    flags = ("--prompt", PROMPT, "--num_steps", 3, *QUICK, "--ckpt", tiny_checkpoint, "--output", tmp_path / "a")
    assert run("generate", *flags, "--beginning", "The fox wakes up.", "--ending", "The fox sleeps.") == 0
    lines = capsys.readouterr().out.splitlines()
    assert (lines[0], lines[2]) == ("1. The fox wakes up.", "3. The fox sleeps.")
    assert run(
        "generate", "--from", tmp_path / "a", "--ckpt", tiny_checkpoint, "--output", tmp_path / "b"
    ) == 0 and files(tmp_path / "a") == files(tmp_path / "b")


def test_new_pages_stand_between_the_old_ones(told, tiny_checkpoint, tmp_path, capsys):
    flags = ("--after", 1, "--num_steps", 2, "--seed", 3, "--ckpt", tiny_checkpoint, "--output", tmp_path)
    assert run("infill", told, *flags) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.startswith(f"{page}. (kept)") for page, line in enumerate(lines[:4], 1)] == [True, False, False, True]
    before, after = (json.loads((folder / "story.json").read_text())["steps"] for folder in (told, tmp_path))
    assert [step["text"] for step in (after[0], after[3])] == [step["text"] for step in before]


def test_an_edit_leaves_the_files_of_other_pages(told, tiny_checkpoint, tmp_path, capsys):
    flags = ("--ckpt", tiny_checkpoint, "--output", tmp_path / "new")
    assert run("edit", told, "--page", 2, "--text", "The bear has a red hat.", *flags) == 0
    shown = capsys.readouterr()
    assert shown.out.startswith("1. (kept) ") and "2. The bear has a red hat." in shown.out
    before, after = files(told), files(tmp_path / "new")
    assert {name for name in before if before[name] == after[name]} == {"page_01.png", "raw/page_01.png"}
    shutil.copytree(tmp_path / "new", tmp_path / "same")
    in_place = (tmp_path / "same", "--page", 1, "--redraw", "--ckpt", tiny_checkpoint, "--output", tmp_path / "same")
    assert run("edit", *in_place) == 0
    assert files(tmp_path / "same")["page_02.png"] == after["page_02.png"]
    plan = plan_of(tmp_path / "same")
    assert run("generate", "--from", plan, "--ckpt", tiny_checkpoint, "--output", tmp_path / "again") == 0
    for name in ("page_01.png", "page_02.png"):
        made = [Image.open(tmp_path / folder / name).tobytes() for folder in ("same", "again")]
        assert made[0] == made[1]


def test_a_continued_story_has_its_plan(told, tiny_checkpoint, tmp_path):
    flags = ("--num_steps", 1, *QUICK, "--ckpt", tiny_checkpoint, "--output", tmp_path / "longer")
    assert run("continue", "--story", told, *flags) == 0
    plan = plan_of(tmp_path / "longer")
    assert read_png_text(tmp_path / "longer" / "page_01.png", "storyboard-plan") == plan_of(told)
    assert read_png_text(tmp_path / "longer" / "page_03.png", "storyboard-plan") == plan
    assert files(tmp_path / "longer")["page_01.png"] == files(told)["page_01.png"]
    assert run("generate", "--from", plan, "--ckpt", tiny_checkpoint, "--output", tmp_path / "again") == 0
    for name in ("page_01.png", "page_02.png", "page_03.png"):
        made = [Image.open(tmp_path / folder / name).tobytes() for folder in ("longer", "again")]
        assert made[0] == made[1]


def test_scores_are_printed_and_written(told, tiny_checkpoint, tmp_path, capsys):
    assert run("score", told, "--ckpt", tiny_checkpoint, "--json", tmp_path / "score.json") == 0
    lines = capsys.readouterr().out.splitlines()
    record = json.loads((tmp_path / "score.json").read_text(encoding="utf-8"))
    assert len(lines) == 5 and len(record["pages"]) == 2 and len(record["pages"][0]["code_bits"]) == 8
    assert f"{record['story']['bits']:.1f} bits" in lines[-1]


def test_scores_name_the_nearest_training_pages_and_mark_a_book(told, tiny_checkpoint, tmp_path, capsys):
    pipeline, codes = StoryPipeline.from_pretrained(tiny_checkpoint), [[0] * 8, plan_codes(told)[1], [1] * 8]
    known, book, texts = tmp_path / "pages.json", tmp_path / "book.html", ["A fox.", "A <b>bear</b>.", None]
    write_training_pages(known, pipeline.fingerprint(), codes, [1, 2], texts)
    flags = (told, "--ckpt", tiny_checkpoint, "--training_pages", known)
    reports = ("--mark_book", book, "--json", tmp_path / "score.json")
    for _ in range(2):  # Its own reports are replaced.
        assert run("score", *flags, *reports) == 0
    line = "   2  training story 2, page 1, cosine 1.00, 100% of the codes the same: A <b>bear</b>.\n"
    assert line in capsys.readouterr().out
    pages = json.loads((tmp_path / "score.json").read_text(encoding="utf-8"))["pages"]
    assert pages[1]["nearest"]["same_codes"] == 1 and pages[0]["nearest"]["similarity"] < 1
    assert book.read_text().count("<details open>") == 2 and "A &lt;b&gt;bear" in book.read_text()
    for fingerprint, row, message in (
        ("0" * 16, codes[0], "made with the weights 0000"),
        ("", [99] * 8, "does not fit"),
    ):
        write_training_pages(known, fingerprint, [row], [1], ["A fox."])
        assert message in fails(capsys, "score", *flags)
    known.write_text("[]")
    assert "lists no training pages" in fails(capsys, "score", *flags)


def test_alternatives_and_branches_are_written(told, tiny_checkpoint, tmp_path, capsys):
    flags = ("--page", 2, "--slot", 3, "--count", 2, "--ckpt", tiny_checkpoint)
    assert run("alternatives", told, *flags, "--output", tmp_path / "a") == 0
    assert sorted(files(tmp_path / "a")) == ["alternatives.json", "alternatives.png", "manifest.json"]
    assert len(capsys.readouterr().out.splitlines()) == 4
    assert run("branch", told, "--page", 2, "--ckpt", tiny_checkpoint, "--output", tmp_path / "b") == 0
    assert {"book.html", "story.twee", "branches.json", "page_1.png", "page_2a.png"} <= set(files(tmp_path / "b"))


BAD = {
    "nothing": (("generate",), "required: --prompt, or --from"),
    "both": (("generate", "--prompt", "a", "--from", "b"), "exactly one of these flags"),
    "damaged": (("generate", "--from", "plan1.abc"), "the plan is damaged"),
    "absent page": (("generate", "--from", "absent.png"), "absent.png"),
    "absent story": (("generate", "--from", "absent"), "absent is neither a file nor a plan"),
    "cut in front": (("generate", "--from", "lan1." + "A" * 5000), "begins with plan1. or plan2."),
    "no change": (("edit", "STORY", "--page", 1), "give one of --text, --image"),
    "two changes": (("edit", "STORY", "--page", 1, "--redraw", "--rewrite"), "exactly one change"),
    "and after": (("edit", "STORY", "--page", 1, "--redraw", "--and_after"), "--and_after belongs to --replan"),
    "no picture": (("edit", "STORY", "--page", 1, "--image", "absent.png"), "absent.png"),
    "page": (("edit", "STORY", "--page", 3, "--redraw"), "--page 3 is not in the story, which has 2 pages"),
    "page 0": (("edit", "STORY", "--page", 0, "--redraw"), "--page: must be 1 or more"),
    "after": (("infill", "STORY", "--after", 3), "--after 3 is not in the story, which has 2 pages"),
    "slot": (("edit", "STORY", "--page", 1, "--set", "9=1"), "the slot must be a number from 1 to 8"),
    "code": (("edit", "STORY", "--page", 1, "--set", "1=x"), "the code must be a number from 0"),
    "lock": (("edit", "STORY", "--page", 1, "--redraw", "--lock", "head"), '"head": the page must be a number'),
    "empty text": (("edit", "STORY", "--page", 1, "--text", " "), "the new text is empty"),
    "no story": (("score", "absent"), "no story at absent"),
    "alternative": (("alternatives", "STORY", "--page", 1, "--slot", 9), "slot 9 does not exist"),
    "told": (("plan", "--prompt", "a", "--last_page", " "), "--last_page: the text is empty"),
    "told otherwise": (("generate", "--prompt", "a", "--ending", ""), "--ending: the text is empty"),
    "one page": (
        ("plan", "--prompt", "a", "--num_steps", 1, "--first_page", "A fox.", "--ending", "A bear."),
        "--first_page and --ending name the same page of a story of one",
    ),
    "told twice": (("plan", "--prompt", "a", "--first_page", "A fox.", "--codes", "1.2=3"), "leave one of the two out"),
    "told again": (("generate", "--from", "STORY", "--ending", "A fox."), "leave out --ending"),
    "fixed code": (("plan", "--prompt", "a", "--codes", "6.1=0"), "the page must be a number from 1 to 5"),
    "wishes": (
        ("plan", "--prompt", "a", "--must", "zebra", "--num_plans", 2, "--num_steps", 1),
        "satisfies the wishes",
    ),
}


@pytest.mark.parametrize("name", BAD)
def test_mistakes_are_reported_in_one_line(told, tiny_checkpoint, tmp_path, capsys, monkeypatch, name):
    monkeypatch.chdir(tmp_path)
    argv, message = BAD[name]
    words = [told if word == "STORY" else word for word in argv]
    before = files(told)
    assert message in fails(capsys, *words, "--ckpt", tiny_checkpoint)
    assert files(told) == before


def test_a_picture_without_a_plan_is_reported(told, tiny_checkpoint, tmp_path, capsys):
    Image.new("RGB", (8, 8)).save(tmp_path / "plain.png")
    assert "carries no plan" in fails(capsys, "generate", "--from", tmp_path / "plain.png", "--ckpt", tiny_checkpoint)
    story = json.loads((told / "story.json").read_text(encoding="utf-8"))
    del story["plan"]
    folder = shutil.copytree(told, tmp_path / "old")
    (folder / "story.json").write_text(json.dumps(story), encoding="utf-8")
    assert "carries no plan" in fails(capsys, "generate", "--from", folder, "--ckpt", tiny_checkpoint)
    assert run("score", folder, "--ckpt", tiny_checkpoint) == 0


def test_other_weights_are_named(told, tiny_checkpoint, tmp_path, capsys):
    pipeline = StoryPipeline.from_pretrained(tiny_checkpoint)
    wanted = pipeline.fingerprint()
    pipeline.model.prior.to_code.weight.data.add_(1)
    pipeline.save_pretrained(tmp_path / "other")
    line = fails(capsys, "generate", "--from", told, "--ckpt", tmp_path / "other", "--output", tmp_path / "out")
    assert f"made with the weights {wanted}" in line
