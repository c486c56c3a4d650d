"""The exact search against the plain formula in double precision."""

import tracemalloc

import numpy as np
import pytest

from workbook.gallery import search
from workbook.gallery.search import nearest_entries


def find_plainly(queries, entries, k, query_groups=None, entry_groups=None):
    """(distances, indices) of each query by sorting all its distances."""
    for i, query in enumerate(queries.astype(np.float64)):
        distances = ((entries - query) ** 2).sum(1)
        if query_groups is not None:
            distances[entry_groups == query_groups[i]] = np.inf
        order = np.lexsort((np.arange(len(entries)), distances))[:k]
        order = order[np.isfinite(distances[order])]
        yield distances[order], order


def make_entries(kind, rng, count, dim):
    entries = rng.normal(size=(count, dim))
    if kind == "far from the origin":  # where a sum of squares rounds coarsely
        entries = entries * 0.01 + 100
    elif kind == "many ties":
        entries = np.round(entries)
    elif kind == "ever nearer":  # each block holds nearer entries than the one before
        entries = entries * np.linspace(9, 0.1, count)[:, None]
    elif kind == "one point":
        entries = np.ones((count, dim))
    return entries.astype(np.float32)


@pytest.mark.parametrize("groups", [False, True])
@pytest.mark.parametrize(
    "kind", ["normal", "far from the origin", "many ties", "ever nearer", "one point"]
)
def test_the_answer_is_that_of_the_plain_formula(kind, groups, monkeypatch):
    monkeypatch.setattr(search, "ESTIMATES", 16 * 64)
    monkeypatch.setattr(search, "QUERIES", 16)
    monkeypatch.setattr(search, "PAIRS", 50)
    rng = np.random.default_rng(0)
    for count, dim, k in ((1, 3, 1), (5, 2, 8), (63, 8, 3), (64, 1, 1), (500, 32, 5)):
        entries = make_entries(kind, rng, count, dim)
        copies = entries[rng.integers(0, count, 9)]
        queries = np.concatenate([copies, copies * 1.001, entries[:1] + 1]).astype(np.float32)
        of_query, of_entry = rng.integers(0, 3, len(queries)), rng.integers(0, 3, count)
        chosen = (of_query, of_entry) if groups else ()
        distances, indices = nearest_entries(queries, entries, k, None, *chosen)
        assert distances.shape == indices.shape == (len(queries), k)
        expected = find_plainly(queries, entries, k, *chosen)
        for row, (plain_distances, plain_indices) in enumerate(expected):
            found = len(plain_indices)
            assert indices[row, :found].tolist() == plain_indices.tolist()
            np.testing.assert_allclose(distances[row, :found], plain_distances, rtol=1e-12)
            assert (indices[row, found:] == -1).all() and np.isinf(distances[row, found:]).all()


def test_no_query_and_no_entry_have_no_answer():
    entries = np.ones((3, 2), np.float32)
    assert nearest_entries(entries[:0], entries, 2)[0].shape == (0, 2)
    assert nearest_entries(entries, entries[:0], 2)[1].tolist() == [[-1, -1]] * 3


def test_memory_is_bounded_by_the_blocks():
    rng = np.random.default_rng(0)
    entries = rng.normal(size=(100_000, 8)).astype(np.float32)
    tracemalloc.start()
    nearest_entries(entries[:1000], entries, 3)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 80e6, "all distances would fill 400 MB"
