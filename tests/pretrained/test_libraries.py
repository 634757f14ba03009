"""A model starts without the compiler, peft and scipy, and everything that needs them still finds them."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
HEAVY = ("peft", "scipy.stats", "scipy.optimize", "einx", "torch._dynamo", "matplotlib", "datasets", "diffusers.hooks")


def run(code: str, *words: str) -> str:
    result = subprocess.run(
        [sys.executable, "-c", code, *words], cwd=ROOT, capture_output=True, text=True, timeout=300, check=False
    )
    assert result.returncode == 0, result.stderr
    return result.stdout.strip()


def test_a_model_is_imported_without_optional_libraries():
    code = f"import sys, modules.generation.pipeline; print([name for name in {HEAVY} if name in sys.modules])"
    assert run(code) == "[]"


LATER = {
    "compiler": "import torch, torch._dynamo; print(torch._dynamo.explain.__module__.startswith('torch._dynamo'))",
    "scipy": "import scipy.stats, scipy.optimize, scipy.integrate; print(scipy.stats.norm.cdf(0) == 0.5)",
    "peft": "from diffusers.loaders import lora_base; print(lora_base.BaseTunerLayer.__module__.startswith('peft'))",
    "hooks": "from diffusers.hooks import apply_layerwise_casting; print(callable(apply_layerwise_casting))",
    "networks": "from diffusers import AutoencoderTiny, Transformer2DModel; print(issubclass(AutoencoderTiny, object))",
    "schedulers": "from diffusers import LMSDiscreteScheduler; print(LMSDiscreteScheduler().set_timesteps(4) is None)",
    "einx": "import einx; print(einx.add.__module__.startswith('einx'))",
    "beta": "from diffusers import EulerDiscreteScheduler as E;"
    "e = E(use_beta_sigmas=True); e.set_timesteps(4); print(len(e.timesteps) == 4)",
}


EACH = """
import json, os, sys
import modules.story_model.story_model
for name, code in json.loads(sys.argv[1]).items():
    if not (child := os.fork()):
        print(name, end=" ", flush=True)
        exec(code)
        sys.stdout.flush()
        os._exit(0)
    os.waitpid(child, 0)
"""


@pytest.mark.slow
def test_optional_libraries_load_when_they_are_needed():
    """Each in a child of its own of a process that imported the model."""
    found = dict(line.split() for line in run(EACH, json.dumps(LATER)).splitlines())
    assert found == dict.fromkeys(LATER, "True")
