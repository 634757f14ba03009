"""Plans as values and as text: every field survives, damage is found, and a replay gives the same pages."""

from __future__ import annotations

import copy
import dataclasses

import pytest
import torch

from modules.common.errors import UserError
from modules.generation import loaded_model
from modules.generation.pipeline import StoryPipeline
from modules.generation.settings import GenerationSettings
from modules.steering.packing import DamagedText, from_text, pack_bits, to_text, unpack_bits
from modules.steering.plan import Plan, drawn_plan
from modules.steering.planned_story import adopt, open_story, replay, tell
from modules.steering.rendering import Rendering
from modules.story import Story, StoryStep
from modules.storyworld import StoryWorld

PROMPT = "Rusty the fox wants a kite"
PRIOR_WEIGHT = "code_embed.weight"
QUICK = GenerationSettings(seed=5, num_inference_steps=2)
CODES = tuple(tuple((7 * page + 3 * slot) % 4096 for slot in range(8)) for page in range(5))


def a_plan(prompt: str = PROMPT, settings: GenerationSettings = QUICK) -> Plan:
    return drawn_plan(prompt, CODES, 4096, "0123456789abcdef", settings)


def edited_plan() -> Plan:
    """A plan with every kind of field: other codes, a given text, a given picture, pages drawn apart."""
    plan = a_plan()
    codes = (*CODES[:2], CODES[0], *CODES[3:])
    plan = plan.rendered(Rendering(codes, (2,), GenerationSettings(seed=9), "both"), codes=codes)
    plan = plan.rendered(Rendering(codes, (4, 1), GenerationSettings(seed=2, decoding="top_p"), "text"))
    plan = plan.rendered(Rendering(codes, (0,), QUICK, "picture", ("Früh am Morgen.",)))
    return dataclasses.replace(
        plan,
        given_texts=("Früh am Morgen.", *plan.given_texts[1:]),
        text_from=(None, *plan.text_from[1:]),
        picture_from=(*plan.picture_from[:3], None, *plan.picture_from[4:]),
        origins=("encoded", "drawn", "set", "drawn", "drawn"),
    )


@pytest.mark.parametrize(
    "plan",
    [
        a_plan(),
        a_plan("狐狸想要风筝 \ud800"),
        a_plan(settings=GenerationSettings(guidance_interval=(0.1, 0.9), scheduler="euler", seed=2**62)),
        edited_plan(),
        drawn_plan(PROMPT, ((0,),), 1, "00" * 8, QUICK),
        edited_plan().rendered(Rendering(CODES, (2,), QUICK), codes=CODES),
    ],
)
def test_a_plan_survives_its_text_form(plan):
    text = plan.to_string()
    assert Plan.from_string(text) == plan and Plan.from_string(f" {text}\n") == plan
    assert text.isascii() and all(letter.isalnum() or letter in "-_." for letter in text)


def test_a_text_written_with_other_defaults_keeps_its_settings():
    text = "plan1.CAAAAAAAAAAAEAIeq1YqULJSSlRIy69Q0lEqVrKqVipOTU1RsjKtrQUAAgISNCb_qMo"
    plan = Plan.from_string(text)
    assert plan.settings == GenerationSettings(seed=5, scheduler="ddim", num_inference_steps=20)
    assert plan == drawn_plan("a fox", ((1, 2), (3, 4)), 16, "00" * 8, plan.settings)


def test_codes_take_twelve_bits_each():
    short, long = a_plan("a").to_string(), drawn_plan("a", CODES * 2, 4096, "0123456789abcdef", QUICK).to_string()
    assert len(long) - len(short) == 5 * 8 * 12 // 6
    assert len(a_plan().to_string()) < 225


def test_any_damage_is_reported_in_one_line():
    text = edited_plan().to_string()
    for place in range(len(text)):
        for damaged in (text[:place], text[:place] + text[place + 1 :], f"{text[:place]}~{text[place + 1 :]}"):
            with pytest.raises(UserError, match="the plan is damaged") as error:
                Plan.from_string(damaged)
            assert "\n" not in str(error.value)
        other = "A" if text[place] != "A" else "B"
        with pytest.raises(UserError):
            Plan.from_string(text[:place] + other + text[place + 1 :])


def test_well_formed_nonsense_is_reported():
    content = from_text(a_plan().to_string())
    for place in range(len(content)):
        for byte in (0, content[place] ^ 0x80, 0xFF):
            changed = to_text(content[:place] + bytes([byte]) + content[place + 1 :])
            try:
                Plan.from_string(changed)
            except UserError as error:
                assert "\n" not in str(error)
    with pytest.raises(UserError, match="does not begin with plan1"):
        Plan.from_string("plan9.AAAA")
    with pytest.raises(UserError, match="longer than"):
        Plan.from_string("plan1." + "A" * 200_000)


@pytest.mark.parametrize("width", [1, 5, 12, 17])
def test_bits_are_packed_without_gaps(width):
    values = [(index * 31) % 2**width for index in range(13)]
    packed = pack_bits(values, width)
    assert len(packed) == (13 * width + 7) // 8 and unpack_bits(packed, 13, width) == values
    with pytest.raises(DamagedText):
        unpack_bits(packed + b"\0", 13, width)


def test_a_plan_refuses_what_does_not_fit():
    plan = a_plan()
    for changes in ({"codes": ((4096,) * 8,) * 5}, {"text_from": (0,)}, {"picture_from": (1,) * 5}, {"codes": ()}):
        with pytest.raises((ValueError, IndexError)):
            dataclasses.replace(plan, **changes)
    with pytest.raises(ValueError, match="not among"):
        Rendering(CODES, (5,), QUICK)


def test_a_story_told_with_its_plan_is_the_pipelines(tiny_pipeline):
    story, plain = tell(tiny_pipeline, PROMPT, 3, QUICK), tiny_pipeline(PROMPT, 3, settings=QUICK)
    assert list(story.texts) == plain.texts and story.to_output().bits == plain.bits
    assert [image.tobytes() for image in story.images] == [image.tobytes() for image in plain.images]
    again = replay(tiny_pipeline, Plan.from_string(story.plan.to_string()))
    assert again.texts == story.texts and again.plan == story.plan and again.stamps == story.stamps
    assert [image.tobytes() for image in again.images] == [image.tobytes() for image in story.images]
    assert again.to_output().bits == pytest.approx(plain.bits, abs=1e-3)


def test_other_weights_are_refused_and_named(tiny_pipeline):
    with pytest.raises(UserError, match="made with the weights 0123456789abcdef, and --ckpt has") as error:
        replay(tiny_pipeline, a_plan())
    assert tiny_pipeline.fingerprint() in str(error.value)


def test_ones_own_story_is_read_with_what_it_lacks(tiny_pipeline: StoryPipeline):
    steps = StoryWorld(1, image_size=32)[0].steps[:3]
    given = Story("own", PROMPT, (steps[0], StoryStep(steps[1].text), StoryStep(None, steps[2].image)))
    story = adopt(tiny_pipeline, given, QUICK)
    assert story.texts[:2] == (steps[0].text, steps[1].text) and story.texts[2]
    assert story.images[0].tobytes() == steps[0].image.tobytes() and story.plan.origins == ("encoded",) * 3
    assert story.plan.text_from == (None, None, 1) and story.plan.picture_from == (None, 0, None)
    again = replay(tiny_pipeline, story.plan, [steps[0].image, None, steps[2].image])
    assert again.texts == story.texts and again.images[1].tobytes() == story.images[1].tobytes()
    alone = replay(tiny_pipeline, story.plan)
    assert "given picture of page 1, 3" in alone.notes[-1] and alone.texts == story.texts


def test_a_story_of_other_weights_is_read_as_a_given_one(tiny_pipeline):
    steps = StoryWorld(1, image_size=32)[0].steps[:5]
    foreign = Story("own", PROMPT, steps, {"plan": a_plan().to_string()})
    story = open_story(tiny_pipeline, foreign)
    assert "made with the weights 0123456789abcdef" in story.notes[0] and story.plan.origins == ("encoded",) * 5
    with pytest.raises(UserError, match="the plan of the story has 5 pages, and the story 2"):
        open_story(tiny_pipeline, dataclasses.replace(foreign, steps=steps[:2]))


def test_training_settings_are_no_part_of_the_fingerprint(tiny_pipeline):
    """Nor is a setting at its default, which config.json may lack."""
    config = tiny_pipeline.config
    other = StoryPipeline(tiny_pipeline.model, tiny_pipeline.tokenizer)
    other.config = dataclasses.replace(
        config, training=dataclasses.replace(config.training, max_steps=7), preset="other"
    )
    assert other.fingerprint() == tiny_pipeline.fingerprint()
    other.config = dataclasses.replace(config, prior=dataclasses.replace(config.prior, num_sink_steps=2))
    assert other.fingerprint() != tiny_pipeline.fingerprint()


def test_the_fingerprint_is_kept_until_a_weight_changes(tiny_pipeline, monkeypatch):
    pipeline = StoryPipeline(copy.deepcopy(tiny_pipeline.model), tiny_pipeline.tokenizer)
    weight, first = pipeline.model.prior.get_parameter(PRIOR_WEIGHT), pipeline.fingerprint()
    assert first == tiny_pipeline.fingerprint()
    with monkeypatch.context() as patch:
        patch.setattr(loaded_model.hashlib, "sha256", None)
        assert pipeline.fingerprint() == first  # Nothing is hashed again.
    before = weight.detach().clone()
    changes = {
        "in place": lambda: weight.mul_(2),
        "past autograd": lambda: weight.data[0, 0].add_(1),
        "loaded": lambda: pipeline.model.prior.load_state_dict({PRIOR_WEIGHT: before * 3}, strict=False),
        "swapped": lambda: weight.copy_(before.flip(0)),
        "another tensor": lambda: setattr(weight, "data", before.flip(1)),
    }
    found = []
    for change in changes.values():
        with torch.no_grad():
            change()
            found.append(pipeline.fingerprint())
            weight.copy_(before)
        assert pipeline.fingerprint() == first
    assert len({first, *found}) == 1 + len(changes)
