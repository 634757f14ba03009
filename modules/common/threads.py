"""Functions that threads may call at the same time, because they wait for one another."""

from __future__ import annotations

import functools
import threading
from collections.abc import Callable
from typing import ParamSpec, TypeVar

P = ParamSpec("P")
R = TypeVar("R")
_TURN = threading.RLock()  # One for the process, as torch's global generators are.


def one_at_a_time(function: Callable[P, R]) -> Callable[P, R]:
    """Let a call of `function` wait until no other thread is in a function of this kind."""

    @functools.wraps(function)
    def wait_and_call(*args: P.args, **kwargs: P.kwargs) -> R:
        with _TURN:
            return function(*args, **kwargs)

    return wait_and_call
