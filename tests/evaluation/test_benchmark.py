"""What notebook 6 measures with: the right result, the right calls, memory that is seen."""

import time

import numpy as np

from workbook.evaluation import benchmark


def with_clock(monkeypatch, *readings):
    clock = iter(readings)
    monkeypatch.setattr(benchmark.time, "perf_counter", lambda: next(clock))


def test_timed_gives_seconds_and_result(monkeypatch):
    with_clock(monkeypatch, 5.0, 7.5)
    assert benchmark.timed(lambda a, b: a - b, 7, 4) == (2.5, 3)


def test_the_first_call_does_not_count_and_one_slow_one_does_not_move_the_median(monkeypatch):
    with_clock(monkeypatch, 0, 2, 10, 11, 20, 99)
    calls = []
    assert benchmark.median_seconds(lambda: calls.append(1), 3) == 2
    assert len(calls) == 4


def test_peak_memory_sees_what_is_already_freed():
    with benchmark.PeakMemory() as memory:
        array = np.ones(2**28, np.uint8)  # 0.27 GB
        time.sleep(0.1)
        del array
    assert memory.more > 0.2 and memory.peak > memory.before
