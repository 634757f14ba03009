"""Settings of sampling, checked. Imports no torch, so that bad input is reported before a model is loaded."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Any, get_args

from modules.common.arguments import setting
from modules.common.errors import UserError
from modules.common.limits import check_settings
from modules.image_decoder.config import SchedulerName
from modules.text_decoder.config import Decoding

SCHEDULERS, DECODINGS = get_args(SchedulerName), get_args(Decoding)
PRECISIONS = ("auto", "bf16", "float32")
MAX_NUM_STEPS = 32  # Pages of a story;
MAX_LONG_STORY = 1000  # of a model whose prior has an attention window.


@dataclass(frozen=True)
class GenerationSettings:
    """Sampling settings of plans, texts and pictures: the flags of generate, continue and illustrate.

    Raises UserError on a value out of range or unknown.
    """

    seed: int = setting(
        0, "random seed; the same seed and settings give the same files", low=0, high=2**63 - 1, metavar="N"
    )
    temperature: float = setting(  # assets/notes.md has the measurements behind this default.
        0.5,
        "sampling temperature of the plan, and of the texts with --decoding top_p; lower is safer, higher more varied,"
        " 0 always takes the most probable code",
        low=0,
        high=100,
        metavar="X",
    )
    top_p: float = setting(
        0.95,
        "nucleus sampling of the plan, and of the texts with --decoding top_p: sample from the most probable codes that"
        " together have this probability",
        low=0,
        high=1,
        metavar="X",
    )
    plan_guidance_scale: float = setting(
        1.0,
        "classifier-free guidance of the plan: above 1, plans follow the prompt more closely; for models whose prior"
        " was trained for it (prior.null_prompt)",
        low=0,
        high=100,
        metavar="X",
    )
    guidance_scale: float = setting(
        4.0,
        "classifier-free guidance of the pictures: higher values follow the plan more closely, 1 turns guidance off,"
        " which is faster",
        low=0,
        high=100,
        metavar="X",
    )
    guidance_interval: tuple[float, float] = setting(
        (0.5, 1.0),
        "where guidance applies, as shares of the noise: from LOW to HIGH, where 1 is pure noise and 0 none; guidance"
        " helps most at high noise, and elsewhere costs time and over-saturates",
        low=0,
        high=1,
        metavar=("LOW", "HIGH"),
    )
    num_inference_steps: int = setting(
        8, "denoising steps per picture; more take longer", low=1, high=1000, metavar="N"
    )
    scheduler: SchedulerName = setting("dpmsolver++", "diffusion sampler of the pictures", choices=SCHEDULERS)
    precision: str = setting(
        "auto",
        "how pictures are computed: bf16 is faster on most GPUs and recent CPUs, and hardly changes a picture; auto:"
        " bf16 where this machine computes it fast, else float32",
        choices=PRECISIONS,
    )
    decoding: Decoding = setting(
        "greedy",
        "how texts are decoded: the most probable token each time, beam search, or nucleus sampling with --temperature"
        " and --top_p",
        choices=DECODINGS,
    )
    text_guidance_scale: float = setting(
        1.0,
        "classifier-free guidance of the texts: above 1, texts follow the plan more closely",
        low=0,
        high=100,
        metavar="X",
    )
    penalty_alpha: float = setting(
        0.0,
        "contrastive search with --decoding greedy: above 0, such as 0.6, texts repeat themselves less",
        low=0,
        high=1,
        metavar="X",
    )
    strength: float = setting(
        1.0,
        "share of the denoising steps that a picture goes through: below 1, each picture starts from the one before and"
        " resembles it",
        low=0,
        high=1,
        metavar="X",
    )

    def __post_init__(self) -> None:
        check_settings(self)
        if not (self.temperature == 0 or 0.01 <= self.temperature <= 100):
            raise UserError(
                f"temperature must be 0 (always the most probable) or from 0.01 to 100, got {self.temperature}"
            )
        if not self.top_p > 0:
            raise UserError(f"top_p must be above 0 and at most 1, got {self.top_p}")
        if self.penalty_alpha and self.decoding != "greedy":
            raise UserError(
                f"penalty_alpha changes greedy decoding only, not {self.decoding}: leave one of the two out"
            )

    @classmethod
    def resolve(cls, settings: GenerationSettings | None = None, **overrides: Any) -> GenerationSettings:
        """Return `settings`, or the defaults, with the given `overrides`; those that are None are ignored."""
        given = {name: value for name, value in overrides.items() if value is not None}
        return dataclasses.replace(settings or cls(), **given)


def nonempty_prompt(prompt: str) -> str:
    """Return the prompt, or a general one where it is empty, as in some real stories."""
    return prompt.strip() or "a story"


def check_story(prompt: str, num_steps: int, longest: int = MAX_NUM_STEPS) -> None:
    """Raise UserError if `prompt` is empty or `num_steps` is not from 1 to `longest` pages."""
    if not prompt.strip():
        raise UserError("the prompt is empty: say in one line what the story is about")
    if isinstance(num_steps, bool) or not isinstance(num_steps, int):
        raise UserError(f"num_steps must be a whole number from 1 to {longest}, got {num_steps!r:.80}")
    if not 1 <= num_steps <= longest:
        remedy = "; longer stories need a model with an attention window (prior.attention_window)"
        advice = remedy if num_steps > longest == MAX_NUM_STEPS else ""
        raise UserError(f"num_steps must be from 1 to {longest}, got {num_steps}{advice}")
