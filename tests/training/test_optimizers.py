"""`FusedAdamW` is Keras's AdamW: the same weights, moments and settings.

`models/test_devices.py` trains with it on two devices.
"""

import numpy as np
import pytest

from workbook.support.tensorflow_start import keras, tf
from workbook.training.optimizers import FusedAdamW

SHAPES = ((30, 20), (20,))
OPTIONS = {"weight_decay": 0.1, "beta_1": 0.8, "beta_2": 0.9, "epsilon": 1e-3}


def train(optimizer, steps=40, jit_compile=False):
    """Apply drawn gradients, whose sizes differ by far; return the weights and the moments."""
    rng = np.random.default_rng(0)
    weights = [keras.Variable(np.ones(shape, np.float32)) for shape in SHAPES]

    @tf.function(jit_compile=jit_compile)
    def step(*gradients):
        optimizer.apply(gradients, weights)

    for _ in range(steps):
        drawn = [rng.normal(size=shape) * 10 ** rng.uniform(-4, 1) for shape in SHAPES]
        step(*map(np.float32, drawn))
    return [np.array(variable) for variable in (*weights, *optimizer.variables)]


def schedule():
    return keras.optimizers.schedules.CosineDecay(0.05, 40)


@pytest.mark.parametrize("jit_compile", [False, True])
def test_it_trains_as_keras_does(jit_compile):
    expected = train(keras.optimizers.AdamW(schedule(), **OPTIONS))
    found = train(FusedAdamW(schedule(), **OPTIONS), jit_compile=jit_compile)
    assert np.abs(expected[0] - 1).max() > 0.1, "the weights have moved"
    for one, other in zip(found, expected):
        np.testing.assert_allclose(one, other, rtol=1e-4, atol=1e-6)


def test_without_decay_and_with_weights_that_are_left_out_of_it():
    for decay, left_out in ((0.0, "none"), (0.1, "variable")):
        trained = []
        for kind in (keras.optimizers.AdamW, FusedAdamW):
            optimizer = kind(0.01, weight_decay=decay)
            optimizer.exclude_from_weight_decay(var_names=[left_out])
            trained.append(train(optimizer))
        for one, other in zip(*trained):
            np.testing.assert_allclose(one, other, rtol=1e-4, atol=1e-6)


def test_its_settings_are_those_of_keras_and_it_can_be_made_again_from_them():
    settings = FusedAdamW(0.01, **OPTIONS).get_config()
    plain = keras.optimizers.AdamW(0.01, **OPTIONS).get_config()
    assert settings | {"name": ""} == plain | {"name": ""}
    saved = keras.saving.serialize_keras_object(FusedAdamW(0.01, **OPTIONS))
    again = keras.saving.deserialize_keras_object(saved)
    assert type(again) is FusedAdamW
    assert again.get_config() | {"name": ""} == settings | {"name": ""}


def test_amsgrad_is_refused():
    with pytest.raises(ValueError, match=r"no amsgrad: use keras.optimizers.AdamW"):
        FusedAdamW(0.01, amsgrad=True)
