"""Arguments of a pipeline's methods: names that are not known are reported with the nearest one."""

from __future__ import annotations

import dataclasses
import difflib
import inspect
from collections.abc import Callable, Collection, Iterable
from typing import Any

from modules.common.errors import UserError, shown
from modules.generation.settings import GenerationSettings

# What other libraries call the same.
SYNONYMS = {
    "num_images_per_prompt": "num_stories",
    "num_samples": "num_stories",
    "num_pages": "num_steps",
    "pages": "num_steps",
    "length": "num_steps",
    "steps_per_image": "num_inference_steps",
    "num_steps_per_image": "num_inference_steps",
    "guidance": "guidance_scale",
    "cfg": "guidance_scale",
    "sampler": "scheduler",
    "callback": "callback_on_step_end",
    "prompts": "prompt",
}


class UnknownArgument(UserError, TypeError):
    """An argument that a method does not have."""


def resolve_settings(method: Callable[..., Any], seed: int | None, options: dict[str, Any]) -> GenerationSettings:
    """Return the settings that a method's `seed` and `options` give.

    Raises UnknownArgument, which names the method, if an option is no setting.
    """
    fields = {field.name for field in dataclasses.fields(GenerationSettings)}
    own = [name for name in inspect.signature(method).parameters if name not in ("self", "options")]
    check_names(method, options, {"settings", *fields}, own)
    settings = options.get("settings")
    if settings is not None and not isinstance(settings, GenerationSettings):
        raise UserError(f"settings must be a GenerationSettings, got {type(settings).__name__}")
    return GenerationSettings.resolve(**options | {"seed": seed})


def check_names(
    method: Callable[..., Any], given: Iterable[str], known: Collection[str], others: Iterable[str] = ()
) -> None:
    """Raise UnknownArgument for the first name given that a bound method does not know; `others` are proposed too."""
    for name in given:
        if name not in known:
            owner = type(method.__self__).__name__  # type: ignore[attr-defined]
            called = owner if method.__name__ == "__call__" else f"{owner}.{method.__name__}"
            raise UnknownArgument(f"{called}() has no argument {shown(name)!r}{_proposal(name, [*known, *others])}")


def _proposal(name: str, known: Collection[str]) -> str:
    near = [SYNONYMS[name]] if SYNONYMS.get(name) in known else difflib.get_close_matches(name, sorted(known), 1)
    return f": did you mean {near[0]!r}?" if near else f": it has {', '.join(sorted(known))}"
