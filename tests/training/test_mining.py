"""Mining against plain loops that a reader can check by eye."""

import numpy as np
import pytest
from small_models import LABELS, VECTORS

from workbook.support.tensorflow_start import tf
from workbook.training.mining import (
    STRATEGIES,
    Miner,
    has_triplet,
    mine_triplets,
    soft_minimum,
    squared_distances,
)


def batch(seed, integers=False):
    rng = np.random.default_rng(seed)
    x = rng.integers(0, 3, (24, 6)) if integers else rng.normal(size=(24, 6))
    return x.astype(np.float32), rng.integers(0, 5, 24)


def loop_mine(x, labels, strategy):
    x, n, found = x.astype(np.float64), len(x), []
    d = ((x[:, None] - x) ** 2).sum(-1)
    for a in range(n):
        positives = [p for p in range(n) if p != a and labels[p] == labels[a]]
        negatives = [m for m in range(n) if labels[m] != labels[a]]
        if strategy == "batch-hard" and positives and negatives:
            p = max(positives, key=lambda p: (d[a, p], -p))
            found.append([a, p, min(negatives, key=lambda m: (d[a, m], m))])
        for p in positives if strategy != "batch-hard" else []:
            if strategy == "all":
                found += [[a, p, m] for m in negatives]
            elif strategy == "semi-hard":
                farther = [(d[a, m], m) for m in negatives if d[a, m] > d[a, p]]
                found += [[a, p, min(farther)[1]]] if farther else []
            elif strategy == "hard":
                found += [[a, p, min((d[a, m], m) for m in negatives)[1]]] if negatives else []
            else:
                gaps = [(abs(d[a, m] - d[a, p]), m) for m in negatives]
                found += [[a, p, min(gaps)[1]]] if gaps else []
    return found


@pytest.mark.parametrize("integers", [False, True], ids=["random", "many ties"])
@pytest.mark.parametrize("strategy", STRATEGIES)
@pytest.mark.parametrize("seed", range(3))
def test_mining_equals_a_plain_loop(strategy, seed, integers):
    x, labels = batch(seed, integers=integers)
    assert mine_triplets(x, labels, strategy).numpy().tolist() == loop_mine(x, labels, strategy)


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_mining_finds_nothing_in_a_batch_of_one_class(strategy):
    assert len(mine_triplets(VECTORS, np.zeros(24, int), strategy)) == 0


@pytest.mark.parametrize("strategy", ["hardest", "semi", None])
def test_an_unknown_strategy_names_the_known_ones(strategy):
    with pytest.raises(ValueError, match="is not one of: all, semi-hard, hard, batch-hard"):
        Miner(strategy)


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_an_embedding_that_is_not_finite_is_refused(value):
    x = VECTORS.copy()
    x[5, 0] = value
    with pytest.raises(ValueError, match="an embedding holds NaN or infinity"):
        mine_triplets(x, LABELS)


@pytest.mark.parametrize(
    "labels, expected",
    [([0, 0, 1], True), ([0, 1, 2], False), ([0, 0, 0], False), ([0], False), ([], False)],
)
def test_a_batch_has_a_triplet_if_two_images_share_a_class_that_another_has_not(labels, expected):
    assert bool(has_triplet(tf.constant(labels, tf.int64))) is expected


# ------------------------------------------------------------------------------------- precision


@pytest.mark.parametrize("offset", [0, 100, 1e3, 1e4])
def test_what_embeddings_have_in_common_costs_no_digits(offset):
    """Distances, their gradient and the semi-hard triplets are those of float64."""
    rng = np.random.default_rng(1)
    labels = np.arange(24) % 4
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
    mined = mine_triplets(x, labels, "semi-hard").numpy()
    assert mined.tolist() == loop_mine(x, labels, "semi-hard")


def test_a_negative_identical_to_the_positive_is_not_farther():
    x = np.random.default_rng(0).normal(size=(24, 64)).astype(np.float32) + 100
    x[12:] = x[:12]  # every image has its like
    labels = np.repeat([0, 1], 12)
    for _, positive, negative in mine_triplets(x, labels, "semi-hard").numpy():
        assert (x[positive] != x[negative]).any()


@pytest.mark.parametrize("length", [1, 1000])
def test_embeddings_that_differ_in_their_last_digits_are_equal(length):
    row = np.random.default_rng(0).normal(size=8)
    x = np.tile(np.float32(length * row / np.linalg.norm(row)), (24, 1))
    x[::5] = np.nextafter(x[::5], np.float32(2 * length))
    assert (squared_distances(x).numpy() == 0).all()
    assert len(mine_triplets(x, LABELS, "semi-hard")) == 0


def test_a_negative_that_is_farther_by_the_last_digit_only_is_not_semi_hard():
    d = np.float32([[0, 1, 1, 2], [1, 0, 1, 1], [1, 1, 0, 1], [2, 1, 1, 0]])
    d[0, 2] = np.nextafter(d[0, 1], np.float32(2))
    triplets = Miner("semi-hard")(tf.constant(d), tf.constant([0, 0, 1, 1]))
    assert triplets.valid[0, 1] and triplets.negative[0, 1] == 3, "the next one is"


# ----------------------------------------------------------------------------------- soft minimum


def soft_minimum_of(distances, labels, temperature):
    """The values (b,) and their gradient (b, b)."""
    variable = tf.Variable(np.float32(distances))
    with tf.GradientTape() as tape:
        found = soft_minimum(variable, tf.constant(labels), temperature)
    return found.numpy(), tf.convert_to_tensor(tape.gradient(found, variable)).numpy()


@pytest.mark.parametrize("temperature", [0.05, 1.0, 20.0])
def test_the_soft_minimum_equals_its_formula(temperature):
    x = VECTORS.astype(np.float64)
    d = ((x[:, None] - x) ** 2).sum(-1)
    found, slope = soft_minimum_of(d, LABELS, temperature)
    for a, row in enumerate(d):
        negatives = row[LABELS[a] != LABELS]
        expected = -temperature * np.logaddexp.reduce(-negatives / temperature)
        assert found[a] == pytest.approx(expected, rel=1e-5, abs=1e-5)
        assert found[a] <= negatives.min() + 1e-5
    np.testing.assert_allclose(slope.sum(1), 1, rtol=1e-5)  # the weights of the negatives
    assert (slope[LABELS[:, None] == LABELS] == 0).all() and (slope >= 0).all()


@pytest.mark.parametrize("scale", [1e-6, 1, 10_000, 1e30])
def test_with_a_tiny_temperature_it_is_the_closest_distance_whatever_the_scale(scale):
    d = np.float32([[0, 1, 2, 3], [1, 0, 4, 5], [2, 4, 0, 6], [3, 5, 6, 0]]) * np.float32(scale)
    found, slope = soft_minimum_of(d, [0, 0, 1, 1], 1e-12)
    np.testing.assert_allclose(found, np.float32([2, 4, 2, 3]) * np.float32(scale), rtol=1e-6)
    assert np.isfinite(slope).all()


@pytest.mark.parametrize("labels", [[7, 7, 7], [7]], ids=["one class", "one image"])
@pytest.mark.parametrize("temperature", [1e-12, 0.2])
def test_an_anchor_without_negatives_gives_0_and_a_gradient_of_0(labels, temperature):
    distances = 10_000 * (1 - np.eye(len(labels)))
    found, slope = soft_minimum_of(distances, labels, temperature)
    assert (found == 0).all() and (slope == 0).all()
