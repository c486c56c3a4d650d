"""Measure how long something takes and how much memory it needs. Notebook 9 explains it."""

import threading
import time
from collections.abc import Callable, Mapping
from itertools import combinations
from typing import Any, NamedTuple, TypeVar

import numpy as np
import psutil

from workbook.support.tensorflow_start import keras, tf

Result = TypeVar("Result")


def timed(function: Callable[..., Result], *arguments: Any) -> tuple[float, Result]:
    """Call `function(*arguments)` once; return (seconds, its result)."""
    begin = time.perf_counter()
    result = function(*arguments)
    return time.perf_counter() - begin, result


def median_seconds(function: Callable[[], Any], times: int) -> float:
    """Return the median duration of `times` calls, after one call that does not count."""
    function()
    return float(np.median([timed(function)[0] for _ in range(times)]))


class PeakMemory:
    """Watch the memory of this process while the `with` block runs, every 10 ms.

    Attributes
    ----------
    peak : float, the largest memory seen, in GB.
    more : float, by how much that exceeds the memory at the start, in GB.
    """

    def __enter__(self) -> "PeakMemory":
        self.before = self.peak = self.current()
        self.is_done = threading.Event()
        self.thread = threading.Thread(target=self.watch)
        self.thread.start()
        return self

    @staticmethod
    def current() -> float:
        """Return the memory that this process uses now, in GB."""
        return psutil.Process().memory_info().rss / 1e9

    def watch(self) -> None:
        """Note the peak until the block ends."""
        while not self.is_done.wait(0.01):
            self.peak = max(self.peak, self.current())

    def __exit__(self, *error: object) -> None:
        self.is_done.set()
        self.thread.join()

    @property
    def more(self) -> float:
        """By how much the peak exceeds the memory at the start, in GB."""
        return self.peak - self.before


class Speed(NamedTuple):
    """The median duration of a call in seconds, and the process's peak memory in its first call."""

    seconds: float
    peak_gb: float


def measure_by_turns(ways: Mapping[str, Callable[[], Any]], repeats: int) -> dict[str, Speed]:
    """Measure several functions by turns, so that a slow minute of the machine affects all.

    Parameters
    ----------
    ways : name -> function without arguments. Its first call, which compiles, does not count; the
        memory is measured in it. Name the function that needs least memory first, because freed
        memory does not always go back to the system.
    repeats : how many further calls of each are timed; their median counts.
    """
    peaks = {}
    for name, function in ways.items():
        with PeakMemory() as memory:
            function()
        peaks[name] = memory.peak
    medians = _time_rounds(ways, repeats)
    return {name: Speed(medians[name], peaks[name]) for name in ways}


def median_by_turns(ways: Mapping[str, Callable[[], Any]], repeats: int) -> dict[str, float]:
    """Return the median duration of each function, called by turns as in `measure_by_turns`."""
    for function in ways.values():
        function()
    return _time_rounds(ways, repeats)


def _time_rounds(ways: Mapping[str, Callable[[], Any]], repeats: int) -> dict[str, float]:
    """Call all functions in `repeats` rounds; return the median seconds of each."""
    rounds = [[timed(function)[0] for function in ways.values()] for _ in range(repeats)]
    return dict(zip(ways, map(float, np.median(rounds, axis=0))))


def matrix_product(side: int, dtype: str = "float32") -> Callable[[], Any]:
    """Return a function that multiplies two square matrices: 2 * side**3 operations."""
    matrix = tf.cast(tf.random.normal((side, side)), dtype)
    return lambda: tf.matmul(matrix, matrix).numpy()


def measure_machine(side: int, megabytes: int = 64) -> tuple[float, float]:
    """Return how fast this machine multiplies matrices (GFLOP/s) and copies memory (GB/s).

    Parameters
    ----------
    side : of the square float32 matrices. A product costs 2 * side**3 operations.
    megabytes : how much is copied; each byte counts twice, because it is read and written.
    """
    product = median_seconds(matrix_product(side), 5)
    memory = np.ones((2, megabytes * 10**6), np.uint8)
    copy = median_seconds(lambda: np.copyto(memory[1], memory[0]), 5)
    return 2 * side**3 / product / 1e9, memory.nbytes / copy / 1e9


def count_operations(model: keras.Model) -> float:
    """Count the multiplications and additions of one image in convolutions and dense layers.

    A weight of a convolution counts two operations for each place of the layer's output, a weight
    of a dense layer two.
    """
    image = tf.TensorSpec((1, *model.input_shape[1:]))
    graph = tf.function(lambda x: model(x, training=False)).get_concrete_function(image).graph
    total = 0.0
    for operation in graph.get_operations():
        if operation.type in ("Conv2D", "DepthwiseConv2dNative", "MatMul"):
            places = np.prod(operation.outputs[0].shape[1:-1])
            total += 2 * np.prod(operation.inputs[1].shape) * places
    return total


def plain_close_distance(embeddings: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """Choose close-distance triplets as one writes the rule down first, with three nested loops.

    Parameters and result are those of `siamese_utils.close_distance_triplets`.
    """
    triplets = []
    for a, p in combinations(range(len(embeddings)), 2):
        if labels[a] == labels[p]:
            d_ap = np.sum((embeddings[a] - embeddings[p]) ** 2)
            closest, smallest = -1, float("inf")
            for n in np.flatnonzero(labels != labels[a]):
                gap = abs(np.sum((embeddings[a] - embeddings[n]) ** 2) - d_ap)
                if gap < smallest:
                    closest, smallest = int(n), float(gap)
            triplets.append((a, p, closest))
    return np.array(triplets)
