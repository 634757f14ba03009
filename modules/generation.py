"""What a storyteller may be asked for: names and ranges.

Imports no torch, so that bad input is told before a model is loaded.
"""

from __future__ import annotations

from modules.common.errors import UserError

SCHEDULERS = ("ddim", "dpmsolver++", "unipc", "euler")
DECODINGS = ("greedy", "beam", "top_p")
MAX_NUM_STEPS = 32  # Pages of a story;
MAX_LONG_STORY = 1000  # where the prior has an attention window.
TEMPERATURE, TOP_P = 0.5, 0.95  # Of a plan, unless asked for otherwise; assets/notes.md tells how .5 was chosen.


def check_story(prompt: str, num_steps: int, longest: int = MAX_NUM_STEPS) -> None:
    """Raise UserError where no story of `num_steps` pages, `longest` at most, can be told about `prompt`."""
    if not prompt.strip():
        raise UserError("the prompt is empty: say in one line what the story is about")
    if not 1 <= num_steps <= longest:
        more = (
            ""
            if longest > MAX_NUM_STEPS
            else "; longer stories need a model with an attention window (prior.attention_window)"
        )
        raise UserError(f"num_steps must be from 1 to {longest}, got {num_steps}{more if num_steps > longest else ''}")


def check_sampling(seed: int, temperature: float, top_p: float) -> None:
    """Raise UserError where nothing can be drawn with these numbers."""
    if not 0 <= seed < 2**63:
        raise UserError(f"seed must be from 0 to {2**63 - 1}, got {seed}")
    if not (temperature == 0 or 0.01 <= temperature <= 100):
        raise UserError(f"temperature must be 0 (always the likeliest) or from 0.01 to 100, got {temperature}")
    if not 0 < top_p <= 1:
        raise UserError(f"top_p must be above 0 and at most 1, got {top_p}")


def check_settings(
    seed: int,
    temperature: float,
    top_p: float,
    guidance_scale: float = 1.0,
    num_inference_steps: int = 1,
    scheduler: str = "ddim",
    decoding: str = "greedy",
    text_guidance_scale: float = 1.0,
    penalty_alpha: float = 0.0,
    strength: float = 1.0,
) -> None:
    """Raise UserError on a setting of `StoryPipeline.render` that is out of range or unknown."""
    check_sampling(seed, temperature, top_p)
    for name, value in (("guidance_scale", guidance_scale), ("text_guidance_scale", text_guidance_scale)):
        if not 0 <= value <= 100:
            raise UserError(f"{name} must be from 0 to 100, got {value}")
    for name, value in (("penalty_alpha", penalty_alpha), ("strength", strength)):
        if not 0 <= value <= 1:
            raise UserError(f"{name} must be from 0 to 1, got {value}")
    if penalty_alpha and decoding != "greedy":
        raise UserError(f"penalty_alpha changes greedy decoding only, not {decoding}: leave one of the two out")
    if not 1 <= num_inference_steps <= 1000:
        raise UserError(f"num_inference_steps must be from 1 to 1000, got {num_inference_steps}")
    for name, value, known in (("scheduler", scheduler, SCHEDULERS), ("decoding", decoding, DECODINGS)):
        if value not in known:
            raise UserError(f"{name} must be one of {', '.join(known)}, got {value!r}")
