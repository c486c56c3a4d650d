"""`fuse_batch_norm`: the outputs, gradients and moving averages of Keras's own layer."""

import keras
import numpy as np
import pytest

from workbook.models.batch_norm import fuse_batch_norm
from workbook.support.tensorflow_start import tf

MAPS = np.random.default_rng(0).normal(3, 2, (8, 5, 5, 6)).astype(np.float32)


def build(fused, shape=MAPS.shape[1:], **options):
    keras.utils.set_random_seed(1)
    image = keras.Input(shape)
    normalized = keras.layers.BatchNormalization(momentum=0.8, name="norm", **options)(image)
    model = keras.Model(image, keras.layers.Activation("relu", dtype="float32")(normalized))
    layer = model.get_layer("norm")
    for weight in layer.weights:
        weight.assign(np.random.default_rng(2).uniform(0.5, 2, weight.shape))
    return fuse_batch_norm(model) if fused else model


def train(model, inputs, jit_compile=False):
    """Return outputs and gradients of a step, the moving averages after it, and inference."""
    inputs = tf.constant(inputs)

    @tf.function(jit_compile=jit_compile)
    def step():
        with tf.GradientTape() as tape:
            tape.watch(inputs)
            outputs = model(inputs, training=True)
            loss = tf.reduce_sum(outputs**2 * tf.cast(tf.range(tf.shape(outputs)[-1]), tf.float32))
        return outputs, *tape.gradient(loss, [inputs, *(w.value for w in model.trainable_weights)])

    results = [np.float32(part) for part in step()]
    averages = [weight.numpy() for weight in model.non_trainable_weights]
    return [*results, *averages, np.float32(model(inputs, training=False))]


def fused_operations(model):
    graph = tf.function(lambda x: model(x, training=True)).get_concrete_function(
        tf.TensorSpec((8, *model.input_shape[1:]))
    )
    return [op.type for op in graph.graph.get_operations() if op.type == "FusedBatchNormV3"]


@pytest.mark.parametrize("jit_compile", [False, True])
@pytest.mark.parametrize("options", [{}, {"scale": False}, {"center": False, "epsilon": 0.1}])
def test_it_computes_what_keras_does(options, jit_compile):
    fused = build(True, **options)
    assert fused_operations(fused) == ["FusedBatchNormV3"]
    found, expected = train(fused, MAPS, jit_compile), train(build(False, **options), MAPS)
    assert len(found) == len(expected) >= 5
    for one, other in zip(found, expected):
        np.testing.assert_allclose(one, other, rtol=1e-3, atol=1e-3)


def test_in_bfloat16_its_averages_are_those_of_float32():
    fused = train(build(True, dtype="mixed_bfloat16"), MAPS)
    for one, other in zip(fused[-3:-1], train(build(False), MAPS)[-3:-1]):
        np.testing.assert_allclose(one, other, rtol=0.01)


@pytest.mark.parametrize("case", ["frozen", "vectors", "small epsilon", "synchronized"])
def test_other_layers_stay_as_they_are(case):
    options = {"small epsilon": {"epsilon": 1e-6}, "synchronized": {"synchronized": True}}
    shape = (6,) if case == "vectors" else MAPS.shape[1:]
    models = [build(fused, shape, **options.get(case, {})) for fused in (True, False)]
    for model in models:
        model.get_layer("norm").trainable = case != "frozen"
    assert not fused_operations(models[0])
    inputs = MAPS[:, 0, 0] if case == "vectors" else MAPS
    for one, other in zip(*(train(model, inputs) for model in models)):
        np.testing.assert_array_equal(one, other)


def test_a_saved_model_is_keras_own_again(tmp_path):
    model = build(True)
    model.save(tmp_path / "model.keras")
    loaded = keras.saving.load_model(tmp_path / "model.keras")
    assert not fused_operations(loaded)
    np.testing.assert_array_equal(loaded(MAPS), model(MAPS))
