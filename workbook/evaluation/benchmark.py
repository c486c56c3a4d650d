"""Measure how long something takes and how much memory it needs. Notebook 06 explains it."""

import threading
import time
from collections.abc import Callable
from typing import Any, TypeVar

import numpy as np
import psutil

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
