"""Numbers that go wrong are caught while they go wrong: each fault here is provoked by training."""

import warnings

import keras
import numpy as np
import pytest
import small_run

import siamese_utils as su
from workbook.training.batches import IndexBatches, pk_batches
from workbook.training.callbacks import Guard
from workbook.training.losses import TripletLoss
from workbook.training.mined_model import MinedSiameseModel

LABELS = small_run.LABELS
VECTORS = np.random.default_rng(0).normal(size=(48, 12)).astype("float32")


def dense():
    """Two dense layers: vectors (n, 12) to unit vectors (n, 8)."""
    keras.utils.set_random_seed(0)
    layers = [keras.layers.Dense(32, activation="relu"), keras.layers.Dense(8)]
    return keras.Sequential([keras.Input((12,)), *layers, keras.layers.UnitNormalization()])


def train(images=VECTORS, labels=LABELS, miner="semi-hard", rate=3e-3, epochs=4, loss=None):
    """The history of a short training of them under guard."""
    batches = IndexBatches(images, labels, lambda e: pk_batches(labels, 4, 3, (1, e)))
    model = MinedSiameseModel(dense(), loss, miner)
    model.compile(keras.optimizers.Adam(rate))
    return model.fit(batches, epochs=epochs, verbose=0, callbacks=[Guard()]).history


@pytest.mark.parametrize("miner", ["semi-hard", "batch-hard"])
def test_a_rate_that_is_far_too_high_stops_with_step_epoch_and_rate(miner):
    with pytest.raises(FloatingPointError, match=r"step 2 of epoch 1, at learning rate 1e\+30: "):
        train(rate=1e30, miner=miner)


def test_an_input_that_is_not_finite_stops_the_epoch_that_meets_it():
    """In the step, before the first ReLU swallows it and the loss looks well."""
    model, batches = small_run.rebuild()

    def spoil(epoch, logs):
        if epoch == 2:
            batches.images[:, 5] = np.inf

    callbacks = [Guard(), keras.callbacks.LambdaCallback(on_epoch_begin=spoil)]
    with pytest.raises(FloatingPointError, match=r"of epoch 3, .*NaN or infinity in"):
        model.fit(batches, epochs=5, verbose=0, callbacks=callbacks)


def test_a_collapse_under_hard_mining_and_a_high_rate_is_reported_once():
    meaningless = np.random.default_rng(3).permutation(LABELS)
    with pytest.warns(RuntimeWarning, match=r"has collapsed.*Lower the learning rate") as caught:
        history = train(labels=meaningless, miner="batch-hard", rate=0.03, epochs=12)
    assert sum("collapsed" in str(w.message) for w in caught) == 1
    assert abs(history["loss"][-1] - 0.5) < 0.05 and history["d_an"][-1] < 0.05


def test_images_without_a_difference_are_reported_whatever_the_loss():
    with pytest.warns(RuntimeWarning, match="has collapsed: after epoch 2 "):
        history = train(images=np.ones_like(VECTORS), epochs=6)
    assert 0 in history["loss"], "semi-hard mining finds no triplet, which looks like perfection"


@pytest.fixture
def no_runtime_warning():
    with warnings.catch_warnings():
        warnings.simplefilter("error", RuntimeWarning)
        yield


@pytest.mark.usefixtures("no_runtime_warning")
def test_a_healthy_training_is_left_alone():
    train()


@pytest.mark.usefixtures("no_runtime_warning")
@pytest.mark.parametrize("temperature", [0.5, 2.0])
def test_separated_classes_are_no_collapse_however_high_the_temperature(temperature):
    """Two classes at squared distance 4; a soft minimum over 24 negatives is lower by T log 24."""
    labels = np.repeat([0, 1], 24)
    ends = np.zeros((48, 4), np.float32)
    ends[:, 0] = 2 * labels - 1
    tail = keras.Sequential([
        keras.Input((4,)),
        keras.layers.Dense(4, kernel_initializer="identity", use_bias=False),
        keras.layers.UnitNormalization(),
    ])  # fmt: skip
    model = MinedSiameseModel(tail, TripletLoss(1.0, temperature), "hard")
    model.compile("sgd")
    fitted = model.fit(ends, labels, batch_size=48, epochs=3, verbose=0, callbacks=[Guard()])
    assert fitted.history["d_ap"][-1] < 0.01 and fitted.history["d_an"][-1] > 3.9


def spoilt(value):
    images = VECTORS.copy()
    images[5, 3] = value
    return images


@pytest.mark.parametrize("eager", [False, True], ids=["compiled", "eager"])
def test_a_mined_step_refuses_an_image_that_is_not_finite_also_without_guard(eager):
    model = MinedSiameseModel(dense())
    model.compile("sgd", run_eagerly=eager)
    place = r"step 1 of epoch 1, at learning rate 0\.01: NaN or infinity in an image: look"
    with pytest.raises(FloatingPointError, match=place):
        model.fit(spoilt(np.nan), LABELS, batch_size=48, verbose=0)
    assert all(np.isfinite(w).all() for w in model.get_weights()), "nothing was learned from it"


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_guard_stops_a_plain_siamese_model_after_the_first_bad_step(value):
    model, steps = su.SiameseModel(dense()), []
    model.compile("sgd", run_eagerly=True)
    count = keras.callbacks.LambdaCallback(on_train_batch_end=lambda *_, **__: steps.append(1))
    triplets = np.split(spoilt(value), 3)
    with pytest.raises(FloatingPointError, match=r"step 1 of epoch 1, .*loss nan.*Lower the rate"):
        model.fit(triplets, batch_size=8, verbose=0, shuffle=False, callbacks=[Guard(), count])
    assert not steps, "what comes after Guard is not called any more"


def test_under_xla_which_leaves_the_check_out_guard_stops():
    model = MinedSiameseModel(dense())
    model.compile("sgd", jit_compile=True)
    with pytest.raises(FloatingPointError, match=r"of epoch 1, .*NaN or infinity in"):
        model.fit(spoilt(np.nan), LABELS, batch_size=48, verbose=0, callbacks=[Guard()])


@pytest.mark.parametrize("labels", [np.zeros(48, int), np.arange(48)], ids=["one class", "single"])
def test_batches_without_a_triplet_are_not_called_a_collapse(labels):
    model = MinedSiameseModel(dense())
    model.compile("sgd")
    options = {"validation_data": (VECTORS, LABELS)}  # what validation sees does not count
    with pytest.warns(RuntimeWarning, match="no batch of epoch 1 held a triplet") as caught:
        model.fit(VECTORS, labels, epochs=3, verbose=0, callbacks=[Guard()], **options)
    assert sum("collapsed" in str(w.message) or "triplet" in str(w.message) for w in caught) == 1
