"""Optimizer state as flat tensors and JSON, restored bit for bit."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor
from torch.optim import Optimizer

from modules.common.errors import UserError


def flatten_optimizer(optimizer: Optimizer) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Split an optimizer's state into flat tensors (``state.12.exp_avg``, the live ones) and JSON-able
    hyper-parameters.

    Raises:
        TypeError: The optimizer keeps something that is neither a tensor nor plain data.
    """
    snapshot = optimizer.state_dict()
    tensors: dict[str, Tensor] = {}
    metadata: dict[str, Any] = {"state": {}, "param_groups": []}
    for index, entries in snapshot["state"].items():
        tensors |= {f"state.{index}.{key}": value for key, value in entries.items() if isinstance(value, Tensor)}
        plain = {key: _encode(value) for key, value in entries.items() if not isinstance(value, Tensor)}
        metadata["state"][str(index)] = plain
    for index, group in enumerate(snapshot["param_groups"]):
        tensors |= {f"group.{index}.{key}": value for key, value in group.items() if isinstance(value, Tensor)}
        metadata["param_groups"].append(
            {key: _encode(value) for key, value in group.items() if not isinstance(value, Tensor)}
        )
    return tensors, metadata


def restore_optimizer(optimizer: Optimizer, tensors: Mapping[str, Tensor], metadata: Mapping[str, Any]) -> None:
    """Restore the result of `flatten_optimizer` bit for bit, on the devices of the optimizer's parameters.

    Raises:
        UserError: The saved optimizer has other parameter groups.
    """
    state = {
        int(index): {key: _decode(value) for key, value in entries.items()}
        for index, entries in metadata["state"].items()
    }
    groups = [{key: _decode(value) for key, value in group.items()} for group in metadata["param_groups"]]
    for name, value in tensors.items():
        kind, index, key = name.split(".", 2)
        owner = state.setdefault(int(index), {}) if kind == "state" else groups[int(index)]
        owner[key] = value.clone()
    try:
        optimizer.load_state_dict({"state": state, "param_groups": groups})
    except ValueError as error:
        raise UserError(
            f"The checkpoint's optimizer does not fit this model ({error}): resume with the same configuration."
        ) from error
    _restore_dtypes(optimizer, state, groups)


def _encode(value: Any) -> Any:
    """Return plain data for JSON; tuples are marked, because betas must be restored as a tuple."""
    if isinstance(value, tuple):
        return {"tuple": [_encode(item) for item in value]}
    if isinstance(value, list):
        return [_encode(item) for item in value]
    if value is None or isinstance(value, bool | int | float | str):
        return value
    raise TypeError(f"optimizer state of type {type(value).__name__} cannot be stored as JSON")


def _decode(value: Any) -> Any:
    if isinstance(value, dict):
        return tuple(_decode(item) for item in value["tuple"])
    return [_decode(item) for item in value] if isinstance(value, list) else value


def _restore_dtypes(optimizer: Optimizer, state: Mapping[int, Mapping[str, Any]], groups: list[dict[str, Any]]) -> None:
    """Restore the dtypes of the state: on loading, torch casts fp32 moments of bf16 weights to bf16."""
    indices = [index for group in groups for index in group["params"]]
    parameters = [parameter for group in optimizer.param_groups for parameter in group["params"]]
    for index, parameter in zip(indices, parameters, strict=True):
        for key, value in state.get(index, {}).items():
            if isinstance(value, Tensor) and optimizer.state[parameter][key].dtype != value.dtype:
                optimizer.state[parameter][key] = value.to(optimizer.state[parameter][key].device)
