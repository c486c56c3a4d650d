"""Where TensorFlow and Keras are loaded first: with their fast CPU kernels, without their noise.

Whatever needs them says `from workbook.support.tensorflow_start import keras, tf`, so that no
import can come before.
"""

import contextlib
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator


@contextlib.contextmanager
def _quiet_start() -> Iterator[None]:
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


DRIVER = ("/proc/driver/nvidia", "/dev/nvidia0")  # where a GPU's driver shows itself on Linux


def _what_tensorflow_says() -> str:
    """Why it finds no GPU, in its own words: asked in a process of its own, which is not quiet."""
    ask = "import tensorflow as tf; tf.config.list_physical_devices('GPU')"
    loud = os.environ | {"TF_CPP_MIN_LOG_LEVEL": "0"}
    said = subprocess.run([sys.executable, "-c", ask], env=loud, capture_output=True, text=True)
    reasons = re.findall(r"\] (.*(?:GPU|CUDA).*)", said.stderr)
    return reasons[0] if reasons else "TensorFlow does not say why"


def use_gpus() -> list:
    """The GPUs that TensorFlow can use, each of which then gives memory as it is needed.

    One that is there, but not for TensorFlow, is reported in a line: else all would only be slow.
    """
    gpus = tf.config.list_physical_devices("GPU")
    for gpu in gpus:  # before anything is computed; else the next notebook finds no memory left
        try:
            tf.config.experimental.set_memory_growth(gpu, True)
        except RuntimeError as error:
            print(f"{gpu.name} keeps its memory to itself: import the workbook first ({error})")
    hidden = os.environ.get("CUDA_VISIBLE_DEVICES") in ("", "-1")  # on purpose
    driver = shutil.which("nvidia-smi") or any(map(os.path.exists, DRIVER))
    if driver and not gpus and not hidden:
        remedy = 'pip install "tensorflow[and-cuda]" (on Windows within WSL2)'
        print(f"a GPU is here that TensorFlow cannot use: {_what_tensorflow_says()} Try: {remedy}")
    return gpus


if "ipykernel" in sys.modules and "tensorflow" not in sys.modules:
    print("loading TensorFlow and Keras: about ten seconds", flush=True)
with _quiet_start():
    import keras
    import tensorflow as tf

    GPUS = use_gpus()
# a small folder is embedded in one or two batches by each of many models: TensorFlow takes them for
# one function that is traced again and again, and warns at length
tf.get_logger().addFilter(lambda record: "retracing" not in record.getMessage())

__all__ = ["GPUS", "keras", "tf"]
