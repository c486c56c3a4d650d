"""A training by seconds: which steps count, when it ends, and its learning rate."""

import numpy as np
import pytest

from workbook.support.tensorflow_start import keras
from workbook.training import callbacks
from workbook.training.callbacks import TimeBudget


def fit(monkeypatch, seconds, per_epoch=4, step=1.0):
    """Train with a clock on which every step takes so long; return budget, rates and epochs."""
    clock, rates = iter(np.arange(0, 1000, step)), []
    monkeypatch.setattr(callbacks.time, "process_time", lambda: next(clock))
    model = keras.Sequential([keras.Input((1,)), keras.layers.Dense(1)])
    model.compile(keras.optimizers.AdamW(0.5), loss="mse", run_eagerly=True)
    note = keras.callbacks.LambdaCallback(
        on_train_batch_end=lambda batch, logs: rates.append(float(model.optimizer.learning_rate))
    )
    budget, x = TimeBudget(seconds), np.ones((per_epoch, 1))
    history = model.fit(x, x, 1, epochs=99, verbose=0, callbacks=[budget, note])
    return budget, np.array(rates), len(history.epoch)


def test_it_ends_with_the_step_that_fills_the_budget_and_the_first_one_is_free(monkeypatch):
    budget, rates, epochs = fit(monkeypatch, seconds=10)
    assert (budget.steps, budget.spent, len(rates), epochs) == (11, 10, 11, 3)
    budget, *_ = fit(monkeypatch, seconds=10, step=4.0)
    assert (budget.steps, budget.spent) == (4, 12)


def test_the_rate_rises_for_a_twentieth_of_the_time_and_falls_to_0_as_a_half_cosine(monkeypatch):
    _, rates, _ = fit(monkeypatch, seconds=200)
    share = np.array([0, *range(200)]) / 200  # spent before each step
    falling = 0.5 * (1 + np.cos(np.pi * (share - 0.05) / 0.95)) / 2
    expected = np.where(share < 0.05, 0.5 * share / 0.05, falling)
    np.testing.assert_allclose(rates, expected, atol=0.005)
    assert rates.max() == pytest.approx(0.5, abs=1e-3) and rates[-1] < 1e-3
