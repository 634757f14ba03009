"""Code statistics: co-occurrence, transitions, clusters, and a projection of the codebook."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from scipy.cluster.hierarchy import cophenet, leaves_list, linkage
from scipy.sparse import csr_array
from scipy.spatial.distance import pdist

MAX_CLUSTERED = 1024  # A dendrogram of more leaves than pixels shows nothing.


def code_presence(codes: np.ndarray, codebook_size: int) -> csr_array:
    """Return which steps contain which codes, in any slot: codes (N,S) -> (N,K) of 0 and 1."""
    rows = np.repeat(np.arange(len(codes)), codes.shape[1])
    presence = csr_array((np.ones(codes.size), (rows, codes.ravel())), shape=(len(codes), codebook_size))
    presence.data[:] = 1.0  # A code in two slots of a step counts once.
    return presence


def co_occurrence(presence: csr_array, chosen: Sequence[int]) -> np.ndarray:
    """Return the pointwise mutual information in bits (M,M) of M chosen codes occurring in one step.

    NaN on the diagonal. Half a step is added to the observed and the expected count, which shrinks rare pairs to 0.
    """
    part = presence[:, list(chosen)]
    counts = (part.T @ part).toarray()
    expected = np.outer(np.diag(counts), np.diag(counts)) / presence.shape[0]
    information = np.log2((counts + 0.5) / (expected + 0.5))
    np.fill_diagonal(information, np.nan)
    return information


def successions(codes: np.ndarray, lengths: Sequence[int], codebook_size: int) -> csr_array:
    """Return how often code a is followed by code b in the same slot of the next step (K,K), summed over slots."""
    last = np.cumsum(lengths) - 1
    first = np.delete(np.arange(len(codes)), last)
    before, after = codes[first].ravel(), codes[first + 1].ravel()
    return csr_array((np.ones(len(before)), (before, after)), shape=(codebook_size, codebook_size))


def transitions(counts: csr_array, chosen: Sequence[int]) -> np.ndarray:
    """Return the relative frequency (M,M) with which chosen code a is followed by chosen code b; rows sum to <= 1."""
    totals = np.asarray(counts.sum(1)).ravel()[list(chosen)]
    part = counts[list(chosen)][:, list(chosen)].toarray()
    return part / np.maximum(totals, 1)[:, None]


def cluster(vectors: np.ndarray, uses: np.ndarray) -> dict[str, Any] | None:
    """Cluster the used codes' vectors (K,D) by average linkage of cosine distances, with optimal leaf ordering.

    Returns `codes` from left to right, `merges` as rows (first, second, distance, size) with leaves numbered as in
    `codes`, and the cophenetic correlation (how well the tree preserves the distances); None for fewer than 3 codes.
    """
    order = np.argsort(-uses, kind="stable")
    used = np.sort(order[: min(MAX_CLUSTERED, int((uses > 0).sum()))])
    if len(used) < 3:
        return None
    distances = pdist(vectors[used], "cosine").clip(min=0)
    tree = linkage(distances, "average", optimal_ordering=True)
    leaves = leaves_list(tree)
    number = {leaf: place for place, leaf in enumerate(leaves.tolist())}
    merges = [
        [*(number.get(int(node), int(node)) for node in merge[:2]), float(merge[2]), int(merge[3])] for merge in tree
    ]
    correlation = cophenet(tree, distances)[0] if distances.std() > 0 else float("nan")
    return {"codes": used[leaves].tolist(), "merges": merges, "cophenetic_correlation": float(correlation)}


def project(vectors: np.ndarray) -> tuple[np.ndarray, float]:
    """Return the two principal components (M,2) of vectors (M,D), and the share of variance that they explain.

    The sign of an axis is arbitrary; the entry with the largest magnitude is made positive, so maps are reproducible.
    """
    centred = vectors - vectors.mean(0)
    left, scale, _ = np.linalg.svd(centred, full_matrices=False)
    points = np.zeros((len(vectors), 2))
    shown = min(2, len(scale))
    points[:, :shown] = left[:, :shown] * scale[:shown]
    points *= np.where(points[np.abs(points).argmax(0), [0, 1]] < 0, -1.0, 1.0)
    total = np.square(scale).sum()
    return points, float(np.square(scale[:2]).sum() / total) if total > 0 else 0.0
