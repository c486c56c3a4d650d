"""The triplet loss, plain and soft, against plain loops."""

import numpy as np
import pytest
from small_models import LABELS, VECTORS, hinge_losses

from workbook.support.tensorflow_start import tf
from workbook.training.losses import TripletLoss
from workbook.training.mining import STRATEGIES, Miner, mine_triplets, squared_distances

UNIT = VECTORS / np.linalg.norm(VECTORS, axis=1, keepdims=True)


def loss_of(x, labels, loss, strategy):
    """The `LossAndLogs` of a batch, and the gradient by its embeddings."""
    variable, labels = tf.Variable(x), tf.constant(labels)
    with tf.GradientTape() as tape:
        distances = squared_distances(variable)
        found = loss(distances, labels, Miner(strategy)(distances, labels))
    return found, tf.convert_to_tensor(tape.gradient(found.loss, variable)).numpy()


def soft_losses(x, strategy, margin, temperature):
    """The soft losses of a batch, by a plain loop."""
    d = ((x[:, None] - x[None]).astype(float) ** 2).sum(-1)
    found = []
    for a, label in enumerate(LABELS):
        positives = [p for p in np.flatnonzero(label == LABELS) if p != a]
        if strategy == "batch-hard":
            positives = [max(positives, key=lambda p: d[a, p])]
        for p in positives:
            excess = d[a, p] - d[a, label != LABELS] + margin
            found.append(temperature * np.logaddexp.reduce([0, *(excess / temperature)]))
    return np.array(found)


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_the_loss_is_the_mean_over_the_mined_triplets(strategy):
    found, _ = loss_of(UNIT, LABELS, TripletLoss(0.3), strategy)
    losses = hinge_losses(UNIT, mine_triplets(UNIT, LABELS, strategy).numpy(), 0.3)
    weight = found.weight.numpy()
    assert weight.sum() == len(losses)
    assert float(found.loss) == pytest.approx(losses.mean(), abs=1e-6)
    assert np.average(found.losses, weights=weight) == pytest.approx(losses.mean(), abs=1e-6)
    assert np.average(found.active, weights=weight) == pytest.approx((losses > 0).mean(), abs=1e-6)


def test_the_mean_over_the_active_triplets_only():
    found, _ = loss_of(UNIT, LABELS, TripletLoss(0.05, active_only=True), "all")
    losses = hinge_losses(UNIT, mine_triplets(UNIT, LABELS, "all").numpy(), 0.05)
    assert 0 < (losses > 0).mean() < 1, "some triplets are active, some are not"
    assert float(found.loss) == pytest.approx(losses[losses > 0].mean(), rel=1e-4)
    logged = np.average(found.losses, weights=found.weight)
    assert logged == pytest.approx(losses.mean(), rel=1e-4)


@pytest.mark.parametrize("temperature", [None, 0.2, 1e-12])
@pytest.mark.parametrize("active_only", [False, True])
def test_a_batch_without_a_triplet_has_no_loss_and_no_slope(active_only, temperature):
    loss = TripletLoss(0.3, temperature, active_only)
    for labels in (0 * LABELS, np.arange(24)):
        found, slope = loss_of(UNIT, labels, loss, "hard")
        assert float(found.loss) == 0 and (slope == 0).all()


@pytest.mark.parametrize("strategy", ["hard", "batch-hard"])
def test_with_a_temperature_all_negatives_count(strategy):
    soft, _ = loss_of(UNIT, LABELS, TripletLoss(0.3, temperature=0.2), strategy)
    expected = soft_losses(UNIT, strategy, 0.3, 0.2).mean()
    assert float(soft.loss) == pytest.approx(expected, rel=1e-4)


@pytest.mark.parametrize("strategy", ["hard", "batch-hard"])
@pytest.mark.parametrize("scale", [1, 10_000])
def test_a_soft_loss_at_a_low_temperature_is_the_plain_one(strategy, scale):
    x = UNIT * np.float32(np.sqrt(scale))
    plain, _ = loss_of(x, LABELS, TripletLoss(0.3 * scale), strategy)
    cold, slope = loss_of(x, LABELS, TripletLoss(0.3 * scale, temperature=1e-6), strategy)
    warm, _ = loss_of(x, LABELS, TripletLoss(0.3 * scale, temperature=0.2 * scale), strategy)
    assert float(cold.loss) == pytest.approx(float(plain.loss), rel=1e-4)
    assert float(plain.loss) < float(warm.loss) and np.isfinite(slope).all()


def test_the_logged_distances_are_plain_ones_also_with_a_temperature():
    plain, _ = loss_of(UNIT, LABELS, TripletLoss(0.3), "hard")
    soft, _ = loss_of(UNIT, LABELS, TripletLoss(0.3, temperature=5.0), "hard")
    for name in ("d_ap", "d_an", "active", "weight"):
        np.testing.assert_array_equal(getattr(soft, name), getattr(plain, name), err_msg=name)


@pytest.mark.parametrize("temperature", [0, -0.1, np.nan, np.inf])
def test_a_temperature_that_is_not_a_number_above_0_is_refused(temperature):
    with pytest.raises(ValueError, match="must be a number above 0, or None for the plain"):
        TripletLoss(temperature=temperature)


@pytest.mark.parametrize("margin", [0, -1, np.nan])
def test_a_margin_that_is_not_above_0_is_refused(margin):
    with pytest.raises(ValueError, match=r"margin=.* must be above 0"):
        TripletLoss(margin)
