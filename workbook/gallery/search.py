"""Exact search for the entries that are nearest to a query, without an index to build first.

The distances are estimated by a matrix product, which is fast but rounds. Every entry whose
estimate could belong to the k nearest is then measured again, so the answer is that of the plain
formula.
"""

from collections.abc import Iterator

import numpy as np

QUERIES, ENTRIES, PAIRS = 256, 2**14, 2**12  # in memory at a time: at most 16 MB of distances
ROUNDING = 2.0**-24  # the largest relative error of one float32 operation


def squared_norms(vectors: np.ndarray) -> np.ndarray:
    """Return the squared lengths (n,) of vectors (n, dim)."""
    return np.einsum("ij,ij->i", vectors, vectors)


def squared_distances(vectors: np.ndarray, others: np.ndarray) -> np.ndarray:
    """Return the squared distance of each pair of rows, (n,) float64, from its differences."""
    parts = [np.empty(0)]
    for start in range(0, len(vectors), PAIRS):
        block = slice(start, start + PAIRS)
        difference = np.subtract(vectors[block], others[block], dtype=np.float64)
        parts.append(squared_norms(difference))
    return np.concatenate(parts)


def nearest_entries(
    queries: np.ndarray,
    entries: np.ndarray,
    k: int = 1,
    norms: np.ndarray | None = None,
    query_groups: np.ndarray | None = None,
    entry_groups: np.ndarray | None = None,
) -> tuple[np.ndarray, np.ndarray]:
    """Find the k entries that are nearest to each query.

    Parameters
    ----------
    queries, entries
        Embeddings (n, dim) and (m, dim), float32.
    k
        How many entries to find for each query.
    norms
        `squared_norms(entries)`, where they are at hand.
    query_groups, entry_groups
        Group numbers (n,) and (m,). A query is never compared with an entry of its own group.

    Returns
    -------
    tuple of arrays
        Squared Euclidean distances (n, k) float64 in ascending order, and the indices (n, k) of
        the entries. Of equal distances the lower index comes first. Where fewer than k entries
        may be compared, the rest is infinity and -1.
    """
    queries = np.ascontiguousarray(queries, np.float32)
    norms = squared_norms(entries) if norms is None else norms
    distances = np.full((len(queries), k), np.inf)
    indices = np.full((len(queries), k), -1)
    for start in range(0, len(queries), QUERIES):
        block = slice(start, start + QUERIES)
        for first, estimates, error in _estimate_distances(queries[block], entries, norms):
            if query_groups is not None and entry_groups is not None:
                others = entry_groups[first : first + estimates.shape[1]]
                estimates[query_groups[block, None] == others] = np.inf
            rows, columns = _select_candidates(estimates, distances[block, -1], error, k)
            exact = [np.empty(0)]
            for part in range(0, len(rows), PAIRS):
                pairs = slice(part, part + PAIRS)
                near = entries[first + columns[pairs]]
                exact.append(squared_distances(queries[block][rows[pairs]], near))
            distances[block], indices[block] = _keep_nearest(
                distances[block], indices[block], rows, first + columns, np.concatenate(exact)
            )
    return distances, indices


def _estimate_distances(
    queries: np.ndarray, entries: np.ndarray, norms: np.ndarray
) -> Iterator[tuple[int, np.ndarray, np.ndarray]]:
    """Yield (index of the first entry, estimates (n, block), their largest errors (n,))."""
    query_norms = squared_norms(queries)
    for first in range(0, len(entries), ENTRIES):
        block = slice(first, first + ENTRIES)
        estimates = queries @ entries[block].T
        estimates *= -2
        estimates += norms[block]
        estimates += query_norms[:, None]
        # a sum of `dim` products is off by at most dim * ROUNDING (Higham 2002, section 3.1)
        operations = 2 * (queries.shape[1] + 4)
        yield first, estimates, operations * ROUNDING * (query_norms + norms[block].max())


def _select_candidates(
    estimates: np.ndarray, limits: np.ndarray, error: np.ndarray, k: int
) -> tuple[np.ndarray, np.ndarray]:
    """Return (rows, columns) of all estimates that may be among the k nearest.

    limits: each query's k-th smallest distance so far, or infinity.
    """
    near = estimates <= (limits + error)[:, None]
    near &= np.isfinite(estimates)
    if k < estimates.shape[1] and np.count_nonzero(near) > 8 * k * len(near):  # as in the first
        kth = np.partition(estimates, k - 1, axis=1)[:, k - 1]
        near &= estimates <= (kth + 2 * error)[:, None]
    rows, columns = np.nonzero(near)
    return rows, columns


def _keep_nearest(
    distances: np.ndarray,
    indices: np.ndarray,
    rows: np.ndarray,
    new_indices: np.ndarray,
    new_distances: np.ndarray,
) -> tuple[np.ndarray, np.ndarray]:
    """Return the k nearest of those found before, (n, k), and the new ones of these rows."""
    n, k = distances.shape
    every_row = np.concatenate([np.repeat(np.arange(n), k), rows])
    every_distance = np.concatenate([distances.ravel(), new_distances])
    every_index = np.concatenate([indices.ravel(), new_indices])
    order = np.lexsort((every_index, every_distance, every_row))
    starts = np.searchsorted(every_row[order], np.arange(n))
    kept = order[starts[:, None] + np.arange(k)]
    return every_distance[kept], every_index[kept]
