"""Linear probes: accuracy of a multinomial logistic regression from one-hot codes to an attribute of held-out steps."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from modules.evaluation.metrics.statistics import Estimate, mean_over_steps

MAX_ITERATIONS = 100


class Probes(nn.Module):
    """Logits (N,G,V) of V labels from codes (N,S), by G independent probes that are fitted together.

    Each probe reads the slots of one group: it has a weight for every slot, code and label, and a bias.
    """

    slots: Tensor
    offsets: Tensor
    owner: Tensor

    def __init__(self, groups: Sequence[Sequence[int]], num_codes: int, num_labels: int) -> None:
        super().__init__()
        slots = [slot for group in groups for slot in group]
        owner = torch.tensor([number for number, group in enumerate(groups) for _ in group])
        self.weight = nn.Parameter(torch.zeros(len(slots) * num_codes, num_labels))
        self.bias = nn.Parameter(torch.zeros(len(groups), num_labels))
        self.register_buffer("slots", torch.tensor(slots))
        self.register_buffer("offsets", torch.arange(len(slots)) * num_codes)
        self.register_buffer("owner", F.one_hot(owner, len(groups)).float())

    def forward(self, codes: Tensor) -> Tensor:
        votes = F.embedding(codes[:, self.slots] + self.offsets, self.weight)
        return torch.einsum("nfv,fg->ngv", votes, self.owner) + self.bias


def fit_probes(
    codes: np.ndarray,
    labels: np.ndarray,
    groups: Sequence[Sequence[int]],
    num_codes: int,
    num_labels: int,
    penalty: float = 1.0,
) -> Probes:
    """Maximise the ridge-penalised likelihood of labels (N,) given codes (N,S), by L-BFGS from zero (deterministic).

    `penalty` is the inverse of the prior variance of a weight; a code that never occurs keeps the weight 0.
    """
    inputs, targets = torch.from_numpy(codes).long(), torch.from_numpy(labels).long()
    targets = targets[:, None].expand(-1, len(groups)).flatten()
    probes = Probes(groups, num_codes, num_labels)
    optimizer = torch.optim.LBFGS(
        probes.parameters(), max_iter=MAX_ITERATIONS, tolerance_change=1e-7, line_search_fn="strong_wolfe"
    )

    def closure() -> Tensor:
        optimizer.zero_grad()
        loss = (
            F.cross_entropy(probes(inputs).flatten(0, 1), targets, reduction="sum")
            + penalty * probes.weight.square().sum() / 2
        )
        loss = loss / len(targets)
        loss.backward()
        return loss

    with torch.enable_grad():
        optimizer.step(closure)
    return probes.requires_grad_(False)


def probe_accuracies(
    train_codes: np.ndarray,
    train_labels: np.ndarray,
    codes: np.ndarray,
    labels: np.ndarray,
    lengths: Sequence[int],
    groups: Sequence[Sequence[int]],
) -> list[Estimate]:
    """Return, for each group of slots, the accuracy on held-out steps of a probe fitted on training stories.

    Codes (N,S), labels (N,) integers; `lengths` are the held-out stories' numbers of steps. The floor is the accuracy
    of the most frequent training label.
    """
    train_codes, codes, num_codes = _renumbered(train_codes, codes)
    num_labels = int(max(train_labels.max(), labels.max())) + 1
    probes = fit_probes(train_codes, train_labels, groups, num_codes, num_labels)
    right = probes(torch.from_numpy(codes).long()).argmax(-1).numpy() == labels[:, None]
    floor = float((labels == np.bincount(train_labels).argmax()).mean())
    ones = np.ones(len(labels))
    return [mean_over_steps(column, ones, lengths, floor=floor, ceiling=1.0) for column in right.T]


def _renumbered(train_codes: np.ndarray, codes: np.ndarray) -> tuple[np.ndarray, np.ndarray, int]:
    """Return both sets (N,S) with the codes of each slot renumbered from 0, and the number of codes.

    Codes that do not occur in training share one number. A slot uses about an eighth of the codebook; without
    renumbering, most weights would stay zero.
    """
    numbered = []
    for train_column, column in zip(train_codes.T, codes.T, strict=True):
        seen = np.unique(train_column)
        places = np.searchsorted(seen, column).clip(max=len(seen) - 1)
        numbered.append((np.searchsorted(seen, train_column), np.where(seen[places] == column, places, len(seen))))
    train, held_out = (np.stack(columns, axis=1) for columns in zip(*numbered, strict=True))
    return train, held_out, int(max(train.max(), held_out.max())) + 1
