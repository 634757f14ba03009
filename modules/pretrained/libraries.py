"""The classes of transformers and diffusers that every model is built of, imported without the rest of the libraries.

A plain import also imports torch's compiler, peft, scipy and every network and pipeline loader of diffusers, which is
half of the program's start. Here these modules have stand-ins while the classes are imported; afterwards they are
imported as usual by whatever needs them. Where an import fails with the stand-ins, it is done without them.
"""

from __future__ import annotations

import gc
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from functools import partial
from importlib import import_module
from importlib.util import find_spec
from types import ModuleType
from typing import Any

MODULES = (
    "transformers.models.gpt2.modeling_gpt2",
    "diffusers.models.attention_processor",
    "diffusers.models.autoencoders.autoencoder_kl",
    "diffusers.models.unets.unet_2d_condition",
    "diffusers.schedulers.scheduling_ddim",
    "diffusers.schedulers.scheduling_dpmsolver_multistep",
    "vector_quantize_pytorch",
)
# Modules, each with its functions that the libraries import, for optional purposes.
LATE = (
    ("scipy.optimize", "linear_sum_assignment"),
    ("scipy.integrate", "quad"),
    ("scipy.stats",),
    ("einx", "get_at", "add", "where"),
)
# Packages of which a few modules are needed; their `__init__` imports all of them.
PACKAGES = ("diffusers.hooks", "diffusers.models.autoencoders", "diffusers.models.transformers")
# Modules that are imported without peft here, and are imported again by code that needs peft.
PEFT_USERS = ("diffusers.loaders.lora_base", "diffusers.loaders.lora_pipeline")


def _bare_package(name: str) -> ModuleType:
    """Return a package whose modules can be imported, without running its `__init__`."""
    spec = find_spec(name)
    if spec is None or spec.submodule_search_locations is None:
        raise ImportError(f"there is no package {name}")
    package = ModuleType(name)
    package.__path__, package.__spec__ = list(spec.submodule_search_locations), spec
    return package


def _no_compiler() -> ModuleType:
    """Return a stand-in for torch's compiler; its decorators, for functions that it must not trace, do nothing."""

    def decorate(function: Callable | None = None, *_: Any, **__: Any) -> Callable:
        return (lambda decorated: decorated) if function is None else function

    compiler = _bare_package("torch._dynamo")
    compiler.__dict__.update(disable=decorate, allow_in_graph=decorate, assume_constant_result=decorate)
    return compiler


def _late(module: str, *functions: str) -> ModuleType:
    """Return a stand-in for a module with some of its functions, which import it when they are called."""

    def call(function: str, *args: Any, **kwargs: Any) -> Any:
        return getattr(import_module(module), function)(*args, **kwargs)

    stand_in = ModuleType(module)
    stand_in.__dict__.update({function: partial(call, function) for function in functions})
    return stand_in


@contextmanager
def _replaced(name: str, stand_in: Callable[[], ModuleType]) -> Iterator[None]:
    """Replace a module inside the block, unless it is imported already."""
    if name in sys.modules:
        yield
        return
    sys.modules[name] = stand_in()
    try:
        yield
    finally:
        sys.modules.pop(name, None)


@contextmanager
def _without_collection() -> Iterator[None]:
    """Import without garbage collection, which would search millions of new objects in vain."""
    was_enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_enabled:
            gc.enable()


@contextmanager
def _without_peft() -> Iterator[None]:
    """Import modules of diffusers as if peft were not installed, unless it is imported already."""
    from diffusers.utils import import_utils

    if "peft" in sys.modules or not import_utils._peft_available:
        yield
        return
    import_utils._peft_available = False
    try:
        yield
    finally:
        import_utils._peft_available = True
        for name in PEFT_USERS:
            if sys.modules.pop(name, None) is not None:
                parent, _, child = name.rpartition(".")
                vars(sys.modules[parent]).pop(child, None)


with suppress(AttributeError, ImportError, RuntimeError), ExitStack() as stand_ins:
    stand_ins.enter_context(_without_collection())
    stand_ins.enter_context(_replaced("torch._dynamo", _no_compiler))
    for _module_and_functions in LATE:
        stand_ins.enter_context(_replaced(_module_and_functions[0], partial(_late, *_module_and_functions)))
    for _package in PACKAGES:
        stand_ins.enter_context(_replaced(_package, partial(_bare_package, _package)))
    stand_ins.enter_context(_without_peft())
    for _module in MODULES:
        import_module(_module)

from diffusers.models.attention_processor import Attention  # noqa: E402
from diffusers.models.autoencoders.autoencoder_kl import AutoencoderKL  # noqa: E402
from diffusers.models.autoencoders.vae import DiagonalGaussianDistribution  # noqa: E402
from diffusers.models.unets import unet_2d_condition  # noqa: E402
from diffusers.schedulers.scheduling_ddim import DDIMScheduler  # noqa: E402
from diffusers.schedulers.scheduling_dpmsolver_multistep import DPMSolverMultistepScheduler  # noqa: E402
from diffusers.schedulers.scheduling_utils import SchedulerMixin  # noqa: E402
from transformers.models.gpt2.configuration_gpt2 import GPT2Config  # noqa: E402
from transformers.models.gpt2.modeling_gpt2 import GPT2LMHeadModel  # noqa: E402


class UNet2DConditionModel(unet_2d_condition.UNet2DConditionModel):
    """The UNet of diffusers, called without the wrapper that imports peft, for half a second, to scale a LoRA by 1."""

    forward = getattr(
        unet_2d_condition.UNet2DConditionModel.forward, "__wrapped__", unet_2d_condition.UNet2DConditionModel.forward
    )


__all__ = [
    "Attention",
    "AutoencoderKL",
    "DDIMScheduler",
    "DPMSolverMultistepScheduler",
    "DiagonalGaussianDistribution",
    "GPT2Config",
    "GPT2LMHeadModel",
    "SchedulerMixin",
    "UNet2DConditionModel",
]
