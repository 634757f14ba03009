"""What a language model makes of texts without a plan, kept while the model does not change."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.distributed.tensor import DTensor
from transformers import PreTrainedModel
from transformers.modeling_outputs import BaseModelOutputWithPastAndCrossAttentions

from modules.layers.losses import token_nats
from modules.layers.row_groups import LENGTH_STEP

KEPT_BYTES = 2**29  # Of 6,800 texts of 34 tokens by a model of width 576.


class Kept(NamedTuple):
    """Last hidden states (...,L,D) of texts, and the log-sum-exp (...,L) of the logits of words that are not scored."""

    states: Tensor
    others: Tensor


class KeptStates:
    """The last hidden states of texts, on a CPU: training beside a language model of 135 million weights spends three
    quarters of its time on them, and most of the rest on scoring 49,000 words.

    So with a plan only the words of the training texts are scored (a limited vocabulary, arXiv 1412.2007); all others
    keep what they have in the softmax's sum without a plan. Before the plan changes anything the loss is exact.
    Every text is read by itself, so its states do not depend on the batch that it was first met in: a run that resumes
    finds the same numbers.
    """

    def __init__(self, language_model: PreTrainedModel) -> None:
        self._model: Any = language_model
        self._trunk: Any = language_model.get_decoder()
        self._words: Tensor | None = None
        self._texts: dict[bytes, Kept] = {}
        self._rows: tuple[Tensor, Tensor | None]  # Of the head, for the words that are scored.
        self._version: tuple[Any, ...] = ()
        self.num_read, self.seconds = 0, 0.0  # Texts that the model has read, and how long that took.

    def seconds_to_read(self, num_texts: int) -> float:
        """Return how long it takes to read those of so many texts that are not kept yet; 0 if nothing is kept, or if
        not all of them can be.
        """
        return self.seconds / self.num_read * max(0, num_texts - len(self._texts)) if self.keeps(num_texts) else 0.0

    def keeps(self, num_texts: int) -> bool:
        """Return whether texts are kept at present, and so many would be."""
        return bool(self._texts) and num_texts * self._nbytes() <= KEPT_BYTES * len(self._texts)

    def _nbytes(self) -> int:
        return sum(kept.states.nbytes for kept in self._texts.values())

    def fit_words(self, input_ids: Tensor, text_mask: Tensor) -> None:
        """Score the words of texts (N,L): all that are trained on. Before this nothing is kept."""
        words = input_ids[text_mask].unique()
        if self._words is None or not torch.equal(words, self._words):  # Phases of one run have the same.
            self._words, self._version = words, ()

    @contextmanager
    def in_place_of_layers(
        self, input_ids: Tensor, text_mask: Tensor, gate: Tensor
    ) -> Iterator[Callable[[Tensor, Tensor], Tensor] | None]:
        """Inside, the model's layers return the kept states of these texts (N,L), and its head the logits (N,L,W) of
        the words that are scored, where closed gates hide the prefix from layers that do not train.

        Yields the function from such logits and the tokens (N,L) that follow to nats (N,L); None where nothing is kept.
        """
        if not self._may_keep(input_ids) or gate.requires_grad or gate.any():
            self._version = ()
            self._texts.clear()
            yield None
            return
        kept, words, head = self.read(input_ids, text_mask), self._words, self._model.get_output_embeddings()
        assert words is not None

        def nats(logits: Tensor, targets: Tensor) -> Tensor:
            scores = torch.cat([logits.float(), kept.others[..., None]], dim=-1)
            return token_nats(scores, torch.searchsorted(words, targets.contiguous()))

        weight, bias = self._rows
        with (
            _replaced(self._trunk, lambda *_args, **_options: _as_output(kept.states)),
            _replaced(head, lambda hidden: F.linear(hidden, weight, bias)),
        ):
            yield nats

    def _may_keep(self, input_ids: Tensor) -> bool:
        """Whether states may be kept: on a CPU, of a model that does not train and has no dropout.

        A GPU computes them as fast as it reads them, and would wait for the texts to be looked up; shards of weights,
        and the fake tensors of a memory estimate have no values.
        """
        return (
            self._words is not None
            and type(input_ids) is Tensor
            and input_ids.device.type == "cpu"
            and not self._trunk.training
            and not any(value.requires_grad or isinstance(value, DTensor) for value in self._model.parameters())
        )

    @torch.no_grad()
    def read(self, input_ids: Tensor, text_mask: Tensor) -> Kept:
        """Return what is kept of texts (N,L) whose first tokens are those in `text_mask` (N,L); 0 elsewhere."""
        self._forget_what_changed()
        counts = text_mask.sum(1).clamp(min=1).tolist()
        texts = [self._of_text(ids[:count]) for ids, count in zip(input_ids, counts, strict=True)]
        states = texts[0].states.new_zeros(*input_ids.shape, texts[0].states.shape[-1])
        others = texts[0].others.new_zeros(input_ids.shape)
        for row, text in enumerate(texts):
            states[row, : len(text.states)], others[row, : len(text.others)] = text
        return Kept(states, others)

    def _of_text(self, ids: Tensor) -> Kept:
        """Return what is kept of one text (L,)."""
        key = ids.numpy().tobytes()
        if key in self._texts:
            return self._texts[key]
        started = time.monotonic()
        padded = ids.new_zeros(1, -(-len(ids) // LENGTH_STEP) * LENGTH_STEP)  # Causal: what follows changes nothing.
        padded[0, : len(ids)] = ids
        states = self._trunk(input_ids=padded, use_cache=False).last_hidden_state
        with _replaced(self._trunk, lambda *_args, **_options: _as_output(states)):
            logits = self._model(input_ids=padded, use_cache=False).logits[0, : len(ids)]
        others = logits.float().index_fill(1, self._words, -torch.inf).logsumexp(1)
        text = Kept(states[0, : len(ids)].clone(), others)
        if text.states.nbytes + self._nbytes() <= KEPT_BYTES:
            self._texts[key] = text
        self.num_read, self.seconds = self.num_read + 1, self.seconds + time.monotonic() - started
        return text

    def _forget_what_changed(self) -> None:
        """Forget all where the weights are not those that it was computed by, or other words are scored."""
        weights = tuple((value.data_ptr(), value._version) for value in self._model.parameters())
        version = (torch.is_autocast_enabled("cpu"), weights)
        if version != self._version:
            self._texts.clear()
            self._version = version
            head = self._model.get_output_embeddings()
            bias = getattr(head, "bias", None)
            self._rows = head.weight[self._words], None if bias is None else bias[self._words]


@contextmanager
def _replaced(module: nn.Module, forward: Callable[..., Any]) -> Iterator[None]:
    """Let a module compute something else inside; its hooks stay."""
    module.forward = forward
    try:
        yield
    finally:
        del module.forward


def _as_output(states: Tensor) -> BaseModelOutputWithPastAndCrossAttentions:
    return BaseModelOutputWithPastAndCrossAttentions(last_hidden_state=states)
