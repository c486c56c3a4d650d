"""One-shot trials: distances, answers, views and intervals."""

import numpy as np
import pytest

from workbook.data.omniglot import Trials
from workbook.evaluation.one_shot import (
    are_correct,
    embed_pixels,
    embed_trials,
    run_interval,
    trial_distances,
)
from workbook.evaluation.retrieval import bootstrap_interval
from workbook.support.tensorflow_start import keras

RNG = np.random.default_rng(0)


@pytest.fixture
def trials():
    support = RNG.integers(0, 256, (3, 20, 4, 4, 1), np.uint8)
    answers = RNG.permuted(np.tile(np.arange(20), (3, 1)), axis=1)
    return Trials(support, np.take_along_axis(support, answers[..., None, None, None], 1), answers)


def test_distances_are_those_of_a_double_loop():
    queries, support = RNG.normal(size=(2, 3, 5, 7))
    found = trial_distances((queries, support))
    assert found.shape == (3, 5, 5)
    for run in range(3):
        for i in range(5):
            for j in range(5):
                expected = np.sum((queries[run, i] - support[run, j]) ** 2)
                assert found[run, i, j] == pytest.approx(expected)


def test_equal_images_are_all_answered(trials):
    distances = trial_distances(embed_pixels(trials))
    assert are_correct(distances, trials.answers).all()
    wrong = (trials.answers + 1) % 20
    assert not are_correct(distances, wrong).any()


def test_pixels_are_scaled_to_one(trials):
    queries, support = embed_pixels(trials)
    assert queries.shape == support.shape == (3, 20, 16)
    assert queries[1, 2, 5] == pytest.approx(trials.queries[1, 2, 1, 1, 0] / 255)


def test_views_are_averaged(trials):
    """With a view that adds k in its k-th call, the mean over 3 views adds (0 + 1 + 2) / 3."""

    class Adder:
        calls = 0

        def __call__(self, images, training):
            assert training
            self.calls += 1
            return images + self.calls

    model = keras.Sequential([keras.Input((4, 4, 1)), keras.layers.Flatten()])
    plain = embed_trials(model, trials)
    for with_views, without in zip(embed_trials(model, trials, Adder(), views=3), plain):
        np.testing.assert_allclose(with_views, without + 1, rtol=1e-5)
    np.testing.assert_array_equal(plain[0], trials.queries.reshape(3, 20, 16))


def test_the_interval_draws_whole_runs():
    correct = np.repeat(np.arange(20) < 12, 20).reshape(20, 20)  # runs succeed or fail as a whole
    low, high = run_interval(correct)
    assert low < 0.6 < high
    single = bootstrap_interval(correct.ravel())
    assert high - low > 2 * (single[1] - single[0])
    assert (low, high) == pytest.approx(bootstrap_interval(correct.mean(axis=1)), abs=0.02)
