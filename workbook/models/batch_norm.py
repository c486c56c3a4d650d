"""Batch normalisation of feature maps in one operation, in training."""

from functools import partial
from typing import Any

from workbook.support.tensorflow_start import keras, tf

LEAST_EPSILON = 1e-5  # the operation's, on a GPU


def fuse_batch_norm(model: keras.Model) -> keras.Model:
    """Let BatchNorm layers on feature maps normalise with TensorFlow's single operation for it.

    Keras's layer computes the same from about ten operations, each of which reads or writes the
    whole feature map, and in mixed precision it does so in float32. The results agree, apart from
    rounding. What is saved of the model does not change. Layers that are frozen, masked or
    synchronised between devices, and inference, stay with Keras's own computation.

    Parameters
    ----------
    model : it is changed in place, and returned.

    References
    ----------
    Ioffe and Szegedy (2015), algorithm 1.
    """
    for layer in model._flatten_layers():
        kind = type(layer) is keras.layers.BatchNormalization
        if kind and layer.epsilon >= LEAST_EPSILON and not layer.synchronized:
            layer.call = partial(_normalize, layer)
    return model


def _normalize(
    layer: keras.layers.BatchNormalization,
    inputs: Any,
    training: bool | None = None,
    mask: Any = None,
) -> Any:
    """Return the normalised inputs (b, h, w, channels); in training, update the moving averages."""
    is_map = len(inputs.shape) == 4 and layer.axis in (-1, 3)
    if not (training and layer.trainable and is_map and mask is None):
        return type(layer).call(layer, inputs, training=training, mask=mask)
    channels, empty = inputs.shape[-1], tf.constant([], tf.float32)
    result = tf.raw_ops.FusedBatchNormV3(
        x=inputs,
        scale=tf.cast(layer.gamma, tf.float32) if layer.scale else tf.ones(channels),
        offset=tf.cast(layer.beta, tf.float32) if layer.center else tf.zeros(channels),
        mean=empty,
        variance=empty,
        epsilon=layer.epsilon,
        is_training=True,
    )
    count = tf.cast(tf.size(inputs) // channels, tf.float32)
    variance = result.batch_variance * tf.maximum(count - 1, 1) / count  # Keras divides by count
    averages = ((layer.moving_mean, result.batch_mean), (layer.moving_variance, variance))
    for average, now in averages:
        average.assign(average * layer.momentum + now * (1 - layer.momentum))
    return result.y
