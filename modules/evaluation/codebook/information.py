"""Information in bits: entropy, divergence, and what slots tell of attributes, with a null and with intervals over
stories.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy.special import entr

NUM_SHUFFLES = 200
NUM_GROUPS = 20  # Parts that the stories are cut into for the jackknife.
SHUFFLES_A_GROUP = 20


def entropy(counts: np.ndarray, axis: int = -1) -> np.ndarray:
    """Entropy in bits of the distributions proportional to `counts` along `axis`; 0 where nothing was counted."""
    counts = np.asarray(counts, dtype=np.float64)
    shares = counts / np.maximum(counts.sum(axis, keepdims=True), 1e-300)
    return entr(shares).sum(axis) / np.log(2)


def perplexity(counts: np.ndarray, axis: int = -1) -> np.ndarray:
    """2 to the entropy: as many equally frequent codes would be as uncertain.

    The plug-in value of few counts is too low.
    """
    return 2 ** entropy(counts, axis)


def jensen_shannon(counts: np.ndarray, others: np.ndarray, axis: int = -1) -> np.ndarray:
    """Jensen-Shannon divergence in bits between the distributions proportional to two arrays of counts: 0 the same, 1
    disjoint.

    Two samples of one distribution are above 0, the more so the smaller they are: compare with a floor of the same
    sample sizes.
    """
    shares = [
        np.asarray(c, dtype=np.float64) / np.maximum(np.sum(c, axis, keepdims=True), 1e-300) for c in (counts, others)
    ]
    mixed = entropy((shares[0] + shares[1]) / 2, axis)
    return np.maximum(0.0, mixed - (entropy(shares[0], axis) + entropy(shares[1], axis)) / 2)


@dataclass(frozen=True)
class SlotInformation:
    """`bits` (S,A): plug-in mutual information of each slot's code and each attribute; `null` (S,A) its mean over
    shuffles that leave nothing to tell; `p_values` (S,A) one-sided, not corrected for the number of cells; `entropy`
    (A,) of the attributes.
    """

    bits: np.ndarray
    null: np.ndarray
    p_values: np.ndarray
    entropy: np.ndarray

    @property
    def excess(self) -> np.ndarray:
        """(S,A) bits beyond chance."""
        return self.bits - self.null

    @property
    def share(self) -> np.ndarray:
        """(S,A): 1 where the slot tells all of the attribute, about 0 where it tells nothing (adjusted for chance as in
        Vinh, Epps and Bailey, JMLR 11, 2010); 0 for an attribute that is constant or that chance alone would tell.
        """
        room = np.broadcast_to(self.entropy, self.bits.shape) - self.null
        return np.divide(self.excess, room, out=np.zeros_like(room), where=room > 1e-9)

    def of(self, columns: Sequence[int]) -> SlotInformation:
        """The same of some of the attributes."""
        columns = list(columns)
        return SlotInformation(
            self.bits[:, columns], self.null[:, columns], self.p_values[:, columns], self.entropy[columns]
        )


def slot_information(
    codes: np.ndarray, labels: np.ndarray, lengths: Sequence[int], num_shuffles: int = NUM_SHUFFLES, seed: int = 0
) -> SlotInformation:
    """Mutual information of codes (N,S) and integer labels (N,A); `lengths` are the stories' numbers of steps.

    The plug-in estimate is biased upwards by about (codes - 1)(labels - 1) / (2 N ln 2) bits (Miller 1955): a slot with
    100 codes in use seems to tell half a bit of anything in a thousand steps. So it is compared with itself after the
    labels of whole stories have changed places. Steps of one story are not exchangeable: shuffled one by one they would
    make a null that is far too low, as what stays the same through a story falls together with whatever else does.
    """
    codes, labels = (
        np.stack([np.unique(column, return_inverse=True)[1] for column in rows.T], axis=1) for rows in (codes, labels)
    )
    rng = np.random.default_rng(seed)
    bits = _plug_in_bits(codes, labels)
    shuffled = np.stack([_plug_in_bits(codes, labels[shuffled_rows(lengths, rng)]) for _ in range(num_shuffles)])
    p_values = (1 + (shuffled >= bits - 1e-12).sum(0)) / (1 + num_shuffles)
    return SlotInformation(bits, shuffled.mean(0), p_values, _column_entropies(labels))


def _plug_in_bits(codes: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """Codes (N,S), labels (N,A), small integers -> (S,A)."""
    pairs = [[code * (label.max() + 1) + label for label in labels.T] for code in codes.T]
    joint = np.array([[entropy(np.bincount(pair)) for pair in row] for row in pairs])
    return _column_entropies(codes)[:, None] + _column_entropies(labels) - joint


def _column_entropies(numbers: np.ndarray) -> np.ndarray:
    return np.array([entropy(np.bincount(column)) for column in numbers.T])


def shuffled_rows(lengths: Sequence[int], rng: np.random.Generator) -> np.ndarray:
    """For each step (N,) the row of the step whose labels it gets: each story those of another one in random order,
    rotated by a random number of steps (or stories of one length would keep what goes with a position), and repeated or
    cut to its length.
    """
    starts = np.cumsum([0, *lengths[:-1]])
    donors, turns = rng.permutation(len(lengths)), rng.integers(0, lengths)
    places = zip(lengths, donors, turns, strict=True)
    return np.concatenate(
        [starts[donor] + (np.arange(length) + turn) % lengths[donor] for length, donor, turn in places]
    )


def groups_left_out(lengths: Sequence[int], seed: int = 0) -> list[np.ndarray]:
    """For each of up to NUM_GROUPS random groups of stories, which stories (B,) bool are left when it is taken out.

    Empty where there is only one story: nothing is known of how stories differ.
    """
    num_groups = min(NUM_GROUPS, len(lengths))
    group = np.random.default_rng(seed).permutation(len(lengths)) % max(1, num_groups)
    return [group != number for number in range(num_groups)] if num_groups > 1 else []
