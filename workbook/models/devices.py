"""One device or several: which strategy TensorFlow uses, and how devices share a batch."""

import os

from workbook.support.tensorflow_start import GPUS, keras, tf


def gather(values):
    """The rows (b, ...) of every device, in one tensor (devices * b, ...); with one device as is.

    Differentiable; every device must have the same number of rows, each its own part of a batch.
    Explained in notebook 06, "More than one device".
    """
    context = tf.distribute.get_replica_context()
    if context is None or context.num_replicas_in_sync == 1:
        return values
    before = context.replica_id_in_sync_group
    after = context.num_replicas_in_sync - 1 - before
    rows = tf.shape(values)[0]
    padding = [[before * rows, after * rows], *[[0, 0]] * (len(values.shape) - 1)]
    return context.all_reduce("SUM", tf.pad(values, padding))


def synchronize_batch_norm(model):
    """With several devices: let each BatchNorm of `model` use the statistics of the whole batch."""
    if tf.distribute.get_strategy().num_replicas_in_sync > 1:
        for layer in model._flatten_layers():
            if isinstance(layer, keras.layers.BatchNormalization):
                layer.synchronized = True
    return model


def choose_strategy(config):
    """Set the precision and return the `tf.distribute` strategy that `config` asks for.

    "one": TensorFlow's default, a single device. "all": `MirroredStrategy` on every GPU of this
    machine, or on its logical CPU devices if it has none. "workers": `MultiWorkerMirroredStrategy`
    on the processes that the variable TF_CONFIG names; every one of them runs the same notebook.
    Models are made within `choose_strategy(config).scope()`. Raises ValueError for "workers" without
    TF_CONFIG. Explained in notebook 06, "More than one device".
    """
    keras.config.set_dtype_policy(config.precision)
    if config.devices == "workers":
        if not os.environ.get("TF_CONFIG"):
            raise ValueError(
                "SIAMESE_DEVICES=workers needs the variable TF_CONFIG, which says where the "
                "workers are: `python -m workbook workers 2` sets it, for two processes here"
            )
        return tf.distribute.MultiWorkerMirroredStrategy()
    if config.devices == "all":
        return tf.distribute.MirroredStrategy(
            tf.config.list_logical_devices("GPU" if GPUS else "CPU")
        )
    return tf.distribute.get_strategy()
