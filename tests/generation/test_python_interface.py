"""The pipeline as users of diffusers know one: lists, seeds, generators, callbacks, arrays, threads, helpful errors."""

from __future__ import annotations

import doctest
import re
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import torch

from modules.common.errors import UserError
from modules.generation.pipeline import StoryPipeline
from modules.generation.requests import StoryRequest
from modules.generation.settings import GenerationSettings
from modules.generation.watching import ProgressBar
from modules.story import Story, StoryStep

PROMPTS = ["Rusty the fox wants a kite", "Mia the girl loses her crown"]
QUICK = {"num_steps": 2, "num_inference_steps": 2}


def content(story):
    return story.prompt, story.texts, [image.tobytes() for image in story.images], story.codes.tolist()


@pytest.fixture(scope="module")
def story(tiny_pipeline):
    return tiny_pipeline(PROMPTS[0], **QUICK)


def test_every_example_of_a_docstring_runs(tiny_pipeline, story):
    tests = [test for cls in StoryPipeline.__mro__[:-1] for test in doctest.DocTestFinder(recurse=True).find(cls)]
    with_examples = {test.name.rpartition(".")[2]: test for test in tests if test.examples}
    names = {"__call__", "encode", "decode", "score", "to", "caption", "illustrate", "set_progress_bar_config"}
    assert names | {"continue_story", "plan", "render", "complete"} <= set(with_examples)
    runner = doctest.DocTestRunner(optionflags=doctest.NORMALIZE_WHITESPACE)
    for test in with_examples.values():
        test.globs = {"pipeline": tiny_pipeline, "story": story, "torch": torch, "StoryStep": StoryStep}
        runner.run(test)
    assert runner.summarize(verbose=False).failed == 0
    tiny_pipeline.progress_bar = ProgressBar()


def test_a_list_gives_the_stories_that_its_prompts_give_alone(tiny_pipeline):
    together = tiny_pipeline(PROMPTS, seed=4, num_stories=2, **QUICK)
    alone = [tiny_pipeline(prompt, seed=seed, **QUICK) for prompt in PROMPTS for seed in (4, 5)]
    assert [content(story) for story in together] == [content(story) for story in alone]
    assert [story.seed for story in together] == [4, 5, 4, 5]
    assert isinstance(tiny_pipeline(PROMPTS[:1], **QUICK), list)


def test_shared_batches_change_nothing_but_roundings(tiny_pipeline, story):
    requests = [(prompt, seed) for prompt in PROMPTS for seed in (0, 1)]
    wanted = [StoryRequest(text, GenerationSettings(seed=seed, num_inference_steps=2)) for text, seed in requests]
    for given in ((), story.steps()):
        together = tiny_pipeline._generate_together(wanted, 2, given, None)
        alone = [tiny_pipeline(text, seed=seed, steps=given, **QUICK) for text, seed in requests]
        for one, other in zip(together, alone, strict=True):
            assert (one.texts, one.codes.tolist(), one.notes) == (other.texts, other.codes.tolist(), other.notes)
            for image, same in zip(one.images, other.images, strict=True):
                assert np.abs(np.asarray(image, int) - np.asarray(same, int)).max() <= 1


def test_a_generator_gives_the_seeds(tiny_pipeline):
    first = tiny_pipeline(PROMPTS, generator=torch.Generator().manual_seed(1), **QUICK)
    again = tiny_pipeline(PROMPTS, generator=torch.Generator().manual_seed(1), **QUICK)
    assert [content(story) for story in first] == [content(story) for story in again]
    assert first[0].seed != first[1].seed
    assert content(tiny_pipeline(PROMPTS[1], seed=first[1].seed, **QUICK)) == content(first[1])
    each = [torch.Generator().manual_seed(seed) for seed in (1, 1)]
    assert len({story.seed for story in tiny_pipeline(PROMPTS, generator=each, **QUICK)}) == 1


@pytest.mark.parametrize("strength", [1.0, 0.5])
def test_a_callback_sees_every_step_and_changes_latents(tiny_pipeline, story, strength):
    seen = []
    options = {"seed": 2, "strength": strength, "num_steps": 2, "num_inference_steps": 4}

    def note(pipeline, step, timestep, tensors):
        assert pipeline is tiny_pipeline
        seen.append((step, int(timestep), len(tensors["latents"])))

    drawn = tiny_pipeline(PROMPTS[0], callback_on_step_end=note, **options)
    assert content(drawn) == content(tiny_pipeline(PROMPTS[0], **options))
    timesteps = [999, 749, 499, 249]
    alone = [(step, timestep, 1) for step, timestep in enumerate(timesteps)]
    later = [(step, timestep, 1) for step, timestep in enumerate(timesteps[2:])]
    assert seen == ([(step, time, 2) for step, time, _ in alone] if strength == 1 else alone + later)
    black = tiny_pipeline(PROMPTS[0], callback_on_step_end=lambda *_: {"latents": 0 * _[3]["latents"]}, **options)
    assert black.texts == drawn.texts and black.images[0].tobytes() != drawn.images[0].tobytes()


def test_images_as_arrays_have_the_values_of_the_pictures(tiny_pipeline, story):
    as_np, as_pt = (tiny_pipeline(PROMPTS[0], output_type=kind, **QUICK) for kind in ("np", "pt"))
    assert as_np.images.shape == (2, 32, 32, 3) and as_pt.images.shape == (2, 3, 32, 32)
    assert as_np.images.dtype == np.float32 and 0 <= as_pt.images.min() <= as_pt.images.max() <= 1
    for other in (as_np, as_pt):
        assert [image.tobytes() for image in other.pictures()] == [image.tobytes() for image in story.images]


def test_a_story_is_scored_as_it_stands(tiny_pipeline, story):
    scores = tiny_pipeline.score(story)
    assert [page.bits for page in scores.pages] == pytest.approx(story.bits, rel=1e-3)
    own = Story("own", PROMPTS[0], tuple(story.steps()))
    assert tiny_pipeline.score(own).pages[0].text_nats > 0
    assert tiny_pipeline.score(story.converted("pt")) == scores


def test_threads_get_what_they_get_alone(tiny_pipeline):
    options = {"decoding": "top_p", "temperature": 1.0, **QUICK}
    alone = [content(tiny_pipeline(prompt, seed=seed, **options)) for prompt in PROMPTS for seed in range(4)]
    with ThreadPoolExecutor(4) as threads:
        calls = [threads.submit(tiny_pipeline, prompt, seed=seed, **options) for prompt in PROMPTS for seed in range(4)]
        assert [content(call.result()) for call in calls] == alone


def test_progress_is_shown_as_chosen(tiny_pipeline, capsys):
    try:
        tiny_pipeline.set_progress_bar_config(disable=False, desc="my stories")
        tiny_pipeline(PROMPTS, **QUICK)
        assert "my stories 4/4" in capsys.readouterr().err
        tiny_pipeline.set_progress_bar_config(disable=True)
        tiny_pipeline(PROMPTS, **QUICK)
        assert capsys.readouterr().err == ""
    finally:
        tiny_pipeline.progress_bar = ProgressBar()


WRONG_NAMES = {
    "num_step": (lambda pipe: pipe("a fox", num_step=2), "()", "num_steps"),
    "num_images_per_prompt": (lambda pipe: pipe("a fox", num_images_per_prompt=2), "()", "num_stories"),
    "sed": (lambda pipe: pipe.illustrate(["a fox"], sed=2), ".complete()", "seed"),
    "temprature": (lambda pipe: pipe.plan("a fox", 2, temprature=1), ".plan()", "temperature"),
    "desk": (lambda pipe: pipe.set_progress_bar_config(desk="x"), ".set_progress_bar_config()", "desc"),
}


@pytest.mark.parametrize("name", WRONG_NAMES)
def test_a_wrong_name_is_the_pipelines_own(tiny_pipeline, name):
    call, method, nearest = WRONG_NAMES[name]
    message = f"StoryPipeline{method} has no argument {name!r}: did you mean {nearest!r}?"
    for kind in (UserError, TypeError):
        with pytest.raises(kind) as error:
            call(tiny_pipeline)
        assert message in str(error.value)


WRONG_VALUES = {
    "prompt": [5, [], ["a fox", 3], None],
    "num_steps": ["3", 0],
    "num_stories": [0, 1.5],
    "generator": [3, [torch.Generator()] * 2],
    "output_type": ["jpg"],
    "callback_on_step_end": [3],
    "settings": [{"seed": 1}],
}


@pytest.mark.parametrize("name, value", [(name, value) for name, values in WRONG_VALUES.items() for value in values])
def test_a_wrong_value_is_named(tiny_pipeline, name, value):
    with pytest.raises(UserError, match=name):
        tiny_pipeline(**({"prompt": "a fox", **QUICK} | {name: value}))


WRONG_CALLS = {
    "texts must be a list of texts, got str": lambda pipeline, story: pipeline.illustrate("A fox."),
    "texts must be a list of texts, got a list of nothing": lambda pipeline, story: pipeline.illustrate([]),
    "texts must be one for each page that is drawn, 2, got 1": lambda pipeline, story: pipeline.render(
        story.codes, texts=["A fox."]
    ),
    "pages must be from 0 to 1, got 5": lambda pipeline, story: pipeline.render(story.codes, pages=[5]),
    "codes must be 8 a page, each from 0 to": lambda pipeline, story: pipeline.decode(story.codes + 9999),
    "codes must be a tensor of whole numbers (pages, 8), got a list of list": lambda pipeline, story: pipeline.decode(
        story.codes.tolist()
    ),
    "give one or more pages to encode": lambda pipeline, story: pipeline.complete("a fox", []),
    "an image must be a picture of Pillow": lambda pipeline, story: pipeline.caption("page.png"),
    "decoding must be one of greedy, beam, top_p": lambda pipeline, story: pipeline.caption(story.images[0], "best"),
}


@pytest.mark.parametrize("message", WRONG_CALLS)
def test_what_a_method_cannot_use_is_told(tiny_pipeline, story, message):
    with pytest.raises(UserError, match=re.escape(message)):
        WRONG_CALLS[message](tiny_pipeline, story)


def test_a_device_that_is_absent_is_told(tiny_pipeline):
    with pytest.raises(UserError, match="not available"):
        tiny_pipeline.to("cuda:7")
    with pytest.raises(UserError, match="precision"):
        tiny_pipeline.to(torch.float16)
