"""One device or several: which strategy TensorFlow uses, and how devices share a batch.

Notebook 09, "Several devices, in short", explains it.
"""

import os
import re
import warnings
from pathlib import Path
from typing import Any

from workbook.support.config import Config
from workbook.support.tensorflow_start import GPUS, keras, tf


def gather(values: Any) -> Any:
    """Put the rows of all devices into one tensor; gradients flow back to each device's own rows.

    Parameters
    ----------
    values : (b, ...) tensor; every device must hold the same number of rows.

    Returns
    -------
    (devices * b, ...) tensor, the same on every device; with one device, `values` itself.
    """
    context = tf.distribute.get_replica_context()
    if context is None or context.num_replicas_in_sync == 1:
        return values
    before = context.replica_id_in_sync_group
    after = context.num_replicas_in_sync - 1 - before
    rows = tf.shape(values)[0]
    padding = [[before * rows, after * rows], *[[0, 0]] * (len(values.shape) - 1)]
    return context.all_reduce("SUM", tf.pad(values, padding))


def synchronize_batch_norm(model: keras.Model) -> keras.Model:
    """With several devices, let each BatchNorm use the statistics of the whole batch."""
    if tf.distribute.get_strategy().num_replicas_in_sync > 1:
        for layer in model._flatten_layers():
            if isinstance(layer, keras.layers.BatchNormalization):
                layer.synchronized = True
    return model


CPU_INFO = Path("/proc/cpuinfo")  # where Linux lists what the processor can do


def has_bfloat16() -> bool:
    """Whether the processor has instructions for bfloat16; True where that cannot be read."""
    try:
        return re.search(r"(avx512_|amx_|\b)bf16\b", CPU_INFO.read_text("utf-8")) is not None
    except OSError:
        return True


def choose_strategy(config: Config) -> Any:
    """Set the precision, and return the `tf.distribute` strategy that the settings ask for.

    Build models within `choose_strategy(config).scope()`.

    Parameters
    ----------
    config : `precision` and `devices` are used. "one": TensorFlow's default, a single device.
        "all": `MirroredStrategy` on every GPU of this machine, or on its logical CPU devices if it
        has none. "workers": `MultiWorkerMirroredStrategy` on the processes that the variable
        TF_CONFIG names; every one of them runs the same notebook.

    Raises
    ------
    ValueError : for "workers" without TF_CONFIG.
    """
    keras.config.set_dtype_policy(config.precision)
    if config.precision == "mixed_bfloat16" and not GPUS and not has_bfloat16():
        warnings.warn(
            "PRECISION=mixed_bfloat16: this processor has no instructions for bfloat16, so "
            "PRECISION=float32 is faster here",
            stacklevel=2,
        )
    if config.devices == "workers":
        if not os.environ.get("TF_CONFIG"):
            raise ValueError(
                "SIAMESE_DEVICES=workers needs the variable TF_CONFIG, which says where the "
                "workers are: `python -m workbook workers 2` sets it, for two processes here"
            )
        return tf.distribute.MultiWorkerMirroredStrategy()
    if config.devices == "all":
        devices = tf.config.list_logical_devices("GPU" if GPUS else "CPU")
        return tf.distribute.MirroredStrategy(devices)
    return tf.distribute.get_strategy()
