"""How long, and how much memory: what notebook 6 measures with."""

import threading
import time

import numpy as np
import psutil


def timed(function, *arguments):
    """(seconds, result) of one call of `function`. Explained in notebook 06, "Time to a target"."""
    begin = time.perf_counter()
    result = function(*arguments)
    return time.perf_counter() - begin, result


def median_seconds(function, times):
    """Median duration of `times` calls of `function()`, after one call that does not count.

    Explained in notebook 06, "What can this machine do at all?".
    """
    function()
    return float(np.median([timed(function)[0] for _ in range(times)]))


class PeakMemory:
    """While it is open, `.peak` is the largest memory of this process so far, in GB.

    `.more` is by how much that exceeds the memory at its start. It looks every 10 ms.
    Explained in notebook 06, "Four ways to train on the same images".
    """

    def __enter__(self):
        self.before = self.peak = psutil.Process().memory_info().rss / 1e9
        self.done = threading.Event()
        self.thread = threading.Thread(target=self.watch)
        self.thread.start()
        return self

    def watch(self):
        while not self.done.wait(0.01):
            self.peak = max(self.peak, psutil.Process().memory_info().rss / 1e9)

    def __exit__(self, *error):
        self.done.set()
        self.thread.join()

    @property
    def more(self):
        return self.peak - self.before
