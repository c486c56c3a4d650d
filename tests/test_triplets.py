"""Triplet selection against plain loops that a reader can check by eye."""

import tracemalloc

import numpy as np
import pytest

import siamese_utils as su
from workbook.mining import MINING, mine_triplets, pk_batches
from workbook.retrieval import retrieval_metrics


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
