"""Exact search for the entries that are nearest to a query, without an index to build first.

The distances are estimated by a matrix product, which is fast but rounds. Every entry whose
estimate could belong to the k nearest is then measured again, so the answer is that of the plain
formula.
"""

import math

import numpy as np

QUERIES, PAIRS = 256, 2**12  # how many are compared at a time, and measured again
ESTIMATES = 2**21  # how many are in memory at a time: 8 MB
ROUNDING = 2.0**-24  # the largest relative error of one float32 operation
LARGEST = 3e38  # no limit is infinite, so that a pair to skip, at infinity, is above every limit


def squared_norms(vectors: np.ndarray) -> np.ndarray:
    """Return the squared lengths (n,) of vectors (n, dim)."""
    return np.einsum("ij,ij->i", vectors, vectors)


def squared_distances(
    queries: np.ndarray, rows: np.ndarray, entries: np.ndarray, columns: np.ndarray
) -> np.ndarray:
    """Return the squared distances (n,) float64 of n pairs of a query's row and an entry's."""
    distances = np.empty(len(rows))
    for start in range(0, len(rows), PAIRS):
        part = slice(start, start + PAIRS)
        difference = np.subtract(queries[rows[part]], entries[columns[part]], dtype=np.float64)
        distances[part] = squared_norms(difference)
    return distances


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
    memory = np.empty(min(ESTIMATES, max(1, len(queries)) * len(entries)), np.float32)
    for start in range(0, len(queries), QUERIES):
        block = slice(start, start + QUERIES)
        width = ESTIMATES // len(queries[block])
        for first in range(0, len(entries), width):
            others = slice(first, first + width)
            same_group = None
            if query_groups is not None and entry_groups is not None:
                same_group = query_groups[block, None] == entry_groups[others]
            rows, columns = _find_candidates(
                queries[block], entries[others], norms[others], distances[block], same_group, memory
            )
            distances[block], indices[block] = _keep_nearest(
                distances[block],
                indices[block],
                rows,
                first + columns,
                squared_distances(queries[block], rows, entries, first + columns),
            )
    return distances, indices


def _find_candidates(
    queries: np.ndarray,
    entries: np.ndarray,
    norms: np.ndarray,
    distances: np.ndarray,
    same_group: np.ndarray | None,
    memory: np.ndarray,
) -> tuple[np.ndarray, np.ndarray]:
    """Return (rows, columns) of the pairs that may be nearer than the k found so far.

    The squared distance is estimated as |q|^2 + |e|^2 - 2 q e, where q is a query and e an entry.
    """
    k, query_norms = distances.shape[1], squared_norms(queries)
    # a sum of `dim` products is off by at most dim * ROUNDING (Higham 2002, section 3.1)
    operations = 2 * (queries.shape[1] + 4)
    error = operations * ROUNDING * (query_norms + norms.max())
    shape = len(queries), len(entries)  # memory is used again, because new memory costs time
    estimates = np.matmul(-2 * queries, entries.T, out=memory[: math.prod(shape)].reshape(shape))
    estimates += norms  # |q|^2 is the same for a whole row and is left to the limits
    if same_group is not None:
        estimates[same_group] = np.inf
    limits = np.minimum(distances[:, -1] + error - query_norms, LARGEST)
    near = estimates <= limits.astype(np.float32)[:, None]
    if k < len(entries) and np.count_nonzero(near) > 8 * k * len(near):  # as in the first block
        limits = np.partition(estimates, k - 1, axis=1)[:, k - 1] + 2 * error
        near &= estimates <= limits[:, None]
    return np.divmod(np.flatnonzero(near), len(entries))  # ten times as fast as two-dimensional


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
