"""Numbers that go wrong are caught while they go wrong: each fault here is provoked by training."""

import warnings

import keras
import numpy as np
import pytest
import small_run

import siamese_utils as su
from workbook.support.tensorflow_start import tf
from workbook.training import callbacks as training
from workbook.training.batches import IndexBatches, pk_batches
from workbook.training.mined_model import MinedSiameseModel

VECTORS = np.random.default_rng(0).normal(size=(48, 12)).astype("float32")


def dense():
    """Two dense layers: vectors (n, 12) to unit vectors (n, 8)."""
    keras.utils.set_random_seed(0)
    layers = [keras.layers.Dense(32, activation="relu"), keras.layers.Dense(8)]
    return keras.Sequential([keras.Input((12,)), *layers, keras.layers.UnitNormalization()])


def train(images=VECTORS, labels=small_run.LABELS, mining="semi-hard", rate=3e-3, epochs=4):
    """The history of a short training of them under guard."""
    batches = IndexBatches(images, labels, lambda e: pk_batches(labels, 4, 3, (1, e)))
    model = MinedSiameseModel(dense(), margin=0.5, mining=mining)
    model.compile(keras.optimizers.Adam(rate))
    return model.fit(batches, epochs=epochs, verbose=0, callbacks=[training.Guard()]).history


@pytest.mark.fault
@pytest.mark.parametrize("mining", ["semi-hard", "batch-hard"])
def test_a_rate_that_is_far_too_high_stops_with_step_epoch_and_rate(mining):
    with pytest.raises(FloatingPointError, match=r"step 2 of epoch 1, at learning rate 1e\+30: "):
        train(rate=1e30, mining=mining)


@pytest.mark.fault
def test_an_input_that_is_not_finite_stops_the_epoch_that_meets_it():
    """In the step, before the first ReLU swallows it and the loss looks well."""
    model, batches = small_run.build()

    def spoil(epoch, logs):
        if epoch == 2:
            batches.images[:, 5] = np.inf

    callbacks = [training.Guard(), keras.callbacks.LambdaCallback(on_epoch_begin=spoil)]
    with pytest.raises(FloatingPointError, match=r"of epoch 3, .*NaN or infinity in"):
        model.fit(batches, epochs=5, verbose=0, callbacks=callbacks)


@pytest.mark.fault
def test_a_collapse_under_hard_mining_and_a_high_rate_is_reported_once():
    meaningless = np.random.default_rng(3).permutation(small_run.LABELS)
    with pytest.warns(RuntimeWarning, match=r"has collapsed.*Lower the learning rate") as caught:
        history = train(labels=meaningless, mining="batch-hard", rate=0.03, epochs=12)
    assert sum("collapsed" in str(w.message) for w in caught) == 1
    assert abs(history["loss"][-1] - 0.5) < 0.05 and history["d_an"][-1] < 0.05


@pytest.mark.fault
def test_images_without_a_difference_are_reported_whatever_the_loss():
    with pytest.warns(RuntimeWarning, match="has collapsed: after epoch 2 "):
        history = train(images=np.ones_like(VECTORS), epochs=6)
    assert 0 in history["loss"], "semi-hard mining finds no triplet, which looks like perfection"


def test_a_healthy_training_is_left_alone():
    with warnings.catch_warnings():
        warnings.simplefilter("error", RuntimeWarning)
        train()


def spoilt(value):
    images = VECTORS.copy()
    images[5, 3] = value
    return images


@pytest.mark.fault(2)
@pytest.mark.parametrize("eager", [False, True], ids=["compiled", "eager"])
def test_a_step_refuses_an_image_that_is_not_finite_also_without_guard(eager):
    mined, plain = MinedSiameseModel(dense()), su.SiameseModel(dense())
    for model in (mined, plain):
        model.compile("sgd", run_eagerly=eager)
    place = r"step 1 of epoch 1, at learning rate 0\.01: NaN or infinity in an image: look"
    with pytest.raises(FloatingPointError, match=place):
        mined.fit(spoilt(np.nan), small_run.LABELS, batch_size=48, verbose=0)
    triplet = np.split(spoilt(np.inf), 3)
    with pytest.raises(tf.errors.InvalidArgumentError, match="NaN or infinity in an image: look"):
        plain.fit([*triplet], batch_size=16, verbose=0)
    for model in (mined, plain):
        assert all(np.isfinite(w).all() for w in model.get_weights()), "nothing was learned from it"


@pytest.mark.fault
def test_under_xla_which_leaves_the_check_out_guard_stops():
    model = MinedSiameseModel(dense())
    model.compile("sgd", jit_compile=True)
    with pytest.raises(FloatingPointError, match=r"of epoch 1, .*NaN or infinity in"):
        model.fit(
            spoilt(np.nan), small_run.LABELS, batch_size=48, verbose=0, callbacks=[training.Guard()]
        )


@pytest.mark.fault(2)
@pytest.mark.parametrize("labels", [np.zeros(48, int), np.arange(48)], ids=["one class", "single"])
def test_batches_without_a_triplet_are_not_called_a_collapse(labels):
    model = MinedSiameseModel(dense())
    model.compile("sgd")
    usual = VECTORS, small_run.LABELS  # what validation sees does not count
    with pytest.warns(RuntimeWarning, match="no triplet in the batches of epoch 1") as caught:
        model.fit(
            VECTORS,
            labels,
            epochs=3,
            verbose=0,
            callbacks=[training.Guard()],
            validation_data=usual,
        )
    assert sum("collapsed" in str(w.message) or "triplet" in str(w.message) for w in caught) == 1
