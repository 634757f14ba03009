"""Hidden states of texts that a language model reads without a plan, kept while the model does not change."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor
from torch.distributed.tensor import DTensor
from transformers import PreTrainedModel
from transformers.modeling_outputs import BaseModelOutputWithPastAndCrossAttentions

from modules.layers.row_groups import LENGTH_STEP

KEPT_BYTES = 2**29  # Of 6,800 texts of 34 tokens by a model of width 576.


class KeptStates:
    """The last hidden states of texts, on a CPU: training beside a language model of 135 million weights spends three
    quarters of its time on them.

    Every text is read by itself, so its states do not depend on the batch that it was first met in: a run that resumes
    finds the same numbers.
    """

    def __init__(self, language_model: PreTrainedModel) -> None:
        self._trunk: Any = language_model.get_decoder()
        self._states: dict[bytes, Tensor] = {}
        self._version: tuple[Any, ...] = ()

    @contextmanager
    def in_place_of_layers(self, input_ids: Tensor, text_mask: Tensor, gate: Tensor) -> Iterator[None]:
        """Inside, the model's layers return the states of these texts (N,L), where closed gates hide the prefix from
        layers that do not train.
        """
        if not self._may_keep(input_ids) or gate.requires_grad or gate.any():
            self._states.clear()
            yield
            return
        states = self.read(input_ids, text_mask)
        self._trunk.forward = lambda *_args, **_options: BaseModelOutputWithPastAndCrossAttentions(
            last_hidden_state=states
        )
        try:
            yield
        finally:
            del self._trunk.forward

    def _may_keep(self, input_ids: Tensor) -> bool:
        """Whether states may be kept: on a CPU, of a model that does not train and has no dropout.

        A GPU computes them as fast as it reads them, and would wait for the texts to be looked up; shards of weights,
        and tensors that only pretend, as of a memory estimate, have no values.
        """
        return (
            type(input_ids) is Tensor
            and input_ids.device.type == "cpu"
            and not self._trunk.training
            and not any(value.requires_grad or isinstance(value, DTensor) for value in self._trunk.parameters())
        )

    @torch.no_grad()
    def read(self, input_ids: Tensor, text_mask: Tensor) -> Tensor:
        """Return the states (N,L,D) of texts whose first tokens are those in `text_mask`, both (N,L); 0 elsewhere."""
        self._forget_what_changed()
        counts = text_mask.sum(1).clamp(min=1).tolist()
        rows = [self._of_text(ids[:count]) for ids, count in zip(input_ids, counts, strict=True)]
        states = rows[0].new_zeros(*input_ids.shape, rows[0].shape[-1])
        for state, row in zip(states, rows, strict=True):
            state[: len(row)] = row
        return states

    def _of_text(self, ids: Tensor) -> Tensor:
        """Return the states (L,D) of one text (L,)."""
        key = ids.numpy().tobytes()
        if key in self._states:
            return self._states[key]
        padded = ids.new_zeros(1, -(-len(ids) // LENGTH_STEP) * LENGTH_STEP)  # Causal: what follows changes nothing.
        padded[0, : len(ids)] = ids
        states = self._trunk(input_ids=padded, use_cache=False).last_hidden_state[0, : len(ids)].clone()
        if states.nbytes + sum(kept.nbytes for kept in self._states.values()) <= KEPT_BYTES:
            self._states[key] = states
        return states

    def _forget_what_changed(self) -> None:
        """Forget all states where the weights are not those that they were computed by."""
        weights = tuple((value.data_ptr(), value._version) for value in self._trunk.parameters())
        version = (torch.is_autocast_enabled("cpu"), weights)
        if version != self._version:
            self._states.clear()
            self._version = version
