"""Retrieval and its measures against a plain double loop (Musgrave et al. 2020, section 3.2)."""

import tracemalloc

import numpy as np
import pytest

from workbook.data.images import ImageDataset
from workbook.evaluation.retrieval import (
    nearest_neighbors,
    raw_pixels,
    retrieval_metrics,
    split_neighbors,
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
    with pytest.raises(ValueError, match=r"query labels such as .* both must be numbers, or both"):
        retrieval_metrics(np.zeros((2, 2)), [0, 0], np.zeros((2, 2)), ["a", "b"])
    for x in (np.array([[0, 1], [np.nan, 1]]), np.array([[0, 1], [np.inf, 1]])):
        with pytest.raises(ValueError, match=r"^an embedding holds NaN or infinity"):
            nearest_neighbors(x)


def test_split_recall_uses_training_images_or_leaves_one_out():
    labels = np.array([0, 0, 1, 1, 2, 2])
    splits = np.array(["train", "test", "train", "test", "unseen", "unseen"])
    dataset = ImageDataset("d", None, labels, ["a", "b", "c"], [], splits)
    x = np.array([[0], [1], [9], [4], [4.1], [3.9]], np.float32)  # test 3 is closer to 0 than to 9
    assert split_recall(x, dataset, "test") == 0.5
    assert split_recall(x, dataset, "unseen") == 1.0
    assert np.isnan(split_recall(x, dataset, "validation"))


def dataset_of(labels, splits):
    names = [str(i) for i in range(max(labels, default=0) + 1)]
    return ImageDataset("d", None, np.array(labels), names, [], np.array(splits, str))


@pytest.mark.parametrize(
    ("labels", "splits", "x", "asked", "recall"),
    [
        # two classes of two images: each image is asked for its one companion
        ([0, 0, 1, 1], ["train"] * 4, [0, 1, 5, 6], [0, 1, 2, 3], 1),
        ([0, 0, 1, 1], ["train"] * 4, [0, 5, 1, 6], [0, 1, 2, 3], 0),
        # image 2 has no companion: it is no question, but it may be the (wrong) answer
        ([0, 0, 1], ["train"] * 3, [0, 2, 3], [0, 1], 0.5),
        # nothing can be asked: one image per class
        ([0, 1, 2], ["train"] * 3, [0, 1, 2], [], np.nan),
        ([], [], [], [], np.nan),
    ],
)
def test_without_a_test_split_the_training_images_are_asked(labels, splits, x, asked, recall):
    dataset, x = dataset_of(labels, splits), np.reshape(x, (-1, 1)).astype(np.float32)
    queries, neighbors = split_neighbors(x, dataset, "test")
    assert queries.tolist() == asked and not np.isin(queries, neighbors)[queries == neighbors].any()
    assert split_recall(x, dataset, "test") == pytest.approx(recall, nan_ok=True)
    assert np.isnan(split_recall(x, dataset, "validation")), "no image is left for it"


def test_a_training_image_is_not_found_by_itself():
    dataset, x = dataset_of([0, 0, 1, 1], ["train"] * 4), np.array([[0], [5], [1], [6]], np.float32)
    assert split_recall(x, dataset, "train") == 0


@pytest.mark.parametrize("classes", [2, 3, 5, 20])
@pytest.mark.parametrize("images", [2, 3, 5, 15])
@pytest.mark.parametrize("held", [0, 1, 2])
def test_every_split_of_a_small_folder_has_a_recall_or_nan(classes, images, held):
    """Separated classes are found wherever an image has somebody of its class to find."""
    labels = np.repeat(np.arange(classes), images)
    for test in (0, 1):
        splits = np.where(np.tile(np.arange(images), classes) < test, "test", "train").astype("U9")
        splits[labels < held] = "unseen"
        x = 10.0 * labels[:, None] + np.random.default_rng(0).random((len(labels), 2))
        found = {s: split_recall(x, dataset_of(labels, splits), s) for s in ("test", "unseen")}
        companions = images > 1 if test == 0 else images - test > 0
        assert found["test"] == pytest.approx(1 if classes > held and companions else np.nan,
                                              nan_ok=True)  # fmt: skip
        assert found["unseen"] == pytest.approx(1 if held else np.nan, nan_ok=True)


def test_one_held_out_image_cannot_be_asked():
    dataset = dataset_of([0, 0, 0, 1], ["train", "train", "test", "unseen"])
    x = np.arange(4, dtype=np.float32)[:, None]
    assert np.isnan(split_recall(x, dataset, "unseen")) and split_recall(x, dataset, "test") == 1


def test_raw_pixels_are_means_of_blocks_and_what_is_left_over_is_cut():
    images = np.zeros((600, 5, 5, 3), np.uint8)  # more than one block of rows
    images[-1, :2, 2:4] = [[[0, 10, 255]] * 2, [[4, 20, 255]] * 2]
    rows = raw_pixels(images, side=2)
    assert rows.shape == (600, 12) and rows.dtype == np.float32
    assert rows[-1].tolist() == [0, 0, 0, 2, 15, 255, 0, 0, 0, 0, 0, 0] and not rows[:-1].any()
    with pytest.raises(ValueError, match="side=6 is above the 5 pixels"):
        raw_pixels(images, side=6)


def test_retrieval_never_holds_all_distances():
    vectors = np.random.default_rng(0).normal(size=(10_000, 8)).astype(np.float32)
    tracemalloc.start()
    try:
        retrieval_metrics(vectors, np.arange(10_000) // 5)
        assert tracemalloc.get_traced_memory()[1] < 10_000**2 * 4 / 10
    finally:
        tracemalloc.stop()
