"""Field defaults of output dataclasses."""

from __future__ import annotations

from typing import Any

# The default of a ModelOutput field that is always set: transformers allows one field without a default. Typed Any, so
# that the field itself need not be declared optional.
REQUIRED: Any = None
