"""Triplet selection against plain loops that a reader can check by eye."""

import tracemalloc

import numpy as np
import pytest

import siamese_utils as su
from workbook.evaluation.retrieval import retrieval_metrics
from workbook.support.tensorflow_start import tf
from workbook.training.batches import IndexBatches, batch_shape, pk_batches
from workbook.training.mining import MINING, _select, mine_triplets, squared_distances


def batch(seed, n=24, classes=5, dim=6, integers=False):
    rng = np.random.default_rng(seed)
    x = rng.integers(0, 3, (n, dim)) if integers else rng.normal(size=(n, dim))
    return x.astype(np.float32), rng.integers(0, classes, n)


def d(x, i, j):
    return float(((x[i].astype(np.float64) - x[j]) ** 2).sum())


def loop_close_distance(x, labels):
    triplets = []
    for i in range(len(x)):
        for j in range(i + 1, len(x)):
            if labels[i] == labels[j]:
                gaps = [
                    (abs(d(x, i, n) - d(x, i, j)), n)
                    for n in range(len(x))
                    if labels[n] != labels[i]
                ]
                if gaps:
                    triplets.append((i, j, min(gaps)[1]))
    return triplets


def loop_mine(x, labels, strategy):
    n, found = len(x), []
    for a in range(n):
        positives = [p for p in range(n) if p != a and labels[p] == labels[a]]
        negatives = [m for m in range(n) if labels[m] != labels[a]]
        if strategy == "batch-hard" and positives and negatives:
            p = max(positives, key=lambda p: (d(x, a, p), -p))
            found.append((a, p, min(negatives, key=lambda m: (d(x, a, m), m))))
        for p in positives if strategy != "batch-hard" else []:
            if strategy == "all":
                found += [(a, p, m) for m in negatives]
            elif strategy == "semi-hard":
                farther = [(d(x, a, m), m) for m in negatives if d(x, a, m) > d(x, a, p)]
                found += [(a, p, min(farther)[1])] if farther else []
            elif strategy == "hard":
                found += [(a, p, min((d(x, a, m), m) for m in negatives)[1])] if negatives else []
            else:
                gaps = [(abs(d(x, a, m) - d(x, a, p)), m) for m in negatives]
                found += [(a, p, min(gaps)[1])] if gaps else []
    return found


@pytest.mark.parametrize("integers", [False, True], ids=["random", "many ties"])
@pytest.mark.parametrize("seed", range(5))
def test_close_distance_equals_a_plain_triple_loop(seed, integers):
    x, labels = batch(seed, integers=integers)
    triplets = su.close_distance_triplets(x, labels)
    assert triplets.tolist() == [list(t) for t in loop_close_distance(x, labels)]


def peak_megabytes(function, *arguments):
    """What `function(*arguments)` holds at most, as far as NumPy allocates it."""
    tracemalloc.start()
    try:
        function(*arguments)
        return tracemalloc.get_traced_memory()[1] / 1e6
    finally:
        tracemalloc.stop()


def test_close_distance_of_5000_images_holds_far_less_than_all_its_gaps():
    vectors, labels = np.random.default_rng(0).normal(size=(5000, 256)), np.arange(5000) % 100
    assert peak_megabytes(su.close_distance_triplets, vectors, labels) < 250


def test_retrieval_never_holds_all_distances():
    vectors = np.random.default_rng(0).normal(size=(20_000, 16)).astype(np.float32)
    taken = peak_megabytes(retrieval_metrics, vectors, np.arange(20_000) // 5)
    assert taken < 20_000**2 * 4 / 1e6 / 10


def test_close_distance_crosses_block_boundaries():
    x, labels = batch(0, n=1100, classes=300, dim=3)
    triplets = su.close_distance_triplets(x, labels)
    pairs = sum(m * (m - 1) // 2 for m in np.bincount(labels))
    assert len(triplets) == pairs and triplets[:, 0].max() > 512
    for a, p, n in triplets[::97]:
        gaps = [
            abs(d(x, a, m) - d(x, a, p)) if labels[m] != labels[a] else np.inf for m in range(1100)
        ]
        assert n == np.argmin(gaps)


@pytest.mark.parametrize("integers", [False, True], ids=["random", "many ties"])
@pytest.mark.parametrize("strategy", MINING)
@pytest.mark.parametrize("seed", range(3))
def test_mining_equals_a_plain_loop(strategy, seed, integers):
    x, labels = batch(seed, integers=integers)
    mined = mine_triplets(x, labels, strategy).numpy()
    assert mined.tolist() == [list(t) for t in loop_mine(x, labels, strategy)]


@pytest.mark.parametrize("strategy", MINING)
def test_mining_finds_nothing_in_a_batch_of_one_class(strategy):
    x, _ = batch(0)
    assert len(mine_triplets(x, np.zeros(len(x), int), strategy)) == 0


def test_random_triplets_are_valid_and_reach_every_choice():
    labels = np.array([0, 1, 1, 2, 0, 2, 2, 3])
    triplets = su.random_triplets(labels, 4000, seed=1)
    a, p, n = triplets.T
    assert (labels[a] == labels[p]).all() and (labels[a] != labels[n]).all() and (a != p).all()
    assert set(n) == set(range(8)) and set(a) == set(range(7)), "a lone image is a negative only"
    others = n[a == 3]
    share = np.bincount(others, minlength=8)[[0, 1, 2, 4, 7]] / len(others)
    assert np.abs(share - 0.2).max() < 0.06, "negatives are uniform over the other classes' images"


def test_random_triplets_depend_on_the_seed_alone():
    labels = np.arange(20) % 4
    one, two, other = (su.random_triplets(labels, seed=s) for s in (1, 1, 2))
    assert (one == two).all() and (one != other).any() and one.shape == (20, 3)


@pytest.mark.parametrize("labels", [[0, 0, 0], [0, 1, 2], [], [5]])
def test_no_triplet_is_a_clear_error(labels):
    for select in (
        su.random_triplets,
        lambda y: su.close_distance_triplets(np.zeros((len(y), 2)), y),
    ):
        with pytest.raises(ValueError, match="two classes, one of them with two images"):
            select(np.array(labels, int))


def test_unknown_strategy_names_the_known_ones():
    with pytest.raises(ValueError, match="semi-hard, hard, batch-hard"):
        mine_triplets(np.zeros((4, 2), np.float32), [0, 0, 1, 1], "hardest")


def test_pk_batches_hold_p_classes_of_k_different_images():
    labels = np.repeat(np.arange(10), 7)
    batches = pk_batches(labels, classes=4, images=3, seed=0)
    assert batches.shape == (6, 12)  # 70 images in batches of 12
    for row in batches:
        assert len(set(row)) == 12
        assert sorted(np.bincount(labels[row])[np.unique(labels[row])]) == [3, 3, 3, 3]
    assert (batches == pk_batches(labels, 4, 3, seed=0)).all()
    assert (batches != pk_batches(labels, 4, 3, seed=1)).any()


def test_pk_batches_draw_views_of_the_same_images():
    labels = np.arange(40) % 8
    plain, views = (pk_batches(labels, 4, 3, seed=1, steps=20, views=v) for v in (1, 5))
    assert (views[0] % 40 == plain[0]).all() and plain.max() < 40
    assert set((views // 40).ravel()) == {0, 1, 2, 3, 4}
    assert all(len(set(batch % 40)) == 12 for batch in views)


def test_pk_batches_say_which_numbers_would_work():
    labels = np.repeat(np.arange(5), [9, 6, 3, 3, 1])
    with pytest.raises(ValueError, match=r"2 of 5 have them.*P = 2 or a K of at most 3"):
        pk_batches(labels, classes=4, images=4)
    assert pk_batches(labels, 2, 4).shape == (3, 8) and pk_batches(labels, 4, 3).shape == (
        2,
        12,
    )


# ------------------------------------------------------------------------------------- labels

LABELS = np.arange(24) % 4
POINTS = batch(0)[0]
TAKES_LABELS = {  # and, where it takes one label for each of 24 embeddings, True
    "random_triplets": (su.random_triplets, False),
    "pk_batches": (lambda y: pk_batches(y, 3, 2), False),
    "batch_shape": (batch_shape, False),
    "close_distance_triplets": (lambda y: su.close_distance_triplets(POINTS, y), True),
    "mine_triplets": (lambda y: mine_triplets(POINTS, y).numpy(), True),
    "retrieval_metrics": (lambda y: list(retrieval_metrics(POINTS, y).values()), True),
    "a gallery": (lambda y: list(retrieval_metrics(POINTS, y, POINTS, y).values()), True),
    "IndexBatches": (lambda y: IndexBatches(POINTS, y, lambda e: LABELS[None])[0][1], True),
}
READ_RIGHT = {
    "a column": LABELS[:, None],
    "a list": LABELS.tolist(),
    "whole floats": LABELS.astype(float),
    "bytes": LABELS.astype(np.uint8),
    "words": np.array(["a", "b", "c", "d"])[LABELS],
    "objects": np.array(["a", "b", "c", "d"], object)[LABELS],
}
REFUSED = {
    "one-hot": np.eye(4)[LABELS],
    "fractions": LABELS + 0.5,
    "nan": np.where(LABELS, LABELS, np.nan),
    "huge": LABELS * 1e300,
    "none": None,
    "not all words": np.array([0, "a", None, 1.5], object)[LABELS],
}


@pytest.mark.parametrize("user", TAKES_LABELS)
def test_labels_are_read_right_or_refused_everywhere(user):
    function, counts = TAKES_LABELS[user]
    expected = function(LABELS)
    for kind, labels in READ_RIGHT.items():
        if user == "IndexBatches" and kind in ("words", "objects"):
            with pytest.raises(ValueError, match=r"whole numbers, such as np\.unique"):
                function(labels)
        else:
            np.testing.assert_array_equal(function(labels), expected, err_msg=kind)
    refused = REFUSED | ({"too few": LABELS[:12], "too many": [*LABELS, *LABELS]} if counts else {})
    for labels in refused.values():
        with pytest.raises(ValueError, match="labels of shape"):
            function(labels)


def test_query_and_gallery_labels_are_of_one_kind():
    with pytest.raises(ValueError, match=r"query labels \[0\], gallery labels \['0'\]"):
        retrieval_metrics(POINTS, LABELS, POINTS, LABELS.astype(str))


@pytest.mark.parametrize(
    "sample", [[[0, 24]], [[0, -1]], [[0.0, 1.0]], [0, 1], [[[0, 1]]], np.zeros((2, 3, 4), int)]
)
def test_indices_that_are_none_are_refused(sample):
    with pytest.raises(ValueError, match=r"sample\(0\) .* indices of 24 images"):
        IndexBatches(POINTS, LABELS, lambda epoch: sample)


# ------------------------------------------------------------------------------------- precision


@pytest.mark.parametrize("offset", [0, 100, 1e3, 1e4])
def test_what_embeddings_have_in_common_costs_no_digits(offset):
    """Distances, their gradient and the semi-hard triplets are those of float64."""
    rng = np.random.default_rng(1)
    x = (rng.normal(size=(24, 64)) + offset).astype(np.float32)
    exact = np.square(x[:, None].astype(np.float64) - x).sum(-1)
    weights = rng.normal(size=(24, 24))
    slope = 2 * ((weights + weights.T)[..., None] * (x[:, None].astype(np.float64) - x)).sum(1)
    variable = tf.Variable(x)
    with tf.GradientTape() as tape:
        found = squared_distances(variable)
        total = tf.reduce_sum(found * weights.astype(np.float32))
    np.testing.assert_allclose(found, exact, rtol=1e-5, atol=1e-3)
    np.testing.assert_allclose(tape.gradient(total, variable), slope, rtol=1e-3, atol=1e-2)
    mined = mine_triplets(x, LABELS, "semi-hard").numpy()
    assert mined.tolist() == [list(t) for t in loop_mine(x, LABELS, "semi-hard")]


def test_a_negative_identical_to_the_positive_is_not_farther():
    x = np.random.default_rng(0).normal(size=(24, 64)).astype(np.float32) + 100
    x[12:] = x[:12]  # every image has its like
    labels = np.repeat([0, 1], 12)
    for _, positive, negative in mine_triplets(x, labels, "semi-hard").numpy():
        assert (x[positive] != x[negative]).any()
    d = np.float32([[0, 1, 1, 2], [1, 0, 1, 1], [1, 1, 0, 1], [2, 1, 1, 0]])
    d[0, 2] = np.nextafter(d[0, 1], np.float32(2))  # as far, but for the last digit
    *_, negative, valid = _select(tf.constant(d), tf.constant([0, 0, 1, 1]), "semi-hard")
    assert valid[0, 1] and negative[0, 1] == 3, "the next one is"


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_an_embedding_that_is_not_finite_is_refused(value):
    x = POINTS.copy()
    x[5, 0] = value
    for select in (mine_triplets, su.close_distance_triplets):
        with pytest.raises(ValueError, match="NaN or infinity in an embedding"):
            select(x, LABELS)
