"""Information in bits: entropy, divergence, and the mutual information of slots and attributes, with its null value."""

from __future__ import annotations

from collections.abc import Sequence, Sized
from dataclasses import dataclass

import numpy as np
from scipy.special import entr

from modules.evaluation.metrics.statistics import first_rows

NUM_SHUFFLES = 200
NUM_GROUPS = 20  # Groups of stories, for the jackknife.
SHUFFLES_A_GROUP = 20  # Shuffles for the null value without one group.


def entropy(counts: np.ndarray, axis: int = -1) -> np.ndarray:
    """Return the entropy in bits of the distributions proportional to `counts` along `axis`; 0 if all counts are 0."""
    counts = np.asarray(counts, dtype=np.float64)
    shares = counts / np.maximum(counts.sum(axis, keepdims=True), 1e-300)
    return entr(shares).sum(axis) / np.log(2)


def perplexity(counts: np.ndarray, axis: int = -1) -> np.ndarray:
    """Return 2 to the entropy: the number of equally frequent codes with the same entropy.

    It is underestimated if there are few counts.
    """
    return 2 ** entropy(counts, axis)


def jensen_shannon(counts: np.ndarray, others: np.ndarray, axis: int = -1) -> np.ndarray:
    """Return the Jensen-Shannon divergence in bits of the distributions proportional to two arrays of counts.

    0 for equal, 1 for disjoint distributions. Two samples of one distribution have a positive divergence, larger for
    smaller samples: compare with a floor of the same sample sizes.
    """
    shares = [
        np.asarray(c, dtype=np.float64) / np.maximum(np.sum(c, axis, keepdims=True), 1e-300) for c in (counts, others)
    ]
    mixed = entropy((shares[0] + shares[1]) / 2, axis)
    return np.maximum(0.0, mixed - (entropy(shares[0], axis) + entropy(shares[1], axis)) / 2)


@dataclass(frozen=True)
class SlotInformation:
    """Mutual information of S slots and A attributes.

    `bits` (S,A) is the plug-in estimate, `null` (S,A) its mean over shuffles that remove all dependence, `p_values`
    (S,A) are one-sided and not corrected for multiple tests, `entropy` (A,) is that of the attributes, in bits.
    """

    bits: np.ndarray
    null: np.ndarray
    p_values: np.ndarray
    entropy: np.ndarray

    @property
    def excess(self) -> np.ndarray:
        """Bits above the null value (S,A)."""
        return self.bits - self.null

    @property
    def share(self) -> np.ndarray:
        """The share of an attribute's entropy that a slot explains (S,A): 1 for all of it, about 0 for none.

        Adjusted for chance as by Vinh, Epps and Bailey (JMLR 11, 2010); 0 for an attribute that is constant, or whose
        null value is already its entropy.
        """
        room = np.broadcast_to(self.entropy, self.bits.shape) - self.null
        return np.divide(self.excess, room, out=np.zeros_like(room), where=room > 1e-9)

    def of(self, columns: Sequence[int]) -> SlotInformation:
        """Return the same for some of the attributes."""
        columns = list(columns)
        return SlotInformation(
            self.bits[:, columns], self.null[:, columns], self.p_values[:, columns], self.entropy[columns]
        )


def slot_information(
    codes: np.ndarray, labels: np.ndarray, lengths: Sequence[int], num_shuffles: int = NUM_SHUFFLES, seed: int = 0
) -> SlotInformation:
    """Return the mutual information of codes (N,S) and integer labels (N,A); stories have `lengths` steps.

    The plug-in estimate is biased upwards by about (codes - 1)(labels - 1) / (2 N ln 2) bits (Miller 1955): with 100
    codes in use and a thousand steps, by half a bit for any attribute. It is therefore compared with the same estimate
    after the labels of whole stories were exchanged. Steps of one story are not exchangeable: shuffling single steps
    would give a null value that is far too low, because everything that stays constant in a story is correlated.
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
    """Return the plug-in mutual information (S,A) of codes (N,S) and labels (N,A), both small integers."""
    pairs = [[code * (label.max() + 1) + label for label in labels.T] for code in codes.T]
    joint = np.array([[entropy(np.bincount(pair)) for pair in row] for row in pairs])
    return _column_entropies(codes)[:, None] + _column_entropies(labels) - joint


def _column_entropies(numbers: np.ndarray) -> np.ndarray:
    return np.array([entropy(np.bincount(column)) for column in numbers.T])


def shuffled_rows(lengths: Sequence[int], rng: np.random.Generator) -> np.ndarray:
    """Return, for each step, the row (N,) of the step whose labels it receives.

    Each story receives the labels of a random story, rotated by a random number of steps (otherwise labels would stay
    correlated with the position), and repeated or truncated to its length.
    """
    starts = first_rows(lengths)
    donors, turns = rng.permutation(len(lengths)), rng.integers(0, lengths)
    places = zip(lengths, donors, turns, strict=True)
    return np.concatenate(
        [starts[donor] + (np.arange(length) + turn) % lengths[donor] for length, donor, turn in places]
    )


def groups_left_out(lengths: Sized, seed: int = 0) -> list[np.ndarray]:
    """Return, for each of up to NUM_GROUPS random groups of stories, the stories (B,) bool outside the group.

    Empty if there is only one story, because the variance between stories is then unknown.
    """
    num_groups = min(NUM_GROUPS, len(lengths))
    group = np.random.default_rng(seed).permutation(len(lengths)) % max(1, num_groups)
    return [group != number for number in range(num_groups)] if num_groups > 1 else []
