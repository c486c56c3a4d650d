"""Where TensorFlow and Keras are loaded first: with their fast CPU kernels, without their noise.

Whatever needs them says `from workbook.start import keras, tf`, so that no import can come before.
"""

import contextlib
import os
import sys


@contextlib.contextmanager
def _quiet_start():
    """Load TensorFlow with oneDNN's kernels, and without what its C++ side writes to stderr."""
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
    os.environ.setdefault("TF_ENABLE_ONEDNN_OPTS", "1")  # off by default on CPUs without AVX-512
    kept, nowhere = os.dup(2), os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, 2)
    try:
        yield
    finally:
        os.dup2(kept, 2)
        os.close(kept)
        os.close(nowhere)


if "ipykernel" in sys.modules and "tensorflow" not in sys.modules:
    print("loading TensorFlow and Keras: about ten seconds", flush=True)
with _quiet_start():
    import keras
    import tensorflow as tf

    GPUS = tf.config.list_physical_devices("GPU")
# a small folder is embedded in one or two batches by each of many models: TensorFlow takes them for
# one function that is traced again and again, and warns at length
tf.get_logger().addFilter(lambda record: "retracing" not in record.getMessage())

__all__ = ["GPUS", "keras", "tf"]
