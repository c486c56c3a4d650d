"""Retrieval and its measures against a plain double loop (Musgrave et al. 2020, section 3.2)."""

import numpy as np
import pytest

from workbook.data.images import ImageDataset
from workbook.evaluation.retrieval import (
    nearest_neighbors,
    raw_pixels,
    retrieval_metrics,
    split_recall,
)


def loop_metrics(query, query_labels, gallery, gallery_labels, ks, alone):
    rows = []
    for i, (q, label) in enumerate(zip(query.astype(np.float64), query_labels)):
        ranked = sorted(
            (((q - g) ** 2).sum(), j) for j, g in enumerate(gallery) if not (alone and i == j)
        )
        hits = [gallery_labels[j] == label for _, j in ranked]
        r = sum(hits)
        if r == 0:
            continue
        row = {f"recall@{k}": any(hits[:k]) for k in ks}
        row["precision@1"] = hits[0]
        row["r_precision"] = sum(hits[:r]) / r
        row["map@r"] = sum(sum(hits[: j + 1]) / (j + 1) for j in range(r) if hits[j]) / r
        rows.append(row)
    return {name: np.mean([row[name] for row in rows]) for name in rows[0]}


@pytest.mark.parametrize("kind", ["random", "tied", "single-image classes", "duplicates"])
@pytest.mark.parametrize("alone", [True, False], ids=["leave-one-out", "gallery"])
@pytest.mark.parametrize("seed", range(3))
def test_metrics_equal_a_plain_double_loop(kind, alone, seed):
    rng = np.random.default_rng(seed)
    x = rng.normal(size=(60, 4)) if kind != "tied" else rng.integers(0, 2, (60, 4))
    if kind == "duplicates":
        x = np.repeat(x[:12], 5, axis=0)
    x = x.astype(np.float32)
    labels = np.arange(60) // 2 if kind == "single-image classes" else rng.integers(0, 6, 60)
    labels[::7] = np.arange(100, 109) if kind == "single-image classes" else labels[::7]
    query, gallery = (x, x) if alone else (x[:25], x[25:])
    ql, gl = (labels, labels) if alone else (labels[:25], labels[25:])
    expected = loop_metrics(query, ql, gallery, gl, (1, 2, 4, 8), alone)
    found = retrieval_metrics(query, ql, *((None, None) if alone else (gallery, gl)))
    assert found.keys() == expected.keys()
    for name in found:
        assert found[name] == pytest.approx(expected[name], abs=1e-9), name


def test_a_duplicate_counts_but_the_query_itself_does_not():
    x = np.array([[0.0], [0.0], [5.0], [5.0]], np.float32)
    distances, indices = nearest_neighbors(x)
    assert indices[:, 0].tolist() == [1, 0, 3, 2] and not distances.any()


def test_all_equal_points_are_answered_by_lowest_index():
    _, indices = nearest_neighbors(np.zeros((30, 3), np.float32), k=3)
    assert indices[0].tolist() == [1, 2, 3] and indices[2].tolist() == [0, 1, 3]
    assert (indices[3:] == [0, 1, 2]).all()


def test_distances_are_squared():
    distances, _ = nearest_neighbors(np.array([[0.0, 0]]), np.array([[3.0, 4]]))
    assert distances[0, 0] == 25


def test_bad_requests_are_named():
    with pytest.raises(ValueError, match="k=4: a query has 3 candidates"):
        nearest_neighbors(np.zeros((4, 2)), k=4)
    with pytest.raises(ValueError, match="no query has another image"):
        retrieval_metrics(np.zeros((3, 2)), [0, 1, 2])


def test_split_recall_uses_training_images_or_leaves_one_out():
    labels = np.array([0, 0, 1, 1, 2, 2])
    splits = np.array(["train", "test", "train", "test", "unseen", "unseen"])
    dataset = ImageDataset("d", None, labels, ["a", "b", "c"], [], splits)
    x = np.array([[0], [1], [9], [4], [4.1], [3.9]], np.float32)  # test 3 is closer to 0 than to 9
    assert split_recall(x, dataset, "test") == 0.5
    assert split_recall(x, dataset, "unseen") == 1.0
    assert np.isnan(split_recall(x, dataset, "validation"))


def test_raw_pixels_are_means_of_blocks_and_what_is_left_over_is_cut():
    images = np.zeros((600, 5, 5, 3), np.uint8)  # more than one block of rows
    images[-1, :2, 2:4] = [[[0, 10, 255]] * 2, [[4, 20, 255]] * 2]
    rows = raw_pixels(images, side=2)
    assert rows.shape == (600, 12) and rows.dtype == np.float32
    assert rows[-1].tolist() == [0, 0, 0, 2, 15, 255, 0, 0, 0, 0, 0, 0] and not rows[:-1].any()
    with pytest.raises(ValueError, match="side=6 is above the 5 pixels"):
        raw_pixels(images, side=6)
