"""What must hold for any batch: mining and measures on batches that hypothesis draws."""

import numpy as np
import pytest
from evaluation.test_retrieval import loop_metrics
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import siamese_utils as su
from workbook.evaluation.retrieval import retrieval_metrics
from workbook.training.mining import STRATEGIES, mine_triplets

settings.register_profile(
    "steady",  # the same examples each time, no time limit: a slow machine is no failure
    derandomize=True,
    deadline=None,
    database=None,
    max_examples=30,
    suppress_health_check=[HealthCheck.too_slow],
)
settings.load_profile("steady")
KS = (1, 2)


@st.composite
def batches(draw, ties=False):
    """(points, labels, order): up to 12 points in two dimensions, their classes, a permutation.

    Without ties the points are different powers of 2 on a line: for each anchor no two distances
    are equal, nor the differences of two, and all of them are exact in float32.
    """
    size = draw(st.integers(4, 12))
    labels = draw(st.lists(st.integers(0, 3), min_size=size, max_size=size))
    if ties:
        points = draw(st.lists(st.tuples(*[st.integers(0, 2)] * 2), min_size=size, max_size=size))
    else:
        points = [(2**e, 0) for e in draw(st.permutations(range(12)))[:size]]
    order = draw(st.permutations(range(size)))
    return np.array(points, np.float32), np.array(labels), np.array(order)


def as_set(triplets):
    return {tuple(map(int, t)) for t in np.asarray(triplets)}


def is_valid(triplets, labels):
    a, p, n = np.reshape(triplets, (-1, 3)).T
    return (a != p).all() and (labels[a] == labels[p]).all() and (labels[a] != labels[n]).all()


def has_triplet(labels):
    counts = np.unique_counts(labels).counts
    return len(counts) > 1 and counts.max() > 1


@pytest.mark.parametrize("strategy", STRATEGIES)
@given(batch=batches())
def test_permuting_a_batch_permutes_the_mined_triplets(strategy, batch):
    points, labels, order = batch
    mined = mine_triplets(points, labels, strategy)
    permuted = mine_triplets(points[order], labels[order], strategy).numpy()
    assert as_set(order[permuted]) == as_set(mined) and len(permuted) == len(mined)


@pytest.mark.parametrize("strategy", STRATEGIES)
@given(batch=batches(ties=True))
def test_a_mined_triplet_is_never_wrong_and_never_twice(strategy, batch):
    points, labels, _ = batch
    mined = mine_triplets(points, labels, strategy).numpy()
    assert is_valid(mined, labels) and len(as_set(mined)) == len(mined)
    if strategy != "semi-hard":  # which alone may find none where there are some
        assert (len(mined) > 0) == has_triplet(labels)


@given(batch=batches(ties=True), seed=st.integers(0, 2**32))
def test_a_random_triplet_is_never_wrong(batch, seed):
    _, labels, _ = batch
    if not has_triplet(labels):
        with pytest.raises(ValueError, match="two classes"):
            su.random_triplets(labels, seed=seed)
    else:
        triplets = su.random_triplets(labels, 30, seed)
        assert is_valid(triplets, labels) and triplets.shape == (30, 3)


@given(batch=batches(ties=True))
def test_a_close_distance_triplet_is_never_wrong(batch):
    points, labels, _ = batch
    if not has_triplet(labels):
        with pytest.raises(ValueError, match="two classes"):
            su.close_distance_triplets(points, labels)
    else:
        triplets = su.close_distance_triplets(points, labels)
        counts = np.unique_counts(labels).counts
        assert is_valid(triplets, labels) and len(triplets) == (counts * (counts - 1) // 2).sum()


@given(batch=batches())
def test_permuting_the_images_permutes_the_close_distance_triplets(batch):
    points, labels, _ = batch
    if has_triplet(labels):
        # a pair is taken from its first image, so only an order within which pairs keep theirs
        order = np.argsort(labels, kind="stable")
        permuted = su.close_distance_triplets(points[order], labels[order])
        assert as_set(order[permuted]) == as_set(su.close_distance_triplets(points, labels))


def answered(function, *data):
    """What `function` gives, or the message of its ValueError."""
    try:
        return function(*data)
    except ValueError as error:
        return str(error)


@pytest.mark.parametrize("split", [None, 3], ids=["leave-one-out", "gallery"])
@given(batch=batches())
def test_permuting_the_images_leaves_the_measures_alone(split, batch):
    points, labels, order = batch

    def measures(order):
        if split is None:
            return retrieval_metrics(points[order], labels[order], ks=KS)
        query, gallery = (part for part in (order[order < split], order[order >= split]))
        return retrieval_metrics(
            points[query], labels[query], points[gallery], labels[gallery], ks=(1,)
        )

    one, two = answered(measures, np.arange(len(labels))), answered(measures, order)
    assert one == (two if isinstance(two, str) else pytest.approx(two, abs=1e-12))


@pytest.mark.parametrize("ties", [False, True], ids=["no ties", "ties"])
@given(data=st.data())
def test_the_measures_equal_a_plain_loop(ties, data):
    points, labels, _ = data.draw(batches(ties=ties))
    found = answered(lambda: retrieval_metrics(points, labels, ks=KS))
    if isinstance(found, str):
        assert len(np.unique(labels)) == len(labels), found
    else:
        assert found == pytest.approx(loop_metrics(points, labels, points, labels, KS, True))
