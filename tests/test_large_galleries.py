"""The tool that measures large galleries, on a small one."""

import numpy as np

from tools.large_galleries import draw_embeddings, make, measure


def test_drawn_embeddings_have_length_1_and_lie_near_those_of_their_class():
    classes = np.repeat(np.arange(20), 5)
    vectors = draw_embeddings(100, classes, 1)
    np.testing.assert_allclose(np.linalg.norm(vectors, axis=1), 1, rtol=1e-5)
    distances = ((vectors[:, None] - vectors) ** 2).sum(-1)
    np.fill_diagonal(distances, np.inf)
    assert (classes[distances.argmin(1)] == classes).mean() > 0.95
    other = draw_embeddings(100, classes, 2)
    nearest = ((other[:, None] - vectors) ** 2).sum(-1).argmin(1)
    assert (classes[nearest] == classes).mean() > 0.95, "another draw has the same classes"


def test_a_gallery_is_measured(tmp_path):
    made = make(1000, str(tmp_path))
    row = measure(1000, str(tmp_path))
    assert made["save_seconds"] > 0 and row["queries_seconds"] > 0
    assert 0 < row["add_written_mb"] < 0.1, "the gallery of a megabyte is not written again"
    assert row["slowest_query_ms"] >= row["query_ms"]
    if "recall_at_1" in row:  # faiss is installed
        assert row["recall_at_1"] >= 0.98 and row["recall_of_queries"] >= 0.98
