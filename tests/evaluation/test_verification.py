"""Intervals, pairs, and verification by one threshold, against plain loops and known cases."""

import numpy as np
import pytest

from workbook.evaluation import retrieval
from workbook.evaluation.retrieval import bootstrap_interval, retrieval_metrics
from workbook.evaluation.verification import pair_distances, verification


def test_bootstrap_interval_is_seeded_and_near_the_normal_one():
    values = np.random.default_rng(0).random(400)
    low, high = bootstrap_interval(values, seed=1)
    half = 1.96 * values.std(ddof=1) / 20
    assert (low, high) == pytest.approx((values.mean() - half, values.mean() + half), abs=2e-3)
    assert bootstrap_interval(values, seed=1) == (low, high)
    assert bootstrap_interval(np.ones(900)) == (1, 1)


def test_bootstrap_interval_takes_per_query_measures():
    x, labels = np.random.default_rng(0).normal(size=(40, 3)), np.arange(40) % 4
    values = retrieval_metrics(x, labels, per_query=True)["map@r"]
    low, high = bootstrap_interval(values)
    assert 0 <= low < values.mean() < high <= 1


@pytest.mark.parametrize("with_groups", [False, True])
def test_bootstrap_interval_equals_a_plain_loop(monkeypatch, with_groups):
    monkeypatch.setattr(retrieval, "RESAMPLES", 300)
    rng = np.random.default_rng(3)
    groups = rng.integers(10, 17, 50) if with_groups else np.arange(50)
    values = rng.random(50) + 0.1 * groups
    rows = [values[groups == group] for group in np.unique(groups)]
    draws, means = np.random.default_rng(5), []
    for _ in range(300):  # each time as many whole groups as there are, with replacement
        drawn = [rows[i] for i in draws.integers(len(rows), size=len(rows))]
        means.append(np.mean(np.concatenate(drawn)))
    expected = np.percentile(means, [2.5, 97.5])
    found = bootstrap_interval(values, groups if with_groups else None, seed=5)
    assert found == pytest.approx(tuple(expected))


def test_queries_of_one_class_that_agree_widen_the_interval():
    """Ten classes of 30 queries each, either all right or all wrong: ten observations, not 300."""
    values, groups = np.repeat([0.0, 1] * 5, 30), np.repeat(np.arange(10), 30)
    low, high = bootstrap_interval(values)
    wide = bootstrap_interval(values, groups)
    assert high - low == pytest.approx(2 * 1.96 * 0.5 / 300**0.5, rel=0.1)
    assert wide == pytest.approx((0.2, 0.8), abs=0.01)  # binomial: 2 to 8 of 10 in 95 %
    assert wide == bootstrap_interval(values, [f"class {group}" for group in groups])


@pytest.mark.parametrize(
    ("values", "groups", "says"),
    [
        ([0.5], None, "at least two finite"),
        ([0.5, np.nan], None, "at least two finite"),
        ([[0.5, 1.0]], None, "at least two finite"),
        ([0.5, 1.0], [1, 1], "all values are of the group 1: two groups"),
        ([0.5, 1.0], [1, 2, 3], r"\(2,\)"),
        ([0.5, 1.0], [1, np.nan], "labels"),
    ],
)
def test_bootstrap_interval_names_what_it_needs(values, groups, says):
    with pytest.raises(ValueError, match=says):
        bootstrap_interval(values, groups)


def test_pairs_are_of_the_kind_they_say():
    labels = np.repeat(np.arange(5), 6)
    x = 10.0 ** labels[:, None] + np.tile(np.arange(6), 5)[:, None] / 10
    distances, same = pair_distances(x, labels, count=200)
    assert distances.shape == same.shape == (400,) and same.sum() == 200
    assert distances.dtype == np.float32 and same.dtype == bool
    assert distances[same].min() > 0 and distances[same].max() < 1 < distances[~same].min()
    assert (pair_distances(x, labels, count=200)[0] == distances).all()
    with pytest.raises(ValueError, match="no triplet"):
        pair_distances(x, np.zeros(30))


def test_separable_and_random_pairs():
    same = np.arange(4000) < 2000
    apart = np.where(same, 0.1, 1.0) + np.random.default_rng(0).random(4000) / 10
    result = verification((apart, same), (apart, same))
    threshold = result.pop("threshold")
    assert apart[same].max() <= threshold < apart[~same].min()
    assert result == {
        "auc": 1, "eer": 0, "tar@far=0.01": 1, "tar@far=0.001": 1, "accuracy": 1
    }  # fmt: skip
    mixed = np.random.default_rng(1).random(4000)
    result = verification((mixed, same), (mixed[::-1], same))
    for name, expected in (("auc", 0.5), ("eer", 0.5), ("accuracy", 0.5), ("tar@far=0.01", 0.01)):
        assert result[name] == pytest.approx(expected, abs=0.03), name


def loop_verification(validation, test):
    def rates(distances, same, limit):
        accepted = [d <= limit for d in distances]
        tar = sum(a for a, s in zip(accepted, same) if s) / sum(same)
        far = sum(a for a, s in zip(accepted, same) if not s) / (len(same) - sum(same))
        return far, tar

    balanced = {d: 1 - far + tar for d in validation[0] for far, tar in [rates(*validation, d)]}
    best = max(balanced.values())
    threshold = min(d for d in balanced if balanced[d] > best - 1e-9)  # of equals the smallest
    points = [(0, 0)] + [rates(*test, d) for d in sorted(test[0])]
    wins = [
        (d < e) + (d == e) / 2
        for d, s in zip(*test) if s for e, t in zip(*test) if not t
    ]  # fmt: skip
    return {
        "auc": sum(wins) / len(wins),
        "tar@far=0.01": max(tar for far, tar in points if far <= 0.01),
        "tar@far=0.001": max(tar for far, tar in points if far <= 0.001),
        "threshold": threshold,
        "accuracy": sum((d <= threshold) == s for d, s in zip(*test)) / len(test[1]),
    }


@pytest.mark.parametrize("seed", range(4))
def test_verification_equals_a_plain_loop(seed):
    rng = np.random.default_rng(seed)
    pairs = []
    for n in (60, 80):
        same = rng.random(n) < 0.4
        pairs.append((np.round(rng.random(n) + 0.4 * ~same, 1 if seed % 2 else 6), same))
    found, expected = verification(*pairs), loop_verification(*pairs)
    for name, value in expected.items():
        assert found[name] == pytest.approx(value, abs=1e-9), name


def test_verification_by_hand():
    distances = np.array([1.0, 2, 4, 6, 3, 5, 7, 8])  # ascending: s s d s d s d d
    same = np.arange(8) < 4
    result = verification((distances, same), (distances, same))
    assert result["auc"] == (4 + 4 + 3 + 2) / 16
    assert result["eer"] == 0.25  # up to 4: one of four different accepted, one of four same not
    assert result["tar@far=0.01"] == result["tar@far=0.001"] == 0.5
    assert result["threshold"] == 2  # as good as 4 and 6; the smallest is taken
    assert result["accuracy"] == 0.75


def test_threshold_comes_from_validation_only():
    same = np.array([True, True, False, False])
    validation, test = np.array([1.0, 2, 3, 4]), np.array([10.0, 20, 30, 40])
    result = verification((validation, same), (test, same))
    assert result["threshold"] == 2 and result["auc"] == 1
    assert result["accuracy"] == 0.5, "at 2 no test pair is accepted"


def test_missing_kinds_of_pairs_are_named():
    good = np.array([1.0, 2]), np.array([True, False])
    with pytest.raises(ValueError, match=r"validation: .*2 pairs of the kinds \[1\]"):
        verification((good[0], np.array([True, True])), good)
    for distances in (np.zeros(3), good[0][:, None]):  # a column would be compared with each of all
        with pytest.raises(ValueError, match=r"test: distances of shape \((3|2, 1)"):
            verification(good, (distances, good[1]))
    column = good[0], good[1][:, None]
    assert verification(column, column) == verification(good, good)


def test_pairs_take_one_label_an_embedding():
    x, labels = np.random.default_rng(0).normal(size=(12, 2)), np.arange(12) % 3
    found, expected = (pair_distances(x, y, 50)[0] for y in (labels[:, None], labels))
    assert (found == expected).all()
    for bad in (np.eye(3)[labels], labels[:6], np.tile(labels, 2)):
        with pytest.raises(ValueError, match=r"labels of shape .*\(12,\)"):
            pair_distances(x, bad)


@pytest.mark.parametrize("labels", [[0, 0, np.nan], ["a", "a", np.nan], [0, 0, None]])
def test_a_missing_label_is_refused(labels):
    """NaN is unequal to itself and would be a class, "nan" as a word."""
    x = np.eye(3)
    calls = [
        lambda: pair_distances(x, labels, 5),
        lambda: retrieval_metrics(x, labels),
        lambda: retrieval_metrics(x, [0, 0, 1], x, labels),
        lambda: bootstrap_interval([0, 1, 1], labels),
    ]
    for call in calls:
        with pytest.raises(ValueError, match="label"):
            call()


def test_embeddings_and_distances_with_nan_are_refused():
    x = np.array([[0, 1], [1, np.nan], [2, 2.0]])
    with pytest.raises(ValueError, match="an embedding holds NaN"):
        pair_distances(x, [0, 0, 1])
    with pytest.raises(ValueError, match="test: a distance is NaN"):
        verification(([1, 2], [True, False]), ([1, np.nan], [True, False]))
